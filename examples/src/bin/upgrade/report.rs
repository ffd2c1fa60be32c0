//! What the demo prints: a line per step, then the verdicts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use heirloom_examples::load::Counts;

use crate::heirloom::Answer;

/// The load's counts at one moment.
#[derive(Clone, Copy, Default)]
struct Mark {
    acknowledged: u64,
    deferred: u64,
    cut: u64,
    failed: u64,
}

impl Mark {
    fn of(counts: &Counts) -> Self {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        Mark {
            acknowledged: read(&counts.acknowledged),
            deferred: read(&counts.deferred),
            cut: read(&counts.cut),
            failed: read(&counts.failed),
        }
    }
}

/// Prints steps as they end and remembers verdicts.
#[derive(Default)]
pub(crate) struct Report {
    mark: Mark,
    all_well: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        println!(
            "\n{:<34} {:>4}  {:<6} {:>9} {:>8} {:>5} {:>6} {:>11} {:>12}",
            "step, and the load during it",
            "gen",
            "owner",
            "requests",
            "deferred",
            "cut",
            "failed",
            "longest",
            "blackout"
        );
        Report { mark: Mark::default(), all_well: true }
    }

    /// One step and the load since the one before. `answer` is what the sidecar says of the switch.
    pub(crate) fn step(&mut self, title: &str, version: &str, answer: Option<&Answer>, counts: &Counts) {
        let now = Mark::of(counts);
        let was = std::mem::replace(&mut self.mark, now);
        let generation = answer.and_then(|a| a.number("generation")).map_or("".into(), |g| g.to_string());
        let blackout = answer.map_or("".into(), |a| match (a.number("blackout_us"), a.number("gate_closed_us")) {
            (Some(us), _) => format!("{us} µs"),
            (None, Some(us)) => format!("(gate {us} µs)"),
            (None, None) => "–".into(),
        });
        println!(
            "{title:<34} {generation:>4}  {version:<6} {:>9} {:>8} {:>5} {:>6} {:>11} {blackout:>12}",
            now.acknowledged - was.acknowledged,
            now.deferred - was.deferred,
            now.cut - was.cut,
            now.failed - was.failed,
            milliseconds(counts.take_longest()),
        );
    }

    /// A sentence that must hold.
    pub(crate) fn verdict(&mut self, holds: bool, sentence: &str) {
        self.all_well &= holds;
        println!("  {} {sentence}", if holds { "✔" } else { "✘" });
    }

    /// Whether every sentence held.
    pub(crate) fn all_well(&self) -> bool {
        self.all_well
    }
}

pub(crate) fn milliseconds(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1e3)
}

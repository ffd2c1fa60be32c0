//! Showing a switch while it runs: live on a terminal, by lines elsewhere, one object per event with `-o jsonl`.

use std::time::Duration;

use heirloom_proto::v1::HandoverEvent;
use heirloom_proto::v1::handover_record::{Outcome as Decided, Phase};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::print::{Printer, counts, table};
use crate::args::Output;
use crate::output::time::micros;
use crate::output::{Handover, Instance, Outcome};

/// The phases that have a line of their own. Seal and commit belong to the moment of the freeze.
const LINES: [(Phase, &str, &str); 4] = [
    (Phase::Prepare, "prepare", "prepare"),
    (Phase::Precopy, "precopy", "pre-copy"),
    (Phase::Flush, "flush", "flush"),
    (Phase::Freeze, "freeze", "freeze"),
];

/// Whoever looks on.
pub(crate) struct View {
    printer: Printer,
    live: Option<Live>,
    has_header: bool,
    /// Lines done.
    done: usize,
    dirty_max: u64,
}

struct Live {
    all: MultiProgress,
    line: Option<ProgressBar>,
}

impl View {
    pub(crate) fn new(printer: Printer) -> Self {
        let live = printer.is_live().then(|| Live { all: MultiProgress::new(), line: None });
        View { printer, live, has_header: false, done: 0, dirty_max: 0 }
    }

    /// Shows what an event brought.
    pub(crate) fn event(&mut self, event: &HandoverEvent) {
        let Some(record) = &event.handover else { return };
        let object = Handover::from(record);
        match self.printer.output {
            _ if self.printer.quiet => return,
            Output::Json => return,
            Output::Jsonl if object.outcome == Outcome::Running => return self.printer.json(&object),
            Output::Jsonl => return,
            Output::Human | Output::Wide => {}
        }
        if matches!(record.outcome(), Decided::Already | Decided::Validated | Decided::Unspecified) {
            return;
        }
        if !std::mem::replace(&mut self.has_header, true) {
            self.line(&header(&object));
        }
        while let Some((phase, key, name)) = LINES.get(self.done).copied() {
            let is_behind = record.phase() as i32 > phase as i32;
            if is_behind {
                self.finish_line(&done_line(name, key, &object));
                self.done += 1;
            } else {
                self.current(name, phase, event, &object);
                return;
            }
        }
    }

    /// Shows that one phase is under way; only somebody at a terminal wants to know.
    fn current(&mut self, name: &str, phase: Phase, event: &HandoverEvent, object: &Handover) {
        let Some(live) = &mut self.live else { return };
        let bar = live.line.get_or_insert_with(|| {
            let bar = live.all.add(ProgressBar::new(0));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_style(style("  {prefix:<10} {spinner} {msg}"));
            bar
        });
        bar.set_prefix(name.to_owned());
        if phase != Phase::Precopy || event.precopy_dirty_pages == 0 {
            return;
        }
        self.dirty_max = self.dirty_max.max(event.precopy_dirty_pages);
        let (dirty, target) = (event.precopy_dirty_pages, event.precopy_target_pages);
        bar.set_style(style("  {prefix:<10} {bar:19.cyan} {msg}"));
        bar.set_length(self.dirty_max.saturating_sub(target).max(1));
        bar.set_position(self.dirty_max.saturating_sub(dirty));
        let round = object.precopy_rounds.unwrap_or(0);
        bar.set_message(format!("round {round}, {dirty} pages left, {target} fit the freeze budget"));
    }

    fn finish_line(&mut self, text: &str) {
        if let Some(bar) = self.live.as_mut().and_then(|live| live.line.take()) {
            bar.finish_and_clear();
        }
        self.line(text);
    }

    fn line(&self, text: &str) {
        match &self.live {
            // The lines go where the bars are, so that they do not tear one another.
            Some(live) => drop(live.all.println(text)),
            None => self.printer.text(text),
        }
    }

    /// A remark that is no part of the result.
    pub(crate) fn note(&self, text: &str) {
        match &self.live {
            Some(live) => drop(live.all.println(text)),
            None => self.printer.note(text),
        }
    }

    /// Takes the bars away.
    pub(crate) fn close(&mut self) {
        if let Some(live) = self.live.take() {
            let _ = live.all.clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn who(instance: Option<&Instance>) -> String {
    instance.map_or_else(|| "nobody".to_owned(), |i| format!("{} {}", i.version, i.instance))
}

fn header(object: &Handover) -> String {
    let generation = object.previous_generation.unwrap_or(0);
    let text = format!("{}  {} (gen {generation})", object.region, who(object.owner.as_ref()));
    match &object.kind {
        Some(kind) if kind != "handover" => format!("{text}, {kind}"),
        _ => text,
    }
}

fn done_line(name: &str, key: &str, object: &Handover) -> String {
    let green = anstyle::AnsiColor::Green.on_default();
    let took = object.phase_us.get(key).map(|us| micros(*us)).unwrap_or_default();
    let more = match key {
        "precopy" => {
            format!(", {} rounds, {} pages", object.precopy_rounds.unwrap_or(0), object.precopy_pages.unwrap_or(0))
        }
        "freeze" => {
            let seal = object.root_digest.as_ref().map(|d| format!(", seal {d}")).unwrap_or_default();
            format!(
                ", closed {}, {} pages{seal}",
                micros(object.gate_closed_us.unwrap_or(0)),
                object.frozen_pages.unwrap_or(0)
            )
        }
        _ => String::new(),
    };
    format!("  {name:<10} {green}✔{green:#}   {took}{more}")
}

/// The short table at the end, and what goes on behind it.
pub(crate) fn summary(object: &Handover) -> String {
    let Handover { region, outcome, .. } = object;
    match outcome {
        Outcome::Already => {
            return format!("{region}: {} owns already, generation {}", who(object.owner.as_ref()), generation(object));
        }
        Outcome::Validated => return format!("{region}: nothing stands against it; nothing was changed"),
        Outcome::Running => {
            return format!("{region}: handover {} is running; see: heirloom history {region}", number(object));
        }
        _ => {}
    }
    let row = [
        format!("{outcome:?}").to_lowercase(),
        generation(object),
        who(object.owner.as_ref()),
        object.blackout_us.map_or_else(|| "nobody waited".to_owned(), micros),
        object.gate_closed_us.map_or_else(|| "–".to_owned(), micros),
        object.frozen_pages.map_or_else(|| "–".to_owned(), |n| n.to_string()),
        object.total_ms.map_or_else(|| "–".to_owned(), |ms| micros(ms * 1000)),
    ];
    let mut text =
        table(["OUTCOME", "GEN", "OWNER", "LONGEST WAIT", "GATE CLOSED", "FROZEN PAGES", "IN ALL"], &[1, 5], [row]);
    if let (Outcome::Committed, Some(old)) = (outcome, &object.previous_owner) {
        let left = counts(&object.undrained);
        let left = if left.is_empty() { String::new() } else { format!(" drains: {left}") };
        text.push_str(&format!("\n{} {}{left} · `heirloom rollback {region}` goes back", old.version, old.instance));
    }
    text
}

fn generation(object: &Handover) -> String {
    object.generation.map_or_else(|| "–".to_owned(), |g| g.to_string())
}

fn number(object: &Handover) -> String {
    object.handover.map_or_else(String::new, |n| n.to_string())
}

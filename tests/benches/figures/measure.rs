//! Measuring two or more subjects in turns.
//!
//! Each round runs every subject once, for the same short time, in alternating order; a ratio is taken within the round, and
//! the median over all rounds is the figure. What disturbs the machine for longer than a round disturbs both sides of a ratio,
//! and what is shorter falls into few rounds.

use std::time::{Duration, Instant};

/// How much is spent on a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds of what takes nanoseconds.
    pub(crate) rounds: usize,
    /// Repetitions of what takes milliseconds.
    pub(crate) repeats: usize,
    /// Handovers for each row.
    pub(crate) handovers: usize,
}

impl Effort {
    pub(crate) const FULL: Effort = Effort { rounds: 801, repeats: 21, handovers: 101 };
    pub(crate) const QUICK: Effort = Effort { rounds: 101, repeats: 7, handovers: 31 };
}

/// How long one subject runs in one round.
const TURN: Duration = Duration::from_micros(500);

/// Something that can be done `n` times and says how long that took.
pub(crate) type Subject<'a> = Box<dyn FnMut(u64) -> Duration + 'a>;

/// Does `once` again and again on this thread.
pub(crate) fn repeated<'a, T>(mut once: impl FnMut() -> T + 'a) -> Subject<'a> {
    Box::new(move |n| {
        let start = Instant::now();
        for _ in 0..n {
            std::hint::black_box(once());
        }
        start.elapsed()
    })
}

/// Medians, in the order of the subjects.
#[derive(Debug)]
pub(crate) struct Medians {
    /// Nanoseconds for one time.
    pub(crate) ns: Vec<f64>,
    /// The first subject's time as a part of each one's.
    pub(crate) ratio: Vec<f64>,
    /// How much longer than each one the first subject takes, nanoseconds.
    pub(crate) more_ns: Vec<f64>,
}

/// Runs the subjects in turns.
pub(crate) fn in_turns(effort: Effort, mut subjects: Vec<Subject<'_>>) -> Medians {
    let times: Vec<u64> = subjects.iter_mut().map(calibrate).collect();
    let count = subjects.len();
    let mut rounds = Vec::with_capacity(effort.rounds);
    for round in 0..effort.rounds {
        let mut ns = vec![0.0; count];
        for turn in 0..count {
            let i = if round % 2 == 0 { turn } else { count - 1 - turn };
            ns[i] = subjects[i](times[i]).as_nanos() as f64 / times[i] as f64;
        }
        rounds.push(ns);
    }
    let of = |figure: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
        (0..count).map(|i| median(rounds.iter().map(|ns| figure(ns, i)).collect())).collect()
    };
    Medians { ns: of(&|ns, i| ns[i]), ratio: of(&|ns, i| ns[0] / ns[i]), more_ns: of(&|ns, i| ns[0] - ns[i]) }
}

/// How many times fill a turn.
fn calibrate(subject: &mut Subject<'_>) -> u64 {
    let mut n = 1;
    loop {
        // The shortest of some, as a disturbance only ever adds.
        let took = (0..5).map(|_| subject(n)).min().unwrap_or_default();
        if took >= TURN / 2 || n >= 1 << 30 {
            let times = n as f64 * TURN.as_secs_f64() / took.as_secs_f64().max(1e-9);
            return (times as u64).max(1);
        }
        n *= 2;
    }
}

/// The one in the middle.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `part` of them lie.
pub(crate) fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * part).round() as usize).copied().unwrap_or(f64::NAN)
}

//! Verdicts without side effects: what a region's policy says, who may own, what a request means now.

use std::collections::BTreeMap;
use std::time::Duration;

use super::message::{Refusal, Target};
use super::reason::Reason;
use crate::error::{Error, Misuse};

/// What to do after the owner's unplanned death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Vacancy {
    /// The best instance takes over.
    #[default]
    Promote,
    /// The region stays vacant until somebody hands it over.
    Hold,
}

/// The most for [`Policy::quarantine_deaths`]: more are not remembered over the arbiter's restarts, and would never be counted.
pub const QUARANTINE_DEATHS_MAX: u32 = crate::deaths::DEATHS_MAX as u32;

/// A region's policy: the `[region]` table of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After the owner's unplanned death.
    pub vacancy: Vacancy,
    /// For a target to become eligible.
    pub ready_timeout: Duration,
    /// For the target's hook.
    pub prepare_timeout: Duration,
    /// For the rounds.
    pub precopy_timeout: Duration,
    /// For the owner's hook.
    pub flush_timeout: Duration,
    /// The longest blackout risked; the gate opens by itself after twice this.
    pub freeze_timeout: Duration,
    /// After which a drain is reported as late.
    pub drain_timeout: Duration,
    /// The same for one kind of what is in flight, sooner than for the rest.
    pub drain_timeouts: BTreeMap<String, Duration>,
    /// For the kernel to prove a killed owner's death.
    pub kill_timeout: Duration,
    /// This many deaths of owners within [`Policy::quarantine_within`] hold the region back; at most
    /// [`QUARANTINE_DEATHS_MAX`], which are as many as the region remembers. 0: never.
    pub quarantine_deaths: u32,
    /// See [`Policy::quarantine_deaths`].
    pub quarantine_within: Duration,
    /// Records kept in mind; the region keeps its own number of them.
    pub history_max: usize,
    /// Events kept for watchers that come back.
    pub events_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            vacancy: Vacancy::Promote,
            ready_timeout: s(0),
            prepare_timeout: s(30),
            precopy_timeout: s(30),
            flush_timeout: s(10),
            freeze_timeout: Duration::from_millis(50),
            drain_timeout: s(300),
            drain_timeouts: BTreeMap::new(),
            kill_timeout: s(10),
            quarantine_deaths: 3,
            quarantine_within: s(60),
            history_max: 1000,
            events_max: 256,
        }
    }
}

impl Policy {
    /// # Errors
    /// `Misuse` for a value that cannot do what it says.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        match self.quarantine_deaths {
            0..=QUARANTINE_DEATHS_MAX => Ok(self),
            more => {
                let found = format!("{more}, but a region remembers at most {QUARANTINE_DEATHS_MAX}");
                Err(Misuse::Argument { what: "quarantine_deaths", found }.into())
            }
        }
    }
}

/// Owners' deaths, in milliseconds of any one clock: whether the newest ones are too many too close together.
pub fn crash_loop(deaths_ms: &[u64], policy: &Policy) -> bool {
    let count = policy.quarantine_deaths as usize;
    let Some(first) = deaths_ms.len().checked_sub(count).filter(|_| count > 0) else { return false };
    let within = u64::try_from(policy.quarantine_within.as_millis()).unwrap_or(u64::MAX);
    deaths_ms.last().is_some_and(|last| last.abs_diff(deaths_ms[first]) <= within)
}

/// How the rounds of one handover go: when another one would not shorten the freeze.
///
/// A round takes as long as what it has to read, so what is left shrinks by the same part from round to round, until the
/// rounds' own costs rule: a part near one where memory is slow or the owner fast, so little progress is progress. One round
/// that left more than the one before says nothing, as something may have kept it from its work; the freeze waits for one
/// that left about as little as any did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// What the last one left.
    left: Option<u64>,
    /// The least that one left.
    least: Option<u64>,
    /// Rounds since one left less than all before.
    in_vain: u32,
    done: u32,
}

impl Rounds {
    const LITTLE_PAGES: u64 = 2;
    /// So many in vain, and the least is found.
    const IN_VAIN_MAX: u32 = 3;
    const MAX: u32 = 64;

    /// Pages that the last round left.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Takes note of a round that left so many pages, of which `fits` can be read within the freeze; whether it was the last.
    pub fn converged(&mut self, left: u64, fits: u64) -> bool {
        (self.left, self.done) = (Some(left), self.done + 1);
        let least = self.least.unwrap_or(u64::MAX).min(left);
        self.in_vain = if self.least.is_none_or(|before| left < before) { 0 } else { self.in_vain + 1 };
        self.least = Some(least);
        let near_least = left <= least + least / 4 + 1;
        left <= fits
            && (left <= Self::LITTLE_PAGES
                || self.done >= Self::MAX
                || self.in_vain >= Self::IN_VAIN_MAX && (near_least || self.in_vain >= 4 * Self::IN_VAIN_MAX))
    }
}

/// An attached instance, as a verdict sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Never reused.
    pub incarnation: u64,
    /// Its name.
    pub instance: String,
    /// Label of its build.
    pub version: String,
    /// Has never owned.
    pub fresh: bool,
    /// Why it may not own now.
    pub unfit: Option<(Reason, String)>,
}

/// The region, as a verdict sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its name, for words.
    pub region: String,
    /// Open now.
    pub generation: u64,
    /// Who owns and lives.
    pub owner: Option<u64>,
    /// The switch under way.
    pub running: Option<u64>,
    /// Everyone attached that could own in principle, the owner among them.
    pub candidates: Vec<Candidate>,
}

/// What a request means now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The target owns.
    Already,
    /// This one can be made the owner.
    Go(u64),
    /// Not now, but waiting may help.
    NotYet(Refusal),
    /// No.
    No(Refusal),
}

/// Judges a request to make `target` the owner: target state first, so that repeating a request is harmless; then the
/// compare-and-swap on the generation; then whether a switch runs; then whether the target is fit.
pub fn judge(view: &View, target: &Target, expected_generation: Option<u64>) -> Verdict {
    let owner = view.candidates.iter().find(|c| Some(c.incarnation) == view.owner);
    let already = match (owner, target) {
        (Some(owner), Target::Instance(name)) => owner.instance == *name,
        (Some(owner), Target::Version(version)) => owner.version == *version,
        _ => false,
    };
    if already {
        return Verdict::Already;
    }
    if let Some(expected) = expected_generation.filter(|&g| g != view.generation) {
        let words = format!("{} is in generation {}, not {expected}", view.region, view.generation);
        let refusal = Refusal::new(Reason::GenerationMismatch, words).compare(expected, view.generation);
        return Verdict::No(refusal);
    }
    if let Some(running) = view.running {
        let words = format!("handover {running} of {} is in progress", view.region);
        return Verdict::No(Refusal::new(Reason::HandoverInProgress, words).about(running));
    }
    resolve(view, target)
}

/// Finds the one instance that `target` means and that may own now.
pub fn resolve(view: &View, target: &Target) -> Verdict {
    let others = || view.candidates.iter().filter(|c| Some(c.incarnation) != view.owner);
    match target {
        Target::Instance(name) => match others().find(|c| c.instance == *name) {
            Some(candidate) => choose(&[candidate], Reason::InstanceNotFound, String::new()),
            None => {
                let words = format!("no instance {name} is attached to {}", view.region);
                Verdict::No(Refusal::new(Reason::InstanceNotFound, words).compare(name, names(others())))
            }
        },
        Target::Version(version) => {
            let of_it: Vec<_> = others().filter(|c| c.version == *version).collect();
            let words = format!("no instance of version {version} is attached to {}", view.region);
            match choose(&of_it, Reason::InstanceNotFound, words) {
                Verdict::NotYet(refusal) if of_it.is_empty() => {
                    Verdict::NotYet(refusal.compare(version, names(view.candidates.iter())))
                }
                verdict => verdict,
            }
        }
        Target::Any => {
            // Whoever has owned is not meant by "the next one": a repeated request would hand back.
            let fresh: Vec<_> = others().filter(|c| c.fresh).collect();
            if fresh.is_empty() && view.owner.is_none() {
                let any: Vec<_> = others().collect();
                return choose(&any, Reason::NoStandby, format!("no instance is attached to {}", view.region));
            }
            choose(&fresh, Reason::NoStandby, format!("no standby is attached to {}", view.region))
        }
    }
}

fn choose(candidates: &[&Candidate], if_none: Reason, words: String) -> Verdict {
    let fit: Vec<_> = candidates.iter().copied().filter(|c| c.unfit.is_none()).collect();
    match (&fit[..], candidates) {
        ([one], _) => Verdict::Go(one.incarnation),
        ([], []) => Verdict::NotYet(Refusal::new(if_none, words)),
        ([], [one]) => {
            let (reason, why) = one.unfit.clone().unwrap_or_default();
            Verdict::NotYet(Refusal::new(reason, format!("{} {}: {why}", one.version, one.instance)))
        }
        ([], several) => {
            let words = format!("none of {} is ready to own", names(several.iter().copied()));
            Verdict::NotYet(Refusal::new(Reason::TargetNotReady, words))
        }
        (several, _) => {
            let names = names(several.iter().copied());
            let words = format!("{} instances fit: {names}; name one", several.len());
            Verdict::No(Refusal::new(Reason::TargetAmbiguous, words).compare("one instance", names))
        }
    }
}

fn names<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> String {
    const NAMED_MAX: usize = 8;
    let named: Vec<_> = candidates.map(|c| format!("{} {}", c.version, c.instance)).take(NAMED_MAX).collect();
    if named.is_empty() { "none".into() } else { named.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(incarnation: u64, version: &str, fresh: bool, unfit: bool) -> Candidate {
        let unfit = unfit.then(|| (Reason::TargetNotReady, "warming up".into()));
        Candidate { incarnation, instance: format!("i-{incarnation}"), version: version.into(), fresh, unfit }
    }
    fn view(candidates: Vec<Candidate>) -> View {
        View { region: "shop".into(), generation: 7, owner: Some(1), running: None, candidates }
    }
    fn refused(verdict: Verdict) -> Refusal {
        match verdict {
            Verdict::No(refusal) | Verdict::NotYet(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn target_state_comes_before_everything() {
        let mut v = view(vec![candidate(1, "1", false, false), candidate(2, "2", true, false)]);
        v.running = Some(9);
        assert_eq!(judge(&v, &Target::Version("1".into()), Some(3)), Verdict::Already);
        assert_eq!(judge(&v, &Target::Instance("i-1".into()), None), Verdict::Already);
        let mismatch = refused(judge(&v, &Target::Version("2".into()), Some(3)));
        assert_eq!(mismatch.reason, Reason::GenerationMismatch);
        assert_eq!((mismatch.expected.as_deref(), mismatch.found.as_deref()), (Some("3"), Some("7")));
        let busy = refused(judge(&v, &Target::Version("2".into()), Some(7)));
        assert_eq!((busy.reason, busy.handover), (Reason::HandoverInProgress, Some(9)));
        v.running = None;
        assert_eq!(judge(&v, &Target::Version("2".into()), Some(7)), Verdict::Go(2));
    }

    #[test]
    fn a_target_is_resolved_or_named() {
        let v = view(vec![
            candidate(1, "1", false, false),
            candidate(2, "2", true, false),
            candidate(3, "2", true, false),
            candidate(4, "3", true, true),
            candidate(5, "0", false, false),
        ]);
        let ambiguous = refused(judge(&v, &Target::Version("2".into()), None));
        assert_eq!(ambiguous.reason, Reason::TargetAmbiguous);
        assert!(ambiguous.message.contains("i-2") && ambiguous.message.contains("i-3"), "{ambiguous}");
        assert_eq!(refused(judge(&v, &Target::Any, None)).reason, Reason::TargetAmbiguous);
        let warming = judge(&v, &Target::Version("3".into()), None);
        assert!(matches!(&warming, Verdict::NotYet(r) if r.reason == Reason::TargetNotReady), "{warming:?}");
        assert!(matches!(judge(&v, &Target::Version("9".into()), None), Verdict::NotYet(_)));
        assert!(matches!(judge(&v, &Target::Instance("i-9".into()), None), Verdict::No(_)));
        assert_eq!(judge(&v, &Target::Version("0".into()), None), Verdict::Go(5));
    }

    #[test]
    fn a_repeated_request_for_anyone_does_not_hand_back() {
        let v = view(vec![candidate(1, "2", false, false), candidate(2, "1", false, false)]);
        assert_eq!(refused(judge(&v, &Target::Any, None)).reason, Reason::NoStandby);
        let vacant = View { owner: None, ..v };
        assert_eq!(refused(judge(&vacant, &Target::Any, None)).reason, Reason::TargetAmbiguous);
    }

    #[test]
    fn three_deaths_within_a_minute_are_a_loop() {
        let policy = Policy::default();
        assert!(!crash_loop(&[], &policy));
        assert!(!crash_loop(&[0, 10_000], &policy));
        assert!(crash_loop(&[0, 10_000, 60_000], &policy));
        assert!(!crash_loop(&[0, 10_000, 60_001], &policy));
        assert!(!crash_loop(&[0, 0, 0], &Policy { quarantine_deaths: 0, ..policy }));
    }

    #[test]
    fn more_deaths_than_are_remembered_cannot_be_asked_for() {
        let policy = |quarantine_deaths| Policy { quarantine_deaths, ..Policy::default() }.checked();
        assert!(policy(0).is_ok() && policy(QUARANTINE_DEATHS_MAX).is_ok());
        let refused = policy(QUARANTINE_DEATHS_MAX + 1).expect_err("it would never be counted").to_string();
        assert!(refused.contains("quarantine_deaths") && refused.contains("17"), "{refused}");
    }

    fn rounds_of(left: &[u64]) -> Option<usize> {
        let mut rounds = Rounds::default();
        left.iter().position(|left| rounds.converged(*left, 1000))
    }

    #[test]
    fn rounds_end_when_they_no_longer_help() {
        assert_eq!(rounds_of(&[2]), Some(0));
        assert_eq!(rounds_of(&[5000; 200]), None, "what does not fit is not frozen for");
        // An eighth less each time is worth another round; a single slow round ends nothing.
        assert_eq!(rounds_of(&[900, 800, 700, 620, 550, 800, 480, 420, 370, 2]), Some(9));
        assert_eq!(rounds_of(&[900, 40, 41, 42, 43, 44]), Some(4));
        assert_eq!(rounds_of(&[900, 40, 41, 42, 200, 300, 41]), Some(6), "not right after a slow one");
        let falling: Vec<u64> = (0..100).map(|i| 999 - i).collect();
        assert_eq!(rounds_of(&falling), Some(63));
        let rising: Vec<u64> = (0..100).map(|i| 40 + 20 * i).collect();
        assert_eq!(rounds_of(&rising), Some(12), "nor for ever for a quick one");
    }
}

//! Checks of the whole region, a slice between two looks at everything else.
//!
//! A switch that runs goes first: its check waits and says for which handover, because both would read the same pages on the
//! one thread that has to see aborts and deaths in time. Checks go on one after the other; those of whom nobody waits end.

use std::time::{Duration, Instant};

use super::ground::Checks;
use super::handle::{VerifyProgress, VerifyReport};
use super::message::{Refusal, Reply};
use super::reason::Reason;
use super::runner::Runner;

/// Checks that wait or run at most.
const CHECKS_MAX: usize = 16;
/// Between two reports of progress.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// A check that was asked for.
pub(super) struct Verifying {
    checks: Option<Box<dyn Checks>>,
    progress: Box<dyn FnMut(VerifyProgress) -> bool + Send>,
    reply: Reply<Result<VerifyReport, Refusal>>,
    told: Option<(Instant, Option<u64>)>,
}

impl Verifying {
    pub(super) fn refuse(self, refusal: Refusal) {
        (self.reply)(Err(refusal));
    }

    /// Says how far it is, not too often. False if nobody waits for it.
    fn tell(&mut self, paused_by: Option<u64>) -> bool {
        let now = Instant::now();
        if self.told.is_some_and(|(at, for_whom)| for_whom == paused_by && now < at + TELL_EVERY) {
            return true;
        }
        self.told = Some((now, paused_by));
        let (checked_bytes, total_bytes) = self.checks.as_ref().map_or((0, 0), |checks| checks.progress());
        (self.progress)(VerifyProgress { checked_bytes, total_bytes, paused_by })
    }
}

impl Runner {
    pub(super) fn verify(
        &mut self,
        progress: Box<dyn FnMut(VerifyProgress) -> bool + Send>,
        reply: Reply<Result<VerifyReport, Refusal>>,
    ) {
        if let Some(active) = &self.active {
            let words = format!("handover {} is in progress", active.number);
            return reply(Err(Refusal::new(Reason::HandoverInProgress, words).about(active.number)));
        }
        if self.checks.len() == CHECKS_MAX {
            let words = format!("{CHECKS_MAX} checks of this region are waiting or running");
            return reply(Err(Refusal::new(Reason::TableFull, words)));
        }
        self.checks.push_back(Verifying { checks: None, progress, reply, told: None });
    }

    /// Whether the thread has a slice to do.
    pub(super) fn is_checking(&self) -> bool {
        self.active.is_none() && !self.checks.is_empty()
    }

    /// Does the next slice of the first check, or tells all that they wait.
    pub(super) fn check(&mut self) {
        if let Some(active) = &self.active {
            let number = active.number;
            return self.checks.retain_mut(|check| check.tell(Some(number)));
        }
        let Some(mut check) = self.checks.pop_front() else { return };
        if check.checks.get_or_insert_with(|| self.ground.verification()).step() {
            if check.tell(None) {
                self.checks.push_front(check);
            }
        } else if let Some(checks) = check.checks {
            (check.reply)(Ok(checks.report()));
        }
    }
}

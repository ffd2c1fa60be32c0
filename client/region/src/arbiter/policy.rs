//! Verdicts without side effects: what a region's policy says, who may own, what a request means now.

use std::time::Duration;

/// What to do after the owner's unplanned death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Vacancy {
    /// The best instance takes over.
    #[default]
    Promote,
    /// The region stays vacant until somebody hands it over.
    Hold,
}

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
    /// For the kernel to prove a killed owner's death.
    pub kill_timeout: Duration,
    /// This many deaths of owners within [`Policy::quarantine_within`] hold the region back.
    pub quarantine_deaths: u32,
    /// See [`Policy::quarantine_deaths`].
    pub quarantine_within: Duration,
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
            kill_timeout: s(10),
            quarantine_deaths: 3,
            quarantine_within: s(60),
            events_max: 256,
        }
    }
}

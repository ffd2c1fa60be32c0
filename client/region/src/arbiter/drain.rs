//! Old owners that finish their work: watched, reported when they are late, never cut.

use std::time::Instant;

use super::message::{SwitchOptions, ToInstance};
use super::record::Phase;
use super::runner::Runner;
use crate::os::clock::unix_ms;

/// An old owner's drain, in the record of the switch that deposed it.
pub(super) struct Drain {
    pub(super) number: u64,
    pub(super) id: u64,
    /// When it is reported as late; none once it was.
    pub(super) late_at: Option<Instant>,
    pub(super) options: SwitchOptions,
}

impl Runner {
    /// The switch `number` is committed: its record stays open until the old owner is drained.
    pub(super) fn drain_begins(&mut self, number: u64, source: Option<u64>, options: SwitchOptions) {
        let Some((id, session)) = source.and_then(|id| Some((id, self.sessions.get_mut(&id)?))) else {
            return self.drain_is_over(number, true, "");
        };
        session.draining = true;
        let counts = session.in_flight.clone();
        let limit = options.drain_timeout.or(session.drain_timeout).unwrap_or(self.policy.drain_timeout);
        self.journal.edit(number, |record| record.figures.undrained_counts = counts);
        self.drains.push(Drain { number, id, late_at: Some(Instant::now() + limit), options });
    }

    /// What an instance has in flight has changed.
    pub(super) fn drains_change(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        for drain in self.drains.iter().filter(|d| d.id == id) {
            let counts = session.in_flight.clone();
            self.journal.edit(drain.number, |record| {
                if record.end_unix_ms.is_none() {
                    record.figures.undrained_counts = counts;
                }
            });
            if let Some(record) = self.journal.get(drain.number) {
                self.feed.observe(record, unix_ms(), 0, 0);
            }
        }
    }

    /// The instance has nothing in flight, or drains no more for another reason.
    pub(super) fn drains_end(&mut self, id: u64, words: &str) {
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.drains).into_iter().partition(|d| d.id == id);
        self.drains = rest;
        let drained = words.is_empty();
        self.retire.retain(|(_, who)| *who != id);
        for drain in over {
            self.drain_is_over(drain.number, drained, words);
            if let Some(after) = drain.options.retire_after.filter(|_| drained) {
                self.retire.push((Instant::now() + after, id));
            }
        }
    }

    fn drain_is_over(&mut self, number: u64, drained: bool, words: &str) {
        self.journal.edit(number, |record| {
            record.phase = Phase::Done;
            record.end_unix_ms = Some(unix_ms());
            if drained {
                record.figures.undrained_counts.clear();
            }
            if let Some(source) = record.source.as_ref().filter(|_| !words.is_empty()) {
                record.message = format!("{}; {} {words}", record.message, source.instance);
            }
        });
        self.journal.save(&mut *self.ground, number);
        self.tell(number);
    }

    /// Drains that are late, and old owners whose time to leave has come.
    pub(super) fn drains_due(&mut self, now: Instant) {
        let mut late = Vec::new();
        for drain in &mut self.drains {
            if drain.late_at.take_if(|at| *at <= now).is_some() {
                late.push(drain.number);
            }
        }
        for number in late {
            self.journal.edit(number, |record| {
                record.end_unix_ms = Some(unix_ms());
                let counts: Vec<_> =
                    record.figures.undrained_counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
                let what = if counts.is_empty() { "has not said that it is drained".into() } else { counts.join(", ") };
                let who = record.source.as_ref().map_or(String::new(), |s| s.instance.clone());
                record.message = format!("{}; drain of {who} is late: {what}", record.message);
            });
            self.journal.save(&mut *self.ground, number);
            self.tell(number);
        }
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retire).into_iter().partition(|(at, _)| *at <= now);
        self.retire = rest;
        for (_, id) in due {
            let busy = self.machine.switch().is_some_and(|s| s.target == Some(id));
            let drain_timeout = self.policy.drain_timeout;
            if self.machine.living() == Some(id) || busy {
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.leaving && !s.left) {
                let message = "a newer version owns, and the time to roll back is over".into();
                session.send(ToInstance::LeaveRequest { drain_timeout, message });
            }
        }
    }
}

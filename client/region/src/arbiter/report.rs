//! What the region looks like now: status and events.

use std::time::{Duration, Instant};

use super::machine::Owner;
use super::reason::Reason;
use super::record::Record;
use super::runner::Runner;
use super::status::{RegionStatus, State};
use crate::os::clock::unix_ms;

/// How long an object count may be told again.
const COUNTS_AGE: Duration = Duration::from_secs(1);

impl Runner {
    pub(super) fn status(&mut self) -> RegionStatus {
        let now = Instant::now();
        if self.counts.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= COUNTS_AGE) {
            self.counts = Some((now, self.ground.object_counts()));
        }
        let (identity, sealed, owner) = (self.ground.identity(), self.ground.sealed(), self.machine.living());
        let state = match self.machine.owner() {
            _ if self.active.is_some() => State::Switching,
            _ if self.machine.quarantined() => State::Quarantined,
            Owner::Alive(_) => State::Owned,
            Owner::Nobody | Owner::Dead(_) => State::Vacant,
        };
        let mut sessions: Vec<_> = self.sessions.values().collect();
        sessions.sort_by_key(|s| (s.order, s.attach_unix_ms));
        let held = || self.journal.iter().rev().find(|r| r.reason == Some(Reason::OwnerCrashLoop));
        let quarantine = self.machine.quarantined().then(|| {
            (Reason::OwnerCrashLoop, held().map_or("owners died one after the other".into(), |r| r.message.clone()))
        });
        RegionStatus {
            region: identity.name,
            uuid: identity.uuid,
            state,
            generation: self.machine.generation(),
            owner: owner.and_then(|id| self.reference(id)),
            instances: sessions.iter().map(|s| s.status(owner)).collect(),
            active_handover: self.active.as_ref().map(|a| a.number),
            last_handover: self.journal.last_decided(),
            generation_start_unix_ms: self.generation_start_ms,
            vacant_since_unix_ms: self.vacant_since_ms,
            root_digest: sealed.root_digest,
            used_bytes: self.ground.used_bytes(),
            limit_bytes: identity.limit_bytes,
            object_counts: self.counts.as_ref().map(|(_, counts)| counts.clone()).unwrap_or_default(),
            departed: self.departed.iter().cloned().collect(),
            quarantine,
        }
    }

    /// Publishes the state now, with the record that changed.
    pub(super) fn publish(&mut self, record: Option<Record>) {
        let status = self.status();
        self.feed.publish(status, record, None, unix_ms());
    }

    /// Publishes that this instance is drained.
    pub(super) fn publish_drained(&mut self, instance: Option<String>) {
        let status = self.status();
        self.feed.publish(status, None, instance, unix_ms());
    }

    /// Publishes a record as it is now.
    pub(super) fn tell(&mut self, number: u64) {
        let record = self.journal.get(number).cloned();
        self.publish(record);
    }
}

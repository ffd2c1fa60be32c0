//! One attached instance, as the arbiter's thread knows it. None of it is truth about ownership: that is the machine's.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::ground::Row;
use super::message::{Hook, HookSet, Need, Outbox, ToInstance};
use super::reason::Reason;
use super::record::{InstanceRef, Record, clip};
use super::status::{InstanceStatus, Role, Undrained};

/// Kinds of work in flight that are kept, and reasons of all of them.
const KINDS_MAX: usize = 32;
const REASONS_MAX: usize = 128;

/// A hook that was called and has not answered.
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) hook: Hook,
    pub(crate) record: Record,
    pub(crate) deadline: Instant,
}

/// That SIGKILL was meant for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    /// By this arbiter, which has sent it.
    Here,
    /// By one before, as this record says; whether it was sent is not known while nothing is heard of the instance.
    Noted(u64),
}

pub(crate) struct Session {
    pub(crate) at: InstanceRef,
    pub(crate) row: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) token: [u8; 16],
    pub(crate) attach_unix_ms: u64,
    /// Counts attaching, over all arbiters of the region.
    pub(crate) order: u64,
    pub(crate) outbox: Option<Box<dyn Outbox>>,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) needs: Vec<Need>,
    pub(crate) ready: bool,
    pub(crate) ready_message: String,
    /// As it declared them, if it has.
    pub(crate) hooks: Option<HookSet>,
    pub(crate) verdict: Result<(), (Reason, String)>,
    pub(crate) in_flight: BTreeMap<String, u64>,
    /// Why of it is left what is.
    pub(crate) undrained: Vec<Undrained>,
    /// It has taken its readiness back.
    pub(crate) withdrew: bool,
    /// The generation it owned last.
    pub(crate) owned: u64,
    /// Owned, and has not said that it is drained.
    pub(crate) draining: bool,
    pub(crate) leaving: bool,
    pub(crate) left: bool,
    pub(crate) drain_timeout: Option<Duration>,
    /// By an arbiter: its death is no crash.
    pub(crate) killed: Option<Killed>,
    pub(crate) calls: Vec<Call>,
    /// What the machine was told last.
    pub(crate) told: bool,
    /// It has just said that it is ready.
    pub(crate) again: bool,
}

impl Session {
    pub(crate) fn new(row: &Row, owned: u64) -> Self {
        Self {
            at: InstanceRef {
                instance: row.instance.clone(),
                version: row.version.clone(),
                pid: row.pid,
                incarnation: row.incarnation,
            },
            row: Some(row.row),
            uid: row.uid,
            token: row.token,
            attach_unix_ms: row.attach_unix_ms,
            order: row.number,
            outbox: None,
            pidfd: None,
            needs: Vec::new(),
            ready: false,
            ready_message: String::new(),
            hooks: row.hooks,
            verdict: Ok(()),
            in_flight: BTreeMap::new(),
            undrained: Vec::new(),
            withdrew: false,
            owned,
            draining: false,
            leaving: false,
            left: false,
            drain_timeout: None,
            killed: None,
            calls: Vec::new(),
            told: false,
            again: false,
        }
    }

    /// Takes note of what it has in flight, and why.
    pub(crate) fn has_in_flight(&mut self, counts: BTreeMap<String, u64>, left: Vec<Undrained>) {
        let word = |mut word: String| {
            clip(&mut word, 32);
            word
        };
        let counts = counts.into_iter().filter(|(_, n)| *n > 0).take(KINDS_MAX);
        self.in_flight = counts.map(|(kind, n)| (word(kind), n)).collect();
        let left = left.into_iter().filter(|part| part.count > 0).take(REASONS_MAX);
        self.undrained = left
            .map(|it| Undrained { kind: word(it.kind), reason: word(it.reason), count: it.count })
            .filter(|it| self.in_flight.contains_key(&it.kind))
            .collect();
        self.undrained.sort();
    }

    /// Whether it has said that it has no flush hook.
    pub(crate) fn flushes_nothing(&self) -> bool {
        self.hooks.is_some_and(|hooks| !hooks.flush)
    }

    /// Why it said itself, or its needs say, that it may not own; whatever its link does.
    pub(crate) fn withdrawn(&self) -> Option<(Reason, String)> {
        if self.leaving || self.left {
            return Some((Reason::TargetNotReady, "is leaving".into()));
        }
        if !self.ready {
            let said = &self.ready_message;
            let why = if said.is_empty() { "has not said that it is ready" } else { said };
            return Some((Reason::TargetNotReady, why.into()));
        }
        self.verdict.clone().err()
    }

    /// Why it may not be made the owner now.
    pub(crate) fn unfit(&self) -> Option<(Reason, String)> {
        let lost = || self.outbox.is_none().then(|| (Reason::TargetNotReady, "has no live stream".into()));
        let observer = || self.row.is_none().then(|| (Reason::TargetNotReady, "only reads".into()));
        observer().or_else(|| self.withdrawn()).or_else(lost)
    }

    /// Hands a message to the stream; a stream that is gone is forgotten.
    pub(crate) fn send(&mut self, message: ToInstance) -> bool {
        let sent = self.outbox.as_mut().is_some_and(|outbox| outbox.send(message));
        if !sent {
            self.outbox = None;
        }
        sent
    }

    /// Calls a hook; it is called again on the next stream until it answers. A resume needs no answer.
    pub(crate) fn call(&mut self, call: Call, now: Instant) {
        let timeout = call.deadline.saturating_duration_since(now);
        let record = Box::new(call.record.clone());
        let sent = self.send(ToInstance::HookCall { call_id: call.id, hook: call.hook, record, timeout });
        if !sent || call.hook != Hook::Resume {
            self.calls.push(call);
        }
    }

    /// What was asked before the stream broke is asked again.
    pub(crate) fn call_again(&mut self, now: Instant) {
        for call in std::mem::take(&mut self.calls) {
            if call.deadline > now || call.hook == Hook::Resume {
                self.call(call, now);
            }
        }
    }

    pub(crate) fn role(&self, owner: Option<u64>) -> Role {
        match self {
            _ if owner == Some(self.at.incarnation) => Role::Owner,
            Self { left: true, .. } => Role::Left,
            Self { row: None, .. } => Role::Observer,
            Self { draining: true, .. } => Role::Draining,
            Self { owned: 1.., leaving: true, .. } => Role::Draining,
            _ => Role::Standby,
        }
    }

    pub(crate) fn status(&self, owner: Option<u64>) -> InstanceStatus {
        let unfit = self.unfit();
        InstanceStatus {
            instance: self.at.instance.clone(),
            incarnation: self.at.incarnation,
            version: self.at.version.clone(),
            role: self.role(owner),
            ready: self.ready,
            eligible: unfit.is_none(),
            ineligible: unfit,
            pid: self.at.pid,
            uid: self.uid,
            attach_unix_ms: self.attach_unix_ms,
            connected: self.outbox.is_some(),
            in_flight: self.in_flight.clone(),
            undrained: self.undrained.clone(),
            withdrew: self.withdrew || self.leaving || self.left,
            generation: self.owned,
            leaving: self.leaving || self.left,
        }
    }
}

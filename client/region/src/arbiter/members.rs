//! Instances come, speak, go silent, leave and die.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::ground::{Fault, Newcomer, Row};
use super::machine::{Event, Id};
use super::message::{FromInstance, Hello, Outbox, Refusal, Reply, ToInstance, Welcome};
use super::needs::declare;
use super::policy;
use super::reason::Reason;
use super::record::{Cause, Kind, Outcome, Phase, Record, clip};
use super::runner::Runner;
use super::session::Session;
use crate::error::Error;
use crate::os::clock::unix_ms;

/// Those who are gone that are remembered.
const DEPARTED_MAX: usize = 32;

/// A dead instance's row that could not be freed yet.
pub(super) struct Remains {
    row: u32,
    incarnation: u64,
    pidfd: Option<OwnedFd>,
}

impl Runner {
    pub(super) fn attach(
        &mut self,
        hello: Hello,
        pidfd: Option<OwnedFd>,
        outbox: Box<dyn Outbox>,
        asked: Instant,
        reply: Reply<Result<Welcome, Refusal>>,
    ) {
        let seated = match &hello.resume {
            Some((instance, token)) => self.resume(instance, *token, hello.uid),
            None => self.seat(&hello, asked),
        };
        let (incarnation, welcome) = match seated {
            Ok(seated) => seated,
            Err(refusal) => return reply(Err(refusal)),
        };
        self.was_not_killed(incarnation);
        if let Some(session) = self.sessions.get_mut(&incarnation) {
            session.outbox = Some(outbox);
            if pidfd.is_some() {
                session.pidfd = pidfd;
            }
        }
        reply(Ok(welcome));
        if let Some(session) = self.sessions.get_mut(&incarnation) {
            session.call_again(Instant::now());
        }
        self.stale = true;
        self.publish(None);
    }

    fn seat(&mut self, hello: &Hello, asked: Instant) -> Result<(Id, Welcome), Refusal> {
        let label = hello.version.as_str();
        let refused = |fault: Fault| Refusal {
            expected: fault.limit.map(|limit| limit.to_string()),
            ..Refusal::new(fault.reason, fault.message)
        };
        crate::name::version(label).map_err(|e| refused(Error::from(e).into()))?;
        let random = |e: Error| refused(e.into());
        let token = crate::os::random_bytes::<16>().map_err(random)?;
        let (row, liveness) = if hello.read_only {
            let incarnation = u64::from_le_bytes(crate::os::random_bytes::<8>().map_err(random)?).max(1);
            let instance = format!("o-{:08x}", incarnation as u32);
            let (version, attach_unix_ms) = (label.to_owned(), unix_ms());
            let (pid, uid, number) = (hello.pid, hello.uid, u64::MAX);
            (Row { incarnation, number, instance, version, pid, uid, attach_unix_ms, token, ..Row::default() }, None)
        } else {
            let (version, start_ticks) = (label.to_owned(), hello.start_ticks);
            let newcomer = Newcomer { version, pid: hello.pid, uid: hello.uid, start_ticks, token };
            self.seat_newcomer(&newcomer, asked).map_err(refused)?
        };
        let (incarnation, instance) = (row.incarnation, row.instance.clone());
        let mut session = Session::new(&row, 0);
        if hello.read_only {
            session.row = None;
        } else {
            self.inbox.push_back(Event::Attached(incarnation, row.number, 0));
        }
        let row = session.row;
        self.sessions.insert(incarnation, session);
        Ok((incarnation, Welcome { instance, resume_token: token, incarnation, row, liveness }))
    }

    /// Rows of the dead are looked for before a table counts as full.
    fn seat_newcomer(&mut self, newcomer: &Newcomer, asked: Instant) -> Result<(Row, Option<OwnedFd>), Fault> {
        match self.ground.seat(newcomer) {
            Err(full) if full.reason == Reason::TableFull && self.make_room(asked) => self.ground.seat(newcomer),
            seated => seated,
        }
    }

    /// The same process with a new stream. What it declared stands until it declares anew.
    fn resume(&mut self, instance: &str, token: [u8; 16], uid: u32) -> Result<(Id, Welcome), Refusal> {
        let Some((&incarnation, session)) = self.sessions.iter().find(|(_, s)| s.at.instance == instance) else {
            let words = format!("{instance} is not attached any more: attach anew");
            return Err(Refusal::new(Reason::InstanceNotFound, words));
        };
        if session.token != token {
            return Err(Refusal::new(Reason::CallerDenied, format!("this is not the resume token of {instance}")));
        }
        if session.uid != uid {
            let words = format!("{instance} belongs to another user");
            return Err(Refusal::new(Reason::CallerDenied, words).compare(session.uid, uid));
        }
        let (instance, row) = (instance.to_owned(), session.row);
        Ok((incarnation, Welcome { instance, resume_token: token, incarnation, row, liveness: None }))
    }

    pub(super) fn message(&mut self, id: Id, message: FromInstance) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match message {
            FromInstance::Declare(needs) => {
                if !declare(&mut session.needs, needs) {
                    tracing::warn!(instance = %session.at.instance, "declares more needs than are kept");
                }
                self.stale = true;
            }
            FromInstance::Ready { ready, mut message, hooks } => {
                clip(&mut message, 256);
                let change = session.ready != ready || session.ready_message != message;
                (session.ready, session.ready_message) = (ready, message);
                session.again = ready;
                session.withdrew = !ready;
                if let Some(hooks) = hooks.filter(|hooks| session.hooks != Some(*hooks)) {
                    session.hooks = Some(hooks);
                    // Before the answer: who has it may rely on it, whichever arbiter is there then.
                    if let Some(row) = session.row {
                        self.ground.note_hooks(row, id, hooks);
                    }
                }
                self.stale = true;
                if change {
                    self.refresh();
                    self.publish(None);
                }
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.send(ToInstance::ReadyNoted { ready });
                }
            }
            FromInstance::HookResult { call_id, ok, mut veto } => {
                clip(&mut veto, 512);
                self.hook_result(id, call_id, ok, veto);
            }
            FromInstance::InFlight { counts, left, drained } => {
                session.has_in_flight(counts, left);
                self.drains_change(id);
                if drained && self.machine.living() != Some(id) {
                    self.drained(id);
                }
            }
            FromInstance::Leave { drain_timeout } => {
                session.drain_timeout = drain_timeout;
                session.leaving = true;
                let idle = !session.draining && session.in_flight.is_empty();
                self.feed(Event::Leave(id));
                if idle && self.machine.living() != Some(id) {
                    self.feed(Event::Drained(id));
                }
                self.stale = true;
                self.publish(None);
            }
        }
    }

    fn drained(&mut self, id: Id) {
        let was = self.sessions.get_mut(&id).is_some_and(|s| std::mem::take(&mut s.draining));
        self.drains_end(id, "");
        self.feed(Event::Drained(id));
        if was {
            let name = self.sessions.get(&id).map(|s| s.at.instance.clone());
            self.publish_drained(name);
        }
    }

    pub(super) fn has_left(&mut self, id: Id) {
        if let Some(session) = self.sessions.get_mut(&id) {
            (session.left, session.draining) = (true, false);
            // The end of its stream is how the instance hears that nobody will make it owner any more.
            session.outbox = None;
        }
        self.publish(None);
    }

    /// A stream is gone. That proves nothing, except for an observer, who is nothing but its stream.
    pub(super) fn disconnected(&mut self, id: Id) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.outbox = None;
        if session.row.is_none() {
            self.sessions.remove(&id);
        }
        self.stale = true;
        self.publish(None);
    }

    /// A death is proved.
    pub(super) fn dead(&mut self, id: Id) {
        let Some(session) = self.sessions.get(&id) else { return };
        let mut crash_loop = false;
        if self.machine.living() == Some(id) {
            self.vacant_since_ms = Some(unix_ms());
            // What it said in the region it may have had no stream to say.
            let said = |row: &Row| row.incarnation == id && row.leaving;
            if session.killed.is_none() && !session.leaving && !self.ground.rows().iter().any(said) {
                let now = unix_ms();
                self.ground.note_death(self.machine.generation(), now);
                self.deaths_ms.push(now);
                let surplus = self.deaths_ms.len().saturating_sub(self.policy.quarantine_deaths.max(1) as usize);
                self.deaths_ms.drain(..surplus);
                crash_loop = policy::crash_loop(&self.deaths_ms, &self.policy);
            }
        }
        self.feed(Event::Died(id, crash_loop));
        self.drains_end(id, "died before it was drained");
        self.stale = true;
        self.publish(None);
    }

    /// The machine knows of a death: frees what the dead held, or keeps it in mind.
    pub(super) fn reclaim(&mut self, id: Id) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.retire.retain(|(_, who)| *who != id);
        if self.departed.len() == DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(session.at);
        if let Some(row) = session.row {
            self.remains.push(Remains { row, incarnation: id, pidfd: session.pidfd });
            self.reclaim_remains();
        }
    }

    /// What could not be freed is tried again with every probe: a lock that is not free yet will be.
    pub(super) fn reclaim_remains(&mut self) {
        for dead in std::mem::take(&mut self.remains) {
            let pidfd = dead.pidfd.as_ref().map(AsFd::as_fd);
            if let Err(fault) = self.ground.reclaim(dead.row, dead.incarnation, pidfd) {
                tracing::debug!(row = dead.row, reason = %fault.reason, "not freed yet: {}", fault.message);
                self.remains.push(dead);
            }
        }
    }

    /// Owners died too often: a record says so, and outlives this arbiter.
    pub(super) fn hold_back(&mut self) {
        let words = format!(
            "{} owners died within {:?}; the owned state is held, counters go on; hand over to lift it",
            self.deaths_ms.len(),
            self.policy.quarantine_within
        );
        let generation = self.machine.generation();
        let record = Record {
            kind: Kind::Promotion,
            cause: Cause::OwnerDied,
            outcome: Outcome::Aborted,
            phase: Phase::Prepare,
            reason: Some(Reason::OwnerCrashLoop),
            message: words,
            source: self.last_owner.clone(),
            previous_generation: generation,
            generation,
            caller: "heirloom".into(),
            create_unix_ms: unix_ms(),
            end_unix_ms: Some(unix_ms()),
            ..Record::default()
        };
        let number = self.journal.open(&mut *self.ground, record);
        self.tell(number);
    }
}

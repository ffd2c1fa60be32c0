//! Taking up a region: from what it says, who is alive, and what history remembers. Nothing is assumed of the arbiter before.
//!
//! A row that is found alive stays what it was, the owner too: that its stream is gone says nothing. A switch that was under
//! way either happened or did not, and the superblock says which; its record is closed accordingly.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::drain::Drain;
use super::feed::{Feed, OnEvent};
use super::ground::{Ground, Row, Sealed};
use super::handle::Arbiter;
use super::journal::Journal;
use super::machine::{Event, Machine, Owner};
use super::mailbox::Mailbox;
use super::message::{Hook, SwitchOptions};
use super::policy::{Policy, Vacancy, crash_loop};
use super::reason::Reason;
use super::record::{InstanceRef, Outcome, Phase, Record};
use super::runner::Runner;
use super::session::{Call, Killed, Session};
use crate::error::Error;
use crate::os::clock::unix_ms;

/// Starts the thread over a ground.
pub(crate) fn spawn(ground: Box<dyn Ground>, policy: Policy, on_event: OnEvent) -> Result<Arbiter, Error> {
    let policy = policy.checked()?;
    let io = |op, source: std::io::Error| Error::io(op, None, source);
    let mailbox = Arc::new(Mailbox::new().map_err(|e| io("eventfd", e.into()))?);
    let shared = Arc::clone(&mailbox);
    let thread = std::thread::Builder::new()
        .name("heirloom-arbiter".into())
        .spawn(move || {
            let closer = Closer(Arc::clone(&shared));
            take_up(ground, policy, on_event, shared).run();
            drop(closer);
        })
        .map_err(|e| io("thread", e))?;
    Ok(Arbiter::with(mailbox, thread))
}

/// Whatever ends the thread, nobody waits for it afterwards.
struct Closer(Arc<Mailbox>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close_silently();
    }
}

fn take_up(mut ground: Box<dyn Ground>, policy: Policy, on_event: OnEvent, mailbox: Arc<Mailbox>) -> Runner {
    let (now, now_ms) = (Instant::now(), unix_ms());
    let mut journal = Journal::load(&*ground, policy.history_max);
    let closed = journal.close_running(&mut *ground, now_ms);
    let sealed = ground.sealed();
    let (living, dead): (Vec<Row>, Vec<Row>) = ground.rows().into_iter().partition(|row| !ground.is_dead(row.row));
    let owner = owner_found(&sealed, &living);
    let crashed = match owner {
        // Its row tells that nobody has counted this death yet.
        Owner::Dead(id) if meant_to_kill(&journal, &sealed, id).is_none() => {
            dead.iter().any(|row| row.incarnation == id && !row.leaving)
        }
        _ => false,
    };
    if crashed {
        ground.note_death(sealed.generation, now_ms);
    }
    let mut deaths = ground.deaths();
    // What the region holds is input: nobody died in a generation to come.
    deaths.retain(|(generation, _)| *generation <= sealed.generation);
    // Also where the arbiter before this one counted it, freed its row, and came no further.
    let counted = deaths.last().is_some_and(|(generation, _)| *generation == sealed.generation);
    let deaths_ms: Vec<u64> = deaths.into_iter().map(|(_, ms)| ms).collect();
    let crash_loop = matches!(owner, Owner::Dead(_)) && counted && crash_loop(&deaths_ms, &policy);
    let is_held = is_held(&journal, &sealed, owner);
    let promote = policy.vacancy == Vacancy::Promote;
    let machine = Machine::new(sealed.generation, owner, promote, is_held || crash_loop);
    let inbox = first_events(&sealed, &living, &dead, &journal);
    let feed = Feed::new(policy.events_max, on_event);
    let mut runner = Runner {
        machine,
        inbox,
        sessions: BTreeMap::new(),
        feed,
        asked: None,
        active: None,
        drains: Vec::new(),
        checks: VecDeque::new(),
        retire: Vec::new(),
        remains: Vec::new(),
        departed: VecDeque::new(),
        deaths_ms,
        last_owner: last_owner(&journal, sealed.generation),
        generation_start_ms: sealed.unix_ms,
        vacant_since_ms: (!matches!(owner, Owner::Alive(_))).then_some(now_ms),
        counts: None,
        stale: true,
        looked: now,
        timer: None,
        retry: None,
        probe: now,
        probed_at: now,
        probed: 0,
        calls: now_ms,
        settling: false,
        ground,
        policy,
        mailbox,
        journal,
    };
    for row in living.iter().chain(&dead) {
        runner.found(row, &sealed);
    }
    if crash_loop && !is_held {
        runner.hold_back();
    }
    runner.take_up_drains(now);
    runner.owe_resumes(&closed, now);
    runner
}

/// Who owns, by what the region says. This and the two below are pure, so that a model checker begins as an arbiter does.
pub(super) fn owner_found(sealed: &Sealed, living: &[Row]) -> Owner {
    match sealed.owner {
        0 => Owner::Nobody,
        id if living.iter().any(|row| row.incarnation == id) => Owner::Alive(id),
        id => Owner::Dead(id),
    }
}

/// Whether the arbiter before this one held the region back.
pub(super) fn is_held(journal: &Journal, sealed: &Sealed, owner: Owner) -> bool {
    let held = |r: &Record| r.reason == Some(Reason::OwnerCrashLoop) && r.previous_generation == sealed.generation;
    matches!(owner, Owner::Dead(_)) && journal.iter().rev().any(held)
}

/// What the machine is told first.
pub(super) fn first_events(sealed: &Sealed, living: &[Row], dead: &[Row], journal: &Journal) -> VecDeque<Event> {
    let attached =
        |row: &Row| Event::Attached(row.incarnation, row.number, owned_last(journal, sealed, row.incarnation));
    // Found dead: the same way as any death, so that slots and lanes are freed.
    let died = dead.iter().map(|row| Event::Died(row.incarnation, false));
    living.iter().chain(dead).map(attached).chain(died).collect()
}

/// The generation that this incarnation owned last, as far as is remembered; 0: never.
fn owned_last(journal: &Journal, sealed: &Sealed, id: u64) -> u64 {
    let owned_in = |r: &Record| {
        let it = r.target.as_ref().is_some_and(|t| t.incarnation == id);
        (it && r.outcome == Outcome::Committed).then_some(r.generation)
    };
    if id == sealed.owner { sealed.generation } else { journal.iter().rev().find_map(owned_in).unwrap_or(0) }
}

/// The handover for which an arbiter killed, or was about to kill, this owner of the generation that is still open.
fn meant_to_kill(journal: &Journal, sealed: &Sealed, id: u64) -> Option<u64> {
    let meant = |r: &&Record| {
        let its = r.source.as_ref().is_some_and(|source| source.incarnation == id);
        its && r.forced && r.outcome == Outcome::Aborted && r.previous_generation == sealed.generation
    };
    journal.iter().rev().find(meant).map(|r| r.number)
}

fn last_owner(journal: &Journal, generation: u64) -> Option<InstanceRef> {
    let opened = |g: u64| journal.opener(g).and_then(|r| r.target.clone());
    (generation.saturating_sub(1)..=generation).rev().find_map(opened)
}

impl Runner {
    /// A row of the table, of an instance that was attached before this arbiter's time.
    fn found(&mut self, row: &Row, sealed: &Sealed) {
        let id = row.incarnation;
        let owned = owned_last(&self.journal, sealed, id);
        let mut session = Session::new(row, owned);
        if row.pid != 0 && row.start_ticks != 0 {
            // Opened first: what is then seen to map the region is that very process, or it is dead.
            let opened = crate::os::pidfd::open_started_at(row.pid, row.start_ticks).ok();
            session.pidfd = opened.filter(|_| self.ground.is_mapped_by(row.pid));
        }
        if id == sealed.owner {
            self.last_owner = Some(session.at.clone());
            // It may be dying, or may never have been sent the signal.
            session.killed = meant_to_kill(&self.journal, sealed, id).map(Killed::Noted);
        }
        self.sessions.insert(id, session);
    }

    /// Drains that were under way go on, with their whole time again.
    fn take_up_drains(&mut self, now: Instant) {
        let open: Vec<(u64, u64)> = self
            .journal
            .iter()
            .filter(|r| r.outcome == Outcome::Committed && r.end_unix_ms.is_none())
            .map(|r| (r.number, r.source.as_ref().map_or(0, |s| s.incarnation)))
            .collect();
        for (number, id) in open {
            match self.sessions.get_mut(&id).filter(|_| self.machine.living() != Some(id)) {
                Some(session) => {
                    session.draining = true;
                    let options = SwitchOptions::default();
                    self.drains.push(Drain::new(number, id, self.policy.drain_timeout, &self.policy, options, now));
                }
                None => {
                    self.journal.edit(number, |record| {
                        (record.phase, record.end_unix_ms) = (Phase::Done, Some(unix_ms()));
                    });
                    self.journal.save(&mut *self.ground, number);
                }
            }
        }
    }

    /// An owner whose flush had begun learns, when it is back, that its term goes on.
    fn owe_resumes(&mut self, closed: &[u64], now: Instant) {
        for number in closed {
            let Some(record) = self.journal.get(*number).cloned() else { continue };
            let begun = matches!(record.phase, Phase::Flush | Phase::Freeze | Phase::Seal | Phase::Commit);
            let source = record.source.as_ref().map_or(0, |s| s.incarnation);
            if record.outcome == Outcome::Aborted && begun {
                self.calls += 1;
                let (id, deadline) = (self.calls, now + self.policy.flush_timeout);
                if let Some(session) = self.sessions.get_mut(&source) {
                    session.calls.push(Call { id, hook: Hook::Resume, record, deadline });
                }
            }
        }
    }
}

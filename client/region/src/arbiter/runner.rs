//! The arbiter's thread: takes commands, proofs of death and timers in, feeds the machine, and does what it says.
//!
//! Everything is done in bounded pieces: rounds over pages go slice by slice, so that an abort or a death is seen between
//! two slices; only freeze to commit is one chain without a pause, itself bounded by the freeze budget. No wait is without
//! a limit, and nothing that an instance or the region says can make the thread panic: ids that are unknown are ignored.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::drain::Drain;
use super::feed::Feed;
use super::ground::Ground;
use super::journal::Journal;
use super::machine::{Effect, Event, Machine, Timer};
use super::mailbox::{Command, Mailbox};
use super::members::Remains;
use super::message::Refusal;
use super::policy::Policy;
use super::reason::Reason;
use super::record::InstanceRef;
use super::session::Session;
use super::switch::{Active, Asked};
use super::verifying::Verifying;

/// How often liveness locks are asked.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Locks asked at once: each takes the kernel as long as there are locks. A larger table is asked in turn.
const PROBE_LOCKS: usize = 256;
/// How old the verdict on who may own may be in a status: looking reads every cell.
const LOOK_AGE: Duration = Duration::from_millis(200);
/// Commands taken between two looks at everything else.
const COMMANDS_MAX: usize = 128;
/// After which a switch that nobody asked for is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Runner {
    pub(super) ground: Box<dyn Ground>,
    pub(super) policy: Policy,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) machine: Machine,
    pub(super) inbox: VecDeque<Event>,
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) journal: Journal,
    pub(super) feed: Feed,
    /// Of the switch that is about to begin.
    pub(super) asked: Option<Asked>,
    /// Of the switch under way.
    pub(super) active: Option<Active>,
    pub(super) drains: Vec<Drain>,
    pub(super) checks: VecDeque<Verifying>,
    pub(super) retire: Vec<(Instant, u64)>,
    pub(super) remains: Vec<Remains>,
    /// Who is gone, the newest.
    pub(super) departed: VecDeque<InstanceRef>,
    /// Owners' deaths by the wall clock, in milliseconds, as the region keeps them too.
    pub(super) deaths_ms: Vec<u64>,
    /// Who owns or owned last.
    pub(super) last_owner: Option<InstanceRef>,
    pub(super) generation_start_ms: u64,
    pub(super) vacant_since_ms: Option<u64>,
    pub(super) counts: Option<(Instant, BTreeMap<String, u64>)>,
    /// Whether somebody's eligibility may have changed.
    pub(super) stale: bool,
    pub(super) looked: Instant,
    pub(super) timer: Option<(Instant, Timer)>,
    pub(super) retry: Option<Instant>,
    pub(super) probe: Instant,
    /// When the dead were looked for last.
    pub(super) probed_at: Instant,
    /// Whose lock was asked last.
    pub(super) probed: u64,
    pub(super) calls: u64,
    pub(super) settling: bool,
}

impl Runner {
    /// The thread's body.
    pub(crate) fn run(mut self) {
        self.settle();
        loop {
            for _ in 0..COMMANDS_MAX {
                match self.mailbox.pop() {
                    Some(Command::Vanish) => return,
                    Some(Command::Shutdown { reply }) => {
                        self.stop();
                        return reply(());
                    }
                    Some(command) => self.command(command),
                    None => break,
                }
            }
            self.due();
            self.refresh();
            self.work();
            self.check();
            self.wait();
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach { hello, pidfd, outbox, asked, reply } => {
                self.attach(hello, pidfd, outbox, asked, reply);
            }
            Command::Message { incarnation, message, taken } => {
                self.message(incarnation, message);
                taken.into_iter().for_each(|taken| taken(()));
            }
            Command::Disconnected { incarnation } => self.disconnected(incarnation),
            Command::ProvedDead { incarnation } => self.dead(incarnation),
            Command::Handover { request, caller, observer, reply } => self.handover(request, caller, observer, reply),
            Command::Rollback { request, caller, observer, reply } => self.rollback(request, caller, observer, reply),
            Command::Abort { number, note, reply } => self.abort(number, note, reply),
            Command::Drain { instance, force, timeout, reply } => reply(self.drain(&instance, force, timeout)),
            Command::WatchHandover { number, observer, reply } => reply(self.watch_handover(number, observer)),
            Command::Watch { after, watcher, reply } => {
                let (status, now) = (self.status(), crate::os::clock::unix_ms());
                reply(self.feed.watch(after, watcher, status, now));
            }
            Command::Status { reply } => {
                self.stale |= self.looked.elapsed() >= LOOK_AGE;
                self.refresh();
                reply(self.status());
            }
            Command::History { newest, before, reply } => reply(self.journal.newest(newest, before)),
            Command::Record { number, reply } => reply(self.journal.find(number).cloned()),
            Command::Verify { progress, reply } => self.verify(progress, reply),
            Command::Vanish | Command::Shutdown { .. } => {}
        }
    }

    /// Ends in order: takes a running switch back and tells everyone. Data planes go on.
    fn stop(&mut self) {
        if let Some(active) = &mut self.active {
            active.words = "the arbiter is stopping".into();
            self.feed(Event::Failed(Reason::SidecarRestarted));
        }
        let refusal = Refusal::new(Reason::ShuttingDown, "the arbiter is stopping");
        for check in self.checks.drain(..) {
            check.refuse(refusal.clone());
        }
        self.mailbox.close(&refusal);
    }

    /// Gives an event to the machine and does what follows from it.
    pub(super) fn feed(&mut self, event: Event) {
        self.inbox.push_back(event);
        self.settle();
    }

    /// Gives what waits in the inbox to the machine.
    pub(super) fn settle(&mut self) {
        if self.settling {
            return;
        }
        self.settling = true;
        let mut effects: Vec<Effect> = Vec::new();
        while let Some(event) = self.inbox.pop_front() {
            self.machine.step(event, &mut effects);
            for effect in effects.drain(..) {
                self.effect(effect);
            }
        }
        self.settling = false;
        for (id, session) in &mut self.sessions {
            if let Some(member) = self.machine.member(*id) {
                session.leaving = member.leaving;
            }
        }
    }

    pub(super) fn arm(&mut self, timer: Timer) {
        let now = Instant::now();
        match timer {
            Timer::Retry => self.retry = Some(now + RETRY_AFTER),
            timer => self.timer = Some((now + self.limit(timer), timer)),
        }
    }

    /// Timers that went off, and the liveness locks.
    fn due(&mut self) {
        let now = Instant::now();
        if let Some((_, timer)) = self.timer.take_if(|(at, _)| *at <= now) {
            self.feed(Event::Deadline(timer));
        }
        if self.retry.take_if(|at| *at <= now).is_some() {
            self.feed(Event::Deadline(Timer::Retry));
        }
        self.drains_due(now);
        if self.probe <= now {
            self.look_for_dead();
        }
    }

    /// Asks whether anybody is dead, and frees what the dead held: all pidfds in one call, and a bounded number of locks.
    pub(super) fn look_for_dead(&mut self) {
        self.probed_at = Instant::now();
        self.probe = self.probed_at + PROBE_EVERY;
        self.reclaim_remains();
        let mut dead = self.exited();
        let later = (Bound::Excluded(self.probed), Bound::Unbounded);
        let in_turn = self.sessions.range(later).chain(self.sessions.range(..=self.probed));
        let asked: Vec<(u64, u32)> = in_turn.filter_map(|(&id, s)| Some((id, s.row?))).take(PROBE_LOCKS).collect();
        self.probed = asked.last().map_or(0, |(id, _)| *id);
        dead.extend(asked.iter().filter(|(_, row)| self.ground.is_dead(*row)).map(|(id, _)| *id));
        for id in dead {
            self.dead(id);
        }
    }

    /// For a newcomer who asked then and finds no room: the next probe would find the dead only later. Whether it was looked;
    /// of all who asked before one look, only the first has it made.
    pub(super) fn make_room(&mut self, asked: Instant) -> bool {
        let is_due = self.probed_at <= asked;
        if is_due {
            self.look_for_dead();
        }
        is_due
    }

    /// Those whose pidfd says that they are dead.
    fn exited(&self) -> Vec<u64> {
        let watched: Vec<_> = self.sessions.iter().filter_map(|(&id, s)| Some((id, s.pidfd.as_ref()?))).collect();
        let mut polled: Vec<_> = watched.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        if poll(&mut polled, PollTimeout::ZERO).unwrap_or(0) == 0 {
            return Vec::new();
        }
        watched.iter().zip(&polled).filter(|(_, p)| is_readable(p)).map(|((id, _), _)| *id).collect()
    }

    /// Waits for a command, a death or a timer; not at all while a round has slices left.
    fn wait(&mut self) {
        let now = Instant::now();
        let drains = self.drains.iter().filter_map(|d| d.late_at);
        let next = [Some(self.probe), self.timer.map(|(at, _)| at), self.retry, self.retire.iter().map(|r| r.0).min()];
        let next = next.into_iter().flatten().chain(drains).min().unwrap_or(self.probe);
        let mut limit = next.saturating_duration_since(now);
        if let Some(work) = self.active.as_ref().and_then(Active::work_within) {
            limit = limit.min(work);
        }
        if self.stale || self.is_checking() || !self.mailbox.is_empty() {
            limit = Duration::ZERO;
        }
        let rounded_up = limit.as_micros().div_ceil(1000);
        let limit = PollTimeout::from(u16::try_from(rounded_up).unwrap_or(u16::MAX));
        let watched: Vec<(u64, &std::os::fd::OwnedFd)> =
            self.sessions.iter().filter_map(|(&id, s)| Some((id, s.pidfd.as_ref()?))).collect();
        let mut polled = vec![PollFd::new(self.mailbox.wake().as_fd(), PollFlags::POLLIN)];
        polled.extend(watched.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        if poll(&mut polled, limit).unwrap_or(0) == 0 {
            return;
        }
        let woken = is_readable(&polled[0]);
        let dead: Vec<u64> =
            watched.iter().zip(&polled[1..]).filter(|(_, p)| is_readable(p)).map(|((id, _), _)| *id).collect();
        if woken {
            // Emptied by the mailbox's pops; a value lost here wakes once too often or not at all needed.
            let _ = self.mailbox.wake().read();
        }
        for id in dead {
            self.dead(id);
        }
    }
}

fn is_readable(polled: &PollFd<'_>) -> bool {
    polled.revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

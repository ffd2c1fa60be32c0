//! The handle that transports hold: every call is a message to the arbiter's thread, and returns at once.
//!
//! The queue is bounded: what does not fit is refused as `SHUTTING_DOWN`, as it is once the thread has ended; what instances say
//! always fits if they wait for it ([`Arbiter::message_taken`]). Dropping the last handle without [`Arbiter::shutdown`] is a
//! crash of the arbiter: data planes go on, and the next arbiter recovers.

use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mailbox::{Command, Mailbox};
use super::message::{
    FromInstance, Hello, Observer, Outbox, Refusal, Reply, RollbackRequest, SwitchRequest, Watcher, Welcome,
};
use super::reason::Reason;
use super::record::Record;
use super::status::{InstanceStatus, RegionStatus};

/// What [`Arbiter::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Every fault, at most [`VerifyReport::FAULTS_MAX`] of them.
    pub faults: Vec<FaultReport>,
    /// How many there are.
    pub fault_count: u64,
    /// Bytes checked.
    pub checked_bytes: u64,
    /// Bytes of pages of which a reboot left something else than was digested: no fault, and no proof.
    pub unverifiable_bytes: u64,
    /// Where they are, at most [`VerifyReport::FAULTS_MAX`] ranges.
    pub unverifiable: Vec<Range<u64>>,
}

/// How far [`Arbiter::verify`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes checked.
    pub checked_bytes: u64,
    /// Of these.
    pub total_bytes: u64,
    /// The handover that it waits for.
    pub paused_by: Option<u64>,
}

impl VerifyReport {
    /// Faults that are told one by one.
    pub const FAULTS_MAX: usize = 100;
}

/// Bytes that are not as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultReport {
    /// Which structure.
    pub structure: String,
    /// Where in the file.
    pub offset_bytes: u64,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
    /// The word.
    pub reason: Reason,
}

struct Owner {
    mailbox: Arc<Mailbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.mailbox.push(Command::Vanish);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            // The thread looks at its mailbox between bounded pieces of work; its keeper is free once it has ended.
            let _ = thread.join();
        }
    }
}

/// The one authority over a region's ownership, on its own thread. Clones are the same arbiter.
#[derive(Clone)]
pub struct Arbiter {
    owner: Arc<Owner>,
}

/// An instance's way to the arbiter that does not keep it: its own thread may hold this, and drop it.
pub struct Voice {
    mailbox: Arc<Mailbox>,
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Voice")
    }
}

impl Voice {
    /// As [`Arbiter::message_taken`]; nothing is heard by an arbiter that is gone.
    pub fn message_taken(&self, incarnation: u64, message: FromInstance, taken: Reply<()>) {
        self.mailbox.push(Command::Message { incarnation, message, taken: Some(taken) });
    }
    /// As [`Arbiter::disconnected`].
    pub fn disconnected(&self, incarnation: u64) {
        self.mailbox.push(Command::Disconnected { incarnation });
    }
}

impl fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arbiter")
    }
}

impl Arbiter {
    pub(crate) fn with(mailbox: Arc<Mailbox>, thread: JoinHandle<()>) -> Self {
        Self { owner: Arc::new(Owner { mailbox, thread: Mutex::new(Some(thread)) }) }
    }
    fn send(&self, command: Command) {
        self.owner.mailbox.push(command);
    }

    /// Attaches an instance, or takes it back by its resume token: same row and incarnation, a new outbox; its needs and
    /// readiness are declared anew. `pidfd` proves its death; without one the region's lock is asked.
    ///
    /// # Errors
    /// `CALLER_DENIED` for a wrong token or another uid, `INSTANCE_NOT_FOUND` for one that is gone (attach anew),
    /// `INVALID_NAME` for a version label, `TABLE_FULL`, `REGION_CORRUPT`, `SHUTTING_DOWN`.
    pub fn attach(
        &self,
        hello: Hello,
        pidfd: Option<OwnedFd>,
        outbox: Box<dyn Outbox>,
        reply: Reply<Result<Welcome, Refusal>>,
    ) {
        self.send(Command::Attach { hello, pidfd, outbox, asked: Instant::now(), reply });
    }
    /// Something that an instance said. Ignored if it is not attached any more, and dropped if the queue is full.
    pub fn message(&self, incarnation: u64, message: FromInstance) {
        self.send(Command::Message { incarnation, message, taken: None });
    }
    /// As [`Arbiter::message`], and never dropped: `taken` is called once the arbiter has heard it. Who waits for that before the
    /// next message of the same instance keeps a flood of one from taking the others' room.
    pub fn message_taken(&self, incarnation: u64, message: FromInstance, taken: Reply<()>) {
        self.send(Command::Message { incarnation, message, taken: Some(taken) });
    }
    /// For who speaks from the arbiter's own thread.
    pub fn voice(&self) -> Voice {
        Voice { mailbox: Arc::clone(&self.owner.mailbox) }
    }
    /// The stream is gone: the instance keeps row and role until its death is proved or it comes back.
    pub fn disconnected(&self, incarnation: u64) {
        self.send(Command::Disconnected { incarnation });
    }
    /// The caller knows that this instance is dead. For the embedded mode alone, where an instance is no process.
    pub fn proved_dead(&self, incarnation: u64) {
        self.send(Command::ProvedDead { incarnation });
    }
    /// Makes the target the owner. The reply comes when it is decided (`Ok` also for an aborted one: see the record's
    /// outcome); the observer hears each change to the end of the drain.
    ///
    /// # Errors
    /// A [`Refusal`]: nothing began, nothing changed.
    pub fn handover(
        &self,
        request: SwitchRequest,
        caller: String,
        observer: Observer,
        reply: Reply<Result<Record, Refusal>>,
    ) {
        self.send(Command::Handover { request, caller, observer, reply });
    }
    /// Undoes a handover by handing back to who owned before it. Answers as [`Arbiter::handover`].
    ///
    /// # Errors
    /// A [`Refusal`]: nothing began, nothing changed.
    pub fn rollback(
        &self,
        request: RollbackRequest,
        caller: String,
        observer: Observer,
        reply: Reply<Result<Record, Refusal>>,
    ) {
        self.send(Command::Rollback { request, caller, observer, reply });
    }
    /// Aborts the handover `number`, or the running one; the reply comes when it is decided.
    ///
    /// # Errors
    /// `ALREADY_COMMITTED` if it came too late, `HANDOVER_NOT_FOUND`.
    pub fn abort(&self, number: Option<u64>, note: String, reply: Reply<Result<Record, Refusal>>) {
        self.send(Command::Abort { number, note, reply });
    }
    /// Asks an instance to drain and leave; the reply comes when it was asked.
    ///
    /// # Errors
    /// `INSTANCE_NOT_FOUND`, `UNREACHABLE` without a stream, `OWNER_WOULD_VACATE` for an owner whom nobody would follow,
    /// unless `force`.
    pub fn drain(
        &self,
        instance: String,
        force: bool,
        timeout: Option<Duration>,
        reply: Reply<Result<InstanceStatus, Refusal>>,
    ) {
        self.send(Command::Drain { instance, force, timeout, reply });
    }
    /// Follows a handover to the end of its drain; the first event is its record now.
    ///
    /// # Errors
    /// `HANDOVER_NOT_FOUND`.
    pub fn watch_handover(&self, number: u64, observer: Observer, reply: Reply<Result<(), Refusal>>) {
        self.send(Command::WatchHandover { number, observer, reply });
    }
    /// Follows the region: without `after` the state now, then each change; else the changes after that sequence number.
    ///
    /// # Errors
    /// `INVALID_FIELD` if that number is forgotten or was never given: start anew.
    pub fn watch(&self, after: Option<u64>, watcher: Watcher, reply: Reply<Result<(), Refusal>>) {
        self.send(Command::Watch { after, watcher, reply });
    }
    /// The region now.
    pub fn status(&self, reply: Reply<RegionStatus>) {
        self.send(Command::Status { reply });
    }
    /// At most `newest` records, newest first, of those numbered below `before`.
    pub fn history(&self, newest: usize, before: Option<u64>, reply: Reply<Vec<Record>>) {
        self.send(Command::History { newest, before, reply });
    }
    /// One record.
    ///
    /// # Errors
    /// `HANDOVER_NOT_FOUND`.
    pub fn record(&self, number: u64, reply: Reply<Result<Record, Refusal>>) {
        self.send(Command::Record { number, reply });
    }
    /// Checks every checksum, a slice at a time between other things. A handover that begins goes first: the check pauses, says
    /// so, and goes on after it. `progress` says whether somebody still waits for the verdict; if not, the check ends.
    ///
    /// # Errors
    /// `HANDOVER_IN_PROGRESS` if one is running now, `TABLE_FULL` if too many wait for a check.
    pub fn verify(
        &self,
        progress: Box<dyn FnMut(VerifyProgress) -> bool + Send>,
        reply: Reply<Result<VerifyReport, Refusal>>,
    ) {
        self.send(Command::Verify { progress, reply });
    }
    /// Ends the thread in order: a running handover is aborted, requests are refused as `SHUTTING_DOWN`, data planes go on.
    /// Returns when the keeper is free for the next arbiter.
    pub fn shutdown(self) {
        self.send(Command::Shutdown { reply: Box::new(|()| ()) });
        let thread = self.owner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
    /// Runs one of the calls above and waits for its answer: `None` if the arbiter is gone, or after `timeout`.
    pub fn ask<T: Send + 'static>(timeout: Duration, call: impl FnOnce(Reply<T>)) -> Option<T> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        call(Box::new(move |answer| drop(sender.try_send(answer))));
        receiver.recv_timeout(timeout).ok()
    }
}

//! The queue between handles and thread: bounded, and open as long as the thread runs.
//!
//! What must not be lost has room in a full queue: the end of the thread, the end of a stream, a death, and a message whose
//! sender waits until it was taken. Each of them is at most one for each stream, so the queue stays bounded.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::handle::{VerifyProgress, VerifyReport};
use super::message::{
    FromInstance, Hello, Observer, Outbox, Refusal, Reply, RollbackRequest, SwitchRequest, Watcher, Welcome,
};
use super::reason::Reason;
use super::record::Record;
use super::status::{InstanceStatus, RegionStatus};

/// Messages that wait for the thread at most.
const QUEUE_MAX: usize = 16 * 1024;

/// What the thread is told.
pub(crate) enum Command {
    Attach {
        hello: Hello,
        pidfd: Option<OwnedFd>,
        outbox: Box<dyn Outbox>,
        asked: Instant,
        reply: Reply<Result<Welcome, Refusal>>,
    },
    Message {
        incarnation: u64,
        message: FromInstance,
        /// Its sender says nothing more until it was taken.
        taken: Option<Reply<()>>,
    },
    Disconnected {
        incarnation: u64,
    },
    ProvedDead {
        incarnation: u64,
    },
    Handover {
        request: SwitchRequest,
        caller: String,
        observer: Observer,
        reply: Reply<Result<Record, Refusal>>,
    },
    Rollback {
        request: RollbackRequest,
        caller: String,
        observer: Observer,
        reply: Reply<Result<Record, Refusal>>,
    },
    Abort {
        number: Option<u64>,
        note: String,
        reply: Reply<Result<Record, Refusal>>,
    },
    Drain {
        instance: String,
        force: bool,
        timeout: Option<Duration>,
        reply: Reply<Result<InstanceStatus, Refusal>>,
    },
    WatchHandover {
        number: u64,
        observer: Observer,
        reply: Reply<Result<(), Refusal>>,
    },
    Watch {
        after: Option<u64>,
        watcher: Watcher,
        reply: Reply<Result<(), Refusal>>,
    },
    Status {
        reply: Reply<RegionStatus>,
    },
    History {
        newest: usize,
        before: Option<u64>,
        reply: Reply<Vec<Record>>,
    },
    Record {
        number: u64,
        reply: Reply<Result<Record, Refusal>>,
    },
    Verify {
        progress: Box<dyn FnMut(VerifyProgress) -> bool + Send>,
        reply: Reply<Result<VerifyReport, Refusal>>,
    },
    Shutdown {
        reply: Reply<()>,
    },
    /// The last handle is gone.
    Vanish,
}

impl Command {
    /// True for what is taken into a full queue, too.
    fn has_room(&self) -> bool {
        match self {
            Self::Vanish | Self::Shutdown { .. } | Self::Disconnected { .. } | Self::ProvedDead { .. } => true,
            Self::Message { taken, .. } => taken.is_some(),
            _ => false,
        }
    }

    /// Answers with a refusal, where the answer can be one.
    fn refuse(self, refusal: &Refusal) {
        let no = refusal.clone();
        match self {
            Self::Attach { reply, .. } => reply(Err(no)),
            Self::Handover { reply, .. } | Self::Rollback { reply, .. } | Self::Abort { reply, .. } => reply(Err(no)),
            Self::Record { reply, .. } => reply(Err(no)),
            Self::Drain { reply, .. } => reply(Err(no)),
            Self::WatchHandover { reply, .. } | Self::Watch { reply, .. } => reply(Err(no)),
            Self::Verify { reply, .. } => reply(Err(no)),
            Self::Shutdown { reply } => reply(()),
            // Dropped replies say that the arbiter is gone.
            Self::Status { .. } | Self::History { .. } => {}
            Self::Message { .. } | Self::Disconnected { .. } | Self::ProvedDead { .. } | Self::Vanish => {}
        }
    }
}

/// What handles and thread share.
pub(crate) struct Mailbox {
    /// None: the thread has ended.
    queue: Mutex<Option<VecDeque<Command>>>,
    wake: EventFd,
}

impl Mailbox {
    pub(crate) fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { queue: Mutex::new(Some(VecDeque::new())), wake })
    }
    fn queue(&self) -> MutexGuard<'_, Option<VecDeque<Command>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn push(&self, command: Command) {
        let mut queue = self.queue();
        match queue.as_mut() {
            Some(waiting) if command.has_room() || waiting.len() < QUEUE_MAX => waiting.push_back(command),
            _ => {
                drop(queue);
                return command.refuse(&Refusal::new(Reason::ShuttingDown, "the arbiter has ended, or is overrun"));
            }
        }
        drop(queue);
        // A full counter means that the thread is woken anyhow.
        let _ = self.wake.write(1);
    }
    pub(crate) fn pop(&self) -> Option<Command> {
        self.queue().as_mut()?.pop_front()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.queue().as_ref().is_none_or(VecDeque::is_empty)
    }
    /// Refuses what waits and what will come.
    pub(crate) fn close(&self, refusal: &Refusal) {
        // Without the lock: an answer may come back with another message.
        let waiting = self.queue().take();
        waiting.into_iter().flatten().for_each(|command| command.refuse(refusal));
    }
    /// Drops what waits: transports see an arbiter that is gone.
    pub(crate) fn close_silently(&self) {
        let waiting = self.queue().take();
        drop(waiting);
    }
    pub(crate) fn wake(&self) -> &EventFd {
        &self.wake
    }
}

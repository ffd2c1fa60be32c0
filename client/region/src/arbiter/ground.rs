//! What the arbiter's thread needs of the ground it stands on: a region held exclusively.
//!
//! The one real implementation is the region's keeper; tests put a ground of their own under the same thread, to make what
//! a real region does rarely. Every call is bounded in time, and errors are answers: bytes in the region never panic here.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::handle::VerifyReport;
use super::message::HookSet;
use super::needs::Present;
use super::reason::Reason;
use crate::error::{Error, Full};

/// Something that the ground could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// Its limit, where it is one that is reached.
    pub(crate) limit: Option<u64>,
}

impl Fault {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), limit: None }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let reason = match Reason::from_word(error.reason()) {
            Reason::Unspecified => Reason::Io,
            reason => reason,
        };
        let limit = match &error {
            Error::Full(Full::Table { limit, .. }) => Some(*limit),
            Error::Full(Full::Region { limit_bytes, .. } | Full::Value { limit_bytes, .. }) => Some(*limit_bytes),
            _ => None,
        };
        Self { reason, message: error.to_string(), limit }
    }
}

/// What the region is, apart from what changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) uuid: [u8; 16],
    pub(crate) limit_bytes: u64,
}

/// The current superblock, as far as the arbiter is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) generation: u64,
    pub(crate) owner: u64,
    pub(crate) root_digest: u64,
    pub(crate) unix_ms: u64,
    /// No switch opened this generation: the reset after a reboot did, and this one was the newest known to have been open.
    pub(crate) reset: Option<u64>,
}

/// A row of the instance table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) row: u32,
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
    pub(crate) instance: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) attach_unix_ms: u64,
    pub(crate) token: [u8; 16],
    /// It said in the region that it is about to leave: its death is no crash.
    pub(crate) leaving: bool,
    /// As it declared them to the arbiter before, if it has.
    pub(crate) hooks: Option<HookSet>,
}

/// Who is to be seated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Newcomer {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) token: [u8; 16],
}

/// How far a slice of a round came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// The round is over; so many pages were checked in it.
    Done(u64),
    /// There is more.
    More,
    /// The owner's writers are still in sections of the round before.
    Blocked,
}

/// A point between freeze and commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Frozen,
    Sealed,
}

/// What a commit reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) generation: u64,
    pub(crate) attempt: u64,
    pub(crate) root_digest: u64,
    pub(crate) frozen_pages: u64,
    pub(crate) closed: Duration,
}

/// Why there was no commit; the gate is open under the old generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotClosed {
    /// Writers did not leave within the budget.
    Stuck(String),
    /// The freezer was too slow, or somebody thawed the gate: no fault of the owner's.
    Late(String),
    /// `go` said no.
    Stopped,
    /// It could not be done.
    Failed(Fault),
}

/// A look at the whole region, in slices; the ground may change between two of them.
pub(crate) trait Checks: Send {
    /// Looks at the next slice; false once there is nothing left.
    fn step(&mut self) -> bool;
    /// Bytes checked, and bytes in all.
    fn progress(&self) -> (u64, u64);
    fn report(self: Box<Self>) -> VerifyReport;
}

/// A region held exclusively.
pub(crate) trait Ground: Send {
    fn identity(&self) -> Identity;
    fn sealed(&self) -> Sealed;
    fn used_bytes(&self) -> u64;
    /// Begins a round: the pages marked before now are checked in it.
    fn begin_round(&mut self) -> Result<(), Fault>;
    fn round_slice(&mut self, pages_max: u32) -> Result<Slice, Fault>;
    /// Pages marked since the last completed round began.
    fn dirty_pages(&self) -> u64;
    /// The same right after a round, perhaps estimated.
    fn left_pages(&self) -> u64 {
        self.dirty_pages()
    }
    /// Pages that can be checked within `budget`.
    fn pages_within(&self, budget: Duration) -> u64;
    fn note_totals(&mut self) -> Result<(), Fault>;
    /// Stored before a freeze, so that writers know when to thaw.
    fn set_budget(&mut self, budget: Duration);
    /// Freeze, seal, commit, without a pause between. `go` is asked after the first and the second.
    fn close(
        &mut self,
        budget: Duration,
        owner: u64,
        schemas: u64,
        go: &mut dyn FnMut(Closing) -> bool,
    ) -> Result<Closed, NotClosed>;
    /// The longest wait that a writer measured at this attempt.
    fn blackout(&self, attempt: u64) -> Option<Duration>;
    fn rows(&self) -> Vec<Row>;
    /// Whether the process with this pid has the region mapped: a pid that a row names is input, and is neither believed in as
    /// proof of anything nor sent a signal before.
    fn is_mapped_by(&self, _pid: u32) -> bool {
        true
    }
    fn seat(&mut self, newcomer: &Newcomer) -> Result<(Row, Option<OwnedFd>), Fault>;
    /// Keeps which hooks it has. A failure costs that each is believed to be there after the arbiter's next start.
    fn note_hooks(&mut self, row: u32, incarnation: u64, hooks: HookSet);
    /// Whether the row's liveness lock proves its death.
    fn is_dead(&self, row: u32) -> bool;
    /// Frees what the dead held, on the proof of its pidfd or of its lock.
    fn reclaim(&mut self, row: u32, incarnation: u64, pidfd: Option<BorrowedFd<'_>>) -> Result<(), Fault>;
    /// Owners' deaths that were crashes, the newest ones, oldest first: generation, and when by the wall clock.
    fn deaths(&self) -> Vec<(u64, u64)>;
    /// Keeps one more, once for each generation. A failure costs its being counted after the arbiter's next start.
    fn note_death(&mut self, generation: u64, unix_ms: u64);
    fn forget_deaths(&mut self);
    fn history_len_max(&self) -> usize;
    /// Each with the number that its place says.
    fn history(&self) -> Vec<(u64, Vec<u8>)>;
    fn put_history(&mut self, number: u64, bytes: &[u8]) -> Result<(), Fault>;
    /// Names of owned objects, each with every list of schemas that values under it have.
    fn present(&mut self) -> Result<Vec<Present>, Fault>;
    fn object_counts(&self) -> BTreeMap<String, u64>;
    /// Begins to check everything that can be checked.
    fn verification(&self) -> Box<dyn Checks>;
}

//! What crosses between the arbiter and its transports: requests, what instances say and hear, refusals.
//!
//! Everything here is plain data that a transport maps one to one onto the protocol.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::reason::Reason;
use super::record::{Cause, InstanceRef, Phase, Record};
use super::status::{HandoverEvent, RegionEvent, Undrained};

/// Where an answer goes: called exactly once, on the arbiter's thread, so it must not block. Dropped uncalled only when
/// the arbiter vanishes.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;
/// Hears each change of one handover until it answers `false`, and the last record once it is over; then it is dropped. Must
/// not block: one that has no room for more answers `false`. `None` only asks whether anybody is there.
pub type Observer = Box<dyn FnMut(Option<HandoverEvent>) -> bool + Send>;
/// Hears each change of the region until it answers `false`. Must not block.
pub type Watcher = Box<dyn FnMut(RegionEvent) -> bool + Send>;

/// Who attaches. A transport checks the caller first; `uid` is the kernel's word, never the caller's.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    /// Label of its build: 1 to 63 bytes.
    pub version: String,
    /// In the arbiter's pid namespace; 0 if not visible.
    pub pid: u32,
    /// From the peer's credentials.
    pub uid: u32,
    /// The process's start time in clock ticks after boot; 0 if not visible.
    pub start_ticks: u64,
    /// Who it was before, with the token it was given: comes back as the same instance.
    pub resume: Option<(String, [u8; 16])>,
    /// Reads only: takes no row of the instance table and cannot own.
    pub read_only: bool,
}

/// What an attached instance is given.
#[derive(Debug)]
pub struct Welcome {
    /// Its name.
    pub instance: String,
    /// To come back as the same instance.
    pub resume_token: [u8; 16],
    /// Never reused.
    pub incarnation: u64,
    /// Its row in the instance table (with the incarnation, its seat); none for an observer.
    pub row: Option<u32>,
    /// Locked for it: to be mapped by the instance, then closed on both sides. None on the heap, for observers, and on resuming.
    pub liveness: Option<OwnedFd>,
}

/// An object that an instance opened, and which schemas of it its build reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The object's name.
    pub object: String,
    /// The object's kind, as `status` counts it.
    pub kind: String,
    /// Schemas that can be read or migrated.
    pub readable: Vec<u32>,
    /// Schemas that are written.
    pub written: Vec<u32>,
}

/// What an instance says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromInstance {
    /// Needs beyond those declared before; the same object again replaces its need.
    Declare(Vec<Need>),
    /// Whether it may own.
    Ready {
        /// It may.
        ready: bool,
        /// Why not.
        message: String,
        /// Which hooks it has; none: it did not say, and each may be there.
        hooks: Option<HookSet>,
    },
    /// A hook has run.
    HookResult {
        /// Which call.
        call_id: u64,
        /// It agreed.
        ok: bool,
        /// Why it did not.
        veto: String,
    },
    /// Work in flight, by kind.
    InFlight {
        /// All of it.
        counts: BTreeMap<String, u64>,
        /// Why of it is left what is: for each part of which that is known. Said while it drains.
        left: Vec<Undrained>,
        /// It knows that it does not own, and nothing is left.
        drained: bool,
    },
    /// It wants to leave: an owner hands over or leaves the region vacant; then it drains.
    Leave {
        /// After which the drain is reported as late; the configured one if none.
        drain_timeout: Option<Duration>,
    },
}

/// Which hooks an instance has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookSet {
    /// [`Hook::Prepare`]. Called anyhow: the answer shows that the target is there.
    pub prepare: bool,
    /// [`Hook::Flush`]. An owner without one is not asked: that its writers are in no section is all that is needed of it.
    pub flush: bool,
    /// [`Hook::Resume`]. Told anyhow, and not awaited.
    pub resume: bool,
}

impl HookSet {
    const PREPARE: u32 = 1;
    const FLUSH: u32 = 2;
    const RESUME: u32 = 4;

    /// As the region keeps them. A bit of a later release stands for a hook that this one never calls.
    pub(crate) fn bits(self) -> u32 {
        let bit = |has: bool, bit: u32| if has { bit } else { 0 };
        bit(self.prepare, Self::PREPARE) | bit(self.flush, Self::FLUSH) | bit(self.resume, Self::RESUME)
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        let has = |bit: u32| bits & bit != 0;
        Self { prepare: has(Self::PREPARE), flush: has(Self::FLUSH), resume: has(Self::RESUME) }
    }
}

/// A hook of the client crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// On the target, before anything changes.
    Prepare,
    /// On the owner, still owning.
    Flush,
    /// On the owner, after an abort that came after the flush began. Its result is not awaited.
    Resume,
}

/// What an instance hears. None of it is truth: the gate and the superblock decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToInstance {
    /// Run a hook; the same call may come again after the link was lost.
    HookCall {
        /// To be given back with the result.
        call_id: u64,
        /// Which.
        hook: Hook,
        /// The handover it belongs to.
        record: Box<Record>,
        /// Left until the arbiter aborts.
        timeout: Duration,
    },
    /// The generation changed.
    GenerationHint {
        /// Open now.
        generation: u64,
        /// How it came.
        cause: Cause,
        /// Who owned before.
        previous: Option<InstanceRef>,
        /// Who owns now.
        owner: Option<InstanceRef>,
        /// Longest wait that a writer measured at the switch.
        writer_blackout_us: Option<u64>,
    },
    /// What it said of its readiness is taken into account from here on.
    ReadyNoted {
        /// What it said.
        ready: bool,
    },
    /// Please drain and leave.
    LeaveRequest {
        /// After which the drain is reported as late.
        drain_timeout: Duration,
        /// Why.
        message: String,
    },
}

/// The way to one instance. Kept by the arbiter's thread: sending must not block, and it must not own an [`Arbiter`], which
/// would then never see its last handle dropped.
///
/// [`Arbiter`]: super::Arbiter
pub trait Outbox: Send {
    /// Hands the message on; `false` if the stream is gone.
    fn send(&mut self, message: ToInstance) -> bool;
}

/// Who is to own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The only eligible standby that has not owned yet.
    #[default]
    Any,
    /// By name.
    Instance(String),
    /// By the label of its build.
    Version(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Any => f.write_str("any standby"),
            Target::Instance(name) => write!(f, "instance {name}"),
            Target::Version(version) => write!(f, "version {version}"),
        }
    }
}

/// Options of a switch. None means what the region's policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchOptions {
    /// Compare-and-swap.
    pub expected_generation: Option<u64>,
    /// Remembered as long as the record; at most 64 bytes; empty: none. The same request with the same id joins the handover,
    /// or answers its record; another one ([`terms`](Self::terms)) with that id is refused, and changes nothing.
    pub request_id: String,
    /// Every verdict, no change.
    pub validate_only: bool,
    /// Kill an owner that does not quiesce.
    pub force: bool,
    /// For people; at most 512 bytes are kept.
    pub note: String,
    /// How long to wait for a target to become eligible.
    pub ready_timeout: Option<Duration>,
    /// For the target's hook.
    pub prepare_timeout: Option<Duration>,
    /// For the rounds.
    pub precopy_timeout: Option<Duration>,
    /// For the owner's hook.
    pub flush_timeout: Option<Duration>,
    /// The longest blackout risked.
    pub freeze_timeout: Option<Duration>,
    /// After which the drain is reported as late.
    pub drain_timeout: Option<Duration>,
    /// The old owner is asked to leave so long after its drain.
    pub retire_after: Option<Duration>,
}

impl SwitchOptions {
    /// What decides what is done, as a request id stands for it: all but the id itself, and the note, which is for people.
    pub fn terms(&self) -> String {
        let Self {
            expected_generation,
            request_id: _,
            validate_only,
            force,
            note: _,
            ready_timeout,
            prepare_timeout,
            precopy_timeout,
            flush_timeout,
            freeze_timeout,
            drain_timeout,
            retire_after,
        } = self;
        let mut terms = Vec::new();
        terms.extend(expected_generation.map(|generation| format!("expected_generation {generation}")));
        terms.extend(validate_only.then(|| "validate_only".to_owned()));
        terms.extend(force.then(|| "force".to_owned()));
        let times = [
            ("ready_timeout", ready_timeout),
            ("prepare_timeout", prepare_timeout),
            ("precopy_timeout", precopy_timeout),
            ("flush_timeout", flush_timeout),
            ("freeze_timeout", freeze_timeout),
            ("drain_timeout", drain_timeout),
            ("retire_after", retire_after),
        ];
        terms.extend(times.iter().filter_map(|(name, time)| time.map(|time| format!("{name} {time:?}"))));
        if terms.is_empty() { "no options".to_owned() } else { terms.join(", ") }
    }
}

/// A handover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchRequest {
    /// To whom.
    pub target: Target,
    /// How.
    pub options: SwitchOptions,
}

/// A rollback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollbackRequest {
    /// Which handover to undo; none: the last committed one.
    pub handover: Option<u64>,
    /// How.
    pub options: SwitchOptions,
}

/// Nothing was done, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The word.
    pub reason: Reason,
    /// In words.
    pub message: String,
    /// What the request supposed.
    pub expected: Option<String>,
    /// What is.
    pub found: Option<String>,
    /// The handover meant, where one is.
    pub handover: Option<u64>,
    /// How far it had come, if it had begun.
    pub phase: Option<Phase>,
}

impl Refusal {
    /// With a reason and words.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), ..Self::default() }
    }
    /// Adds what was expected and what was found.
    #[must_use]
    pub fn compare(mut self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        (self.expected, self.found) = (Some(expected.to_string()), Some(found.to_string()));
        self
    }
    /// Names the handover meant.
    #[must_use]
    pub fn about(mut self, handover: u64) -> Self {
        self.handover = Some(handover);
        self
    }
    /// The command line's exit code.
    pub fn exit_code(&self) -> u8 {
        self.reason.exit_code(self.phase)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)?;
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => write!(f, " (expected {expected}, found {found})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

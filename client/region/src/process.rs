//! What one process holds of a region: the mapping, its seat, its proof of life.
//!
//! Invariants: a process registers with `membarrier` *before* it publishes that its slots rely on it; its liveness page stays
//! mapped until the last handle is gone and its slots are returned ([`crate::gate`]), so a lane or a slot is never leased again
//! while some thread could still write to it; a forked child has no seat ([`Process::is_forked_child`]).

use std::sync::Arc;

use crate::error::{Error, Misuse};
use crate::gate::state::GateState;
use crate::instances::{self, Row, flag};
use crate::mapping::Mapping;
use crate::objects::Local;
use crate::os::liveness::LivenessPage;
use crate::os::membarrier;
use crate::sync::{AtomicU64, Ordering};
use std::os::fd::OwnedFd;

pub use crate::instances::Seat;

/// Row of a process that has none.
pub const NO_ROW: u32 = u32::MAX;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One attached process; used as `Arc<Process>`.
#[derive(Debug)]
pub struct Process {
    mapping: Arc<Mapping>,
    seat: Seat,
    id: u64,
    asymmetric: bool,
    gate: Arc<GateState>,
    objects: Arc<Local>,
}

impl Process {
    /// Takes the seat that the arbiter gave: proof of life first, then the barrier, then the slot mode.
    ///
    /// # Errors
    /// `Misuse` for a seat that is not in the table, or a liveness descriptor that is missing or proves nothing, `Io`,
    /// `Corrupt`.
    pub fn attach(mapping: Arc<Mapping>, seat: Seat, liveness: Option<OwnedFd>) -> Result<Arc<Self>, Error> {
        mapping.check_writable()?;
        let row = instances::read(&mapping, seat.row)?;
        if seat.incarnation == 0 || row.as_ref().is_none_or(|row| row.seat != seat) {
            let taken = row.map_or(0, |row| row.seat.incarnation);
            let found = format!("row {} holds {taken:#018x}, not {:#018x}", seat.row, seat.incarnation);
            return Err(Misuse::Argument { what: "seat", found }.into());
        }
        if mapping.fd().is_some() && liveness.is_none() {
            let found = "none, and without it this process is dead to the others".into();
            return Err(Misuse::Argument { what: "liveness descriptor", found }.into());
        }
        let held = liveness.map(LivenessPage::hold).transpose()?;
        if held.is_some() && instances::is_dead(&mapping, seat.row)? {
            let found = format!("one that does not hold the byte of row {}", seat.row);
            return Err(Misuse::Argument { what: "liveness descriptor", found }.into());
        }
        let asymmetric = membarrier::register();
        let mode = if asymmetric { flag::ASYMMETRIC } else { flag::SYMMETRIC };
        // After the registration: a freezer that reads "asymmetric" may rely on its barrier reaching us.
        Row::of(&mapping, seat.row)?.flags().fetch_or(mode, Ordering::SeqCst);
        let process = Self::new(Arc::clone(&mapping), seat, asymmetric, held);
        if process.is_err() && mapping.fd().is_none() {
            // No slot was free. On a file the lock went with the page; on the heap a flag says that nobody sits here.
            Row::of(&mapping, seat.row)?.flags().fetch_or(flag::GONE, Ordering::Release);
        }
        Ok(Arc::new(process?))
    }

    /// A process without a seat: it reads, and has neither slots nor lanes.
    ///
    /// # Errors
    /// `Corrupt` where the gate is outside what is allocated.
    pub fn observer(mapping: Arc<Mapping>) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self::new(mapping, Seat { row: NO_ROW, incarnation: 0 }, false, None)?))
    }

    fn new(mapping: Arc<Mapping>, seat: Seat, asymmetric: bool, liveness: Option<LivenessPage>) -> Result<Self, Error> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let gate = GateState::new(&mapping, id, seat, asymmetric, liveness)?;
        let objects = Arc::default();
        Ok(Self { mapping, seat, id, asymmetric, gate, objects })
    }

    /// Its side of the gate.
    #[inline]
    pub(crate) fn gate_state(&self) -> &Arc<GateState> {
        &self.gate
    }

    /// The region.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
    /// Its row of the instance table, [`NO_ROW`] for an observer.
    pub fn row(&self) -> u32 {
        self.seat.row
    }
    /// Never reused; 0 for an observer.
    pub fn incarnation(&self) -> u64 {
        self.seat.incarnation
    }
    /// Unique among all `Process` values of this process and of those that forked it: a key for thread-local caches.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }
    /// What its objects keep beside the region.
    pub(crate) fn objects(&self) -> &Arc<Local> {
        &self.objects
    }
    /// Whether slots rely on the freezer's barrier (else they announce themselves).
    pub fn is_asymmetric(&self) -> bool {
        self.asymmetric
    }
    /// Whether the calling process is a fork of the one that attached.
    pub fn is_forked_child(&self) -> bool {
        self.mapping.is_forked_child()
    }

    /// Refuses what needs a seat of this very process.
    pub(crate) fn check_seated(&self) -> Result<(), Error> {
        if self.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        if self.seat.row == NO_ROW {
            return Err(Misuse::Argument { what: "process", found: "an observer, which writes nothing".into() }.into());
        }
        Ok(())
    }
}

impl Process {
    /// Says in the region that this process is about to leave: its death from here on is no crash, whoever finds it.
    pub fn note_leaving(&self) {
        if self.check_seated().is_ok()
            && let Ok(row) = Row::of(&self.mapping, self.seat.row)
            && row.incarnation().load(Ordering::Acquire) == self.seat.incarnation
        {
            row.flags().fetch_or(flag::LEAVING, Ordering::Release);
        }
    }

    /// Gives up the proof of life, as the kernel does when a process dies: whoever looks finds this instance dead, and frees
    /// what it held. Only for instances that share one process (embedded mode), whose handles are not used any more.
    pub fn abandon(&self) {
        // As at a death: who is in a section stays so until the keeper clears the slot.
        self.gate.give_up(false);
    }
}

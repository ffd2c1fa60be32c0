//! A region on tmpfs, kept by this process, and the handover as the arbiter does it: rounds until they converge, then
//! freeze, seal and commit.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use heirloom_region::arbiter::policy::Rounds;
use heirloom_region::digest::{Committed, Keeper, Next, RoundStep};
use heirloom_region::error::Generation;
use heirloom_region::instances::{NewInstance, Seat};
use heirloom_region::mapping::{Mapping, RegionSpec};
use heirloom_region::process::Process;
use tempfile::TempDir;

/// What a freeze may take.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(50);
/// Pages between two looks at commands, as in the arbiter.
const SLICE_PAGES: u32 = 1024;
/// The region's name and file.
const NAME: &str = "bench";

/// See the module.
pub(crate) struct Ground {
    pub(crate) keeper: Keeper,
    pub(crate) dir: TempDir,
}

/// A directory on tmpfs, where regions belong.
pub(crate) fn tmpfs() -> TempDir {
    let parent = ["/dev/shm", "/tmp"].into_iter().find(|dir| std::path::Path::new(dir).is_dir()).unwrap_or(".");
    tempfile::Builder::new().prefix("heirloom-bench-").tempdir_in(parent).expect("a directory on tmpfs")
}

impl Ground {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self::of(&RegionSpec { series_max: 200_000, ..RegionSpec::new(NAME, limit_bytes) })
    }

    pub(crate) fn of(spec: &RegionSpec) -> Self {
        let dir = tmpfs();
        let mapping = Mapping::create_file(dir.path(), spec).expect("a region");
        let (keeper, _) = Keeper::open(mapping).expect("its keeper");
        Self { keeper, dir }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join(NAME)
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        self.keeper.mapping()
    }

    /// A seat with the descriptor that proves its holder's life.
    pub(crate) fn seat(&mut self, version: &str) -> (Seat, Option<OwnedFd>) {
        let new = NewInstance { version: version.into(), ..NewInstance::default() };
        self.keeper.seat(&new).expect("a seat")
    }

    /// This process as an instance.
    pub(crate) fn attach(&mut self) -> Arc<Process> {
        let (seat, liveness) = self.seat("here");
        Process::attach(Arc::clone(self.mapping()), seat, liveness).expect("attach")
    }

    /// This process as the owner.
    pub(crate) fn own(&mut self) -> (Arc<Process>, Generation) {
        let process = self.attach();
        self.hand_over(process.incarnation());
        let generation = process.learn().expect("the generation just committed");
        (process, generation)
    }

    /// Hands over to the instance with this incarnation.
    pub(crate) fn hand_over(&mut self, incarnation: u64) -> Switched {
        let (mut progress, mut rounds) = (Rounds::default(), 0);
        self.keeper.record_totals().expect("totals");
        loop {
            self.round();
            rounds += 1;
            let (left, fits) = (self.keeper.left_pages(), self.keeper.freeze_fits(FREEZE_TIMEOUT));
            if progress.converged(left, fits) {
                break;
            }
        }
        let next = Next { owner_incarnation: incarnation, schema_fingerprint: 0 };
        let frozen = self.keeper.freeze(FREEZE_TIMEOUT).expect("a frozen gate");
        let committed = frozen.seal(next).expect("a seal").commit().expect("a commit");
        Switched { committed, rounds, waited: self.keeper.read_blackout(committed.attempt) }
    }

    fn round(&mut self) {
        self.keeper.begin_round().expect("a round");
        while !matches!(self.keeper.round_step(SLICE_PAGES).expect("a step"), RoundStep::Done { .. }) {}
    }
}

/// What a handover was.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) committed: Committed,
    pub(crate) rounds: u32,
    /// The longest wait that a writer measured for itself.
    pub(crate) waited: Option<Duration>,
}

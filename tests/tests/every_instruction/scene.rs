//! A region with something of everything in it, a seat for the child, and what may be seen after a kill.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use heirloom_region::digest::Keeper;
use heirloom_region::instances::NewInstance;
use heirloom_region::layout::RegionSpec;
use heirloom_region::mapping::Mapping;
use heirloom_region::objects::{open_gauge, open_updown};
use heirloom_region::process::{Process, Seat};
use heirloom_tests::steps::{Primitive, base, desc, switch};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;

use crate::recovery::Seen;

const LIMIT_BYTES: u64 = 16 << 20;
/// Samples that fill a chunk.
const CHUNK_SAMPLES: u32 = 120;

/// Small tables: what scans them takes fewer instructions.
fn spec() -> RegionSpec {
    let limits = RegionSpec::new("shop", LIMIT_BYTES);
    RegionSpec { instances_max: 4, lanes_max: 6, slots_max: 12, series_max: 64, history_max: 4, ..limits }
}

/// A region, and a seat in it.
pub(crate) struct Scene {
    pub(crate) primitive: Primitive,
    pub(crate) seat: Option<Seat>,
    pub(crate) liveness: Option<OwnedFd>,
    dir: TempDir,
    file: File,
}

/// The bytes of a file that were ever written, with their offsets.
pub(crate) type Bytes = Vec<(u64, Vec<u8>)>;

impl Scene {
    pub(crate) fn new(primitive: Primitive) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let mapping = Mapping::create_file(dir.path(), &spec()).expect("a region");
        let (mut keeper, _) = Keeper::open(Arc::clone(&mapping)).expect("nobody else");
        let samples = if primitive == Primitive::SeriesSeal { CHUNK_SAMPLES } else { 5 };
        let (owner, _) = instance(&mut keeper, &mapping);
        switch(&mut keeper, owner.incarnation()).expect("the first owner");
        base(&owner, owner.learn().expect("it owns"), samples).expect("room");
        let row = owner.row();
        drop(owner);
        keeper.reclaim(row).expect("gone");
        keeper.history().put(1, b"the first revision of the record").expect("room");
        let file = OpenOptions::new().read(true).open(dir.path().join("shop")).expect("the region's file");
        let mut scene = Self { primitive, seat: None, liveness: None, dir, file };
        if primitive.is_the_keepers() {
            let (owner, _) = instance(&mut keeper, &mapping);
            let generation = switch(&mut keeper, owner.incarnation()).expect("the owner");
            open_updown(&owner, &desc("open")).expect("known").add(3);
            let gauge = open_gauge(&owner, &desc("level")).expect("known");
            gauge.set(owner.learn().expect("it owns"), 1.0).expect("open");
            assert_eq!(owner.learn().expect("it owns").get(), generation);
            // It dies: its row, its slot, its lane and its share stay.
            owner.abandon();
        } else {
            let (seat, liveness) = keeper.seat(&NewInstance::default()).expect("a seat");
            switch(&mut keeper, seat.incarnation).expect("the owner");
            (scene.seat, scene.liveness) = (Some(seat), liveness);
        }
        scene
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    /// All that is in the file now.
    pub(crate) fn bytes(&self) -> Bytes {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let start = match lseek(&self.file, at, Whence::SeekData) {
                Ok(start) => start,
                Err(Errno::ENXIO) => return found,
                Err(why) => panic!("lseek: {why}"),
            };
            at = lseek(&self.file, start, Whence::SeekHole).expect("the end is a hole");
            let mut bytes = vec![0; (at - start) as usize];
            self.file.read_exact_at(&mut bytes, start as u64).expect("data");
            found.push((start as u64, bytes));
        }
    }

    pub(crate) fn copy(&self) -> PathBuf {
        self.copy_of(&self.bytes())
    }

    /// A file with these bytes, that nobody holds a lock on.
    pub(crate) fn copy_of(&self, bytes: &Bytes) -> PathBuf {
        let dir = self.dir.path().join("copy");
        let path = dir.join("shop");
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir_all(&dir).expect("a directory");
        let copy = File::create(&path).expect("a file");
        copy.set_len(self.file.metadata().expect("a file").len()).expect("sparse");
        for (at, bytes) in bytes {
            copy.write_all_at(bytes, *at).expect("room");
        }
        path
    }
}

/// Seats this process.
fn instance(keeper: &mut Keeper, mapping: &Arc<Mapping>) -> (Arc<Process>, Seat) {
    let (seat, liveness) = keeper.seat(&NewInstance::default()).expect("a seat");
    (Process::attach(Arc::clone(mapping), seat, liveness).expect("attached"), seat)
}

/// Whether the one thing is done; an error if anything else changed, or it is neither old nor new.
pub(crate) fn check(primitive: Primitive, before: &Seen, seen: &Seen) -> Result<bool, String> {
    use Primitive::*;
    // Which of what is seen may change, and into what.
    let may: &[(&str, &str)] = match primitive {
        CounterAdd | LaneClaim => &[("count", "8")],
        FloatAdd => &[("work", "2.5")],
        Observe => &[("took count", "2"), ("took sum", "1"), ("took buckets", "[1, 1, 0]")],
        UpDownAdd => &[("open of the dead", "2")],
        GaugeSet | FirstMark => &[("level", "2")],
        CellWrite => &[("basket", "another value, of another length, in the same buffers")],
        CellGrow => &[("basket", "1000 bytes of 7")],
        SeriesAppend => &[("heat", "6 samples")],
        SeriesSeal => &[("heat", "121 samples")],
        OpenCounter | OpenHistogram => &[("fresh metrics", "1")],
        OpenCell => &[("fresh cell", "another value, of another length, in the same buffers")],
        OpenSeries => &[("series", "2")],
        Attach => &[("slots", "more")],
        Detach => &[("slots", "fewer")],
        Hold | Seat | Round => &[],
        Reclaim => &[("open of the dead", "0")],
        Commit => &[("generation", "4")],
        Freeze | Seal => &[],
        History => &[("record", "the second revision of the record")],
    };
    let mut new = 0;
    for (what, was) in before {
        let Some(is) = seen.get(what) else { return Err(format!("{what} is gone: {seen:?}")) };
        let may_be = may.iter().find(|(name, _)| name == what).map(|(_, value)| *value);
        match may_be {
            _ if is == was => {}
            Some(value) if is == value => new += 1,
            Some(value) => return Err(format!("{what}: expected {was:?} or {value:?}, found {is:?}")),
            None => return Err(format!("{what}: expected {was:?}, found {is:?}")),
        }
    }
    let of_several = primitive == Observe && new > 0 && new < 3;
    Ok(new == may.len() || of_several || is_invisible(primitive))
}

/// What is done in these leaves nothing that is seen after the recovery: they undo, or are undone.
fn is_invisible(primitive: Primitive) -> bool {
    use Primitive::*;
    matches!(primitive, Attach | Detach | Hold | Seat | Round | Freeze | Seal)
}

//! A lane's lease: whoever takes the lane of the dead begins with no share of theirs.

use std::sync::Arc;

use loom::thread;

use super::bounds;
use crate::digest::Keeper;
use crate::digest::tests::attach;
use crate::layout::RegionSpec;
use crate::mapping::Mapping;
use crate::objects::lane::{LEASE, lease, row_words, strip};
use crate::objects::reclaim::reclaim_lanes;
use crate::objects::{MetricDesc, open_updown};
use crate::sync::modelled::{Memory, explore};
use crate::sync::{Ordering, fence};

const RECOVERER: u64 = 77;
const NEXT: u64 = 99;

#[test]
fn loom_lane_lease() {
    let spec = RegionSpec { lanes_max: 1, instances_max: 2, ..RegionSpec::new("r", 64 << 20) };
    let mapping = Mapping::heap(&spec).unwrap();
    let (mut keeper, _) = Keeper::open(Arc::clone(&mapping)).unwrap();
    let dead = attach(&mut keeper, "v1");
    let desc = MetricDesc { name: "open_connections", help: "", unit: "", labels: &[] };
    let share = open_updown(&dead, &desc).unwrap();
    share.inc();
    assert_eq!(row_words(&mapping, 0).unwrap()[LEASE].load(Ordering::Relaxed), dead.incarnation());
    let is_share = |word: &u64| mapping.word(strip(&mapping, 0) + 8 * word).unwrap().load(Ordering::Relaxed) == 1;
    let at = strip(&mapping, 0) + 8 * (0..8192).find(is_share).expect("the share's word");
    let dead = dead.incarnation();
    explore("lane lease", bounds(Memory::C11, 3), move || {
        let region = Arc::clone(&mapping);
        let recoverer = thread::spawn(move || reclaim_lanes(&region, dead, RECOVERER, &|_| false).unwrap().lanes);
        let leased = lease(&mapping, NEXT).is_some();
        let word = mapping.word(at).unwrap();
        if leased {
            // As counting does: a plain load and store.
            assert_eq!(word.load(Ordering::Relaxed), 0, "the share of the dead");
            word.store(word.load(Ordering::Relaxed) + 5, Ordering::Relaxed);
        }
        assert_eq!(recoverer.join().unwrap(), 2, "its own and the overflow lane");
        fence(Ordering::SeqCst);
        assert_eq!(word.load(Ordering::SeqCst), if leased { 5 } else { 0 });
    });
}

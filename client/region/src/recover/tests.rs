use super::*;
use crate::instances::NewInstance;
use crate::layout::RegionSpec;
use crate::objects::{MetricDesc, open_counter, open_updown};
use crate::process::Process;

fn region(dir: &tempfile::TempDir) -> Arc<Mapping> {
    let spec = RegionSpec { instances_max: 4, lanes_max: 4, slots_max: 16, ..RegionSpec::new("r", 4 << 20) };
    Mapping::create_file(dir.path(), &spec).unwrap()
}

fn record_word(mapping: &Mapping, i: u64) -> &crate::sync::AtomicU64 {
    mapping.word(mapping.control(control::BOOT) + 8 * i).unwrap()
}

#[test]
fn another_boot_is_seen_and_its_people_are_forgotten() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = region(&dir);
    let hold = KeeperHold::take(&mapping).unwrap();
    assert_eq!(Boot::of(&hold).unwrap(), Boot::Same);
    let former = [5u8; 16];
    mapping.copy_in(mapping.control(control::BOOT), &former).unwrap();
    record_word(&mapping, 2).store(crc32(&former).into(), Ordering::Release);
    let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
    // A reboot leaves no lock.
    drop(lock);
    mapping.word(mapping.segment(SegmentKind::Slots).offset).unwrap().store(seat.incarnation, Ordering::Relaxed);
    assert_eq!(Boot::of(&hold).unwrap(), Boot::Other);
    Boot::forget_former(&hold).unwrap();
    assert_eq!(Boot::of(&hold).unwrap(), Boot::Other, "until it is adopted, so that a kill in between does it again");
    Boot::adopt(&mapping).unwrap();
    assert_eq!(Boot::of(&hold).unwrap(), Boot::Same);
    assert_eq!(instances::rows(&mapping).count(), 0);
    assert_eq!(mapping.word(mapping.segment(SegmentKind::Slots).offset).unwrap().load(Ordering::Relaxed), 0);
}

#[test]
fn a_damaged_boot_record_is_no_reboot_while_somebody_lives() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = region(&dir);
    let hold = KeeperHold::take(&mapping).unwrap();
    let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
    let process = Process::attach(mapping.clone(), seat, lock).unwrap();
    record_word(&mapping, 0).fetch_xor(1, Ordering::Relaxed);
    let e = Boot::of(&hold).unwrap_err();
    assert!(matches!(e, Error::Corrupt(Corrupt::Checksum { what: "boot record", .. })), "{e}");
    drop(process);
    let start = std::time::Instant::now();
    while Boot::of(&hold).is_err() && start.elapsed().as_secs() < 20 {
        std::thread::yield_now();
    }
    assert_eq!(Boot::of(&hold).unwrap(), Boot::Other, "a record torn by a reboot");
}

#[test]
fn a_reclaimer_killed_on_the_way_is_followed_by_another() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = region(&dir);
    let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
    drop(lock);
    let dead_keeper = 0xdead;
    Row::of(&mapping, seat.row).unwrap().claimant().store(dead_keeper, Ordering::Relaxed);
    let hold = KeeperHold::take(&mapping).unwrap();
    assert!(hold.is_dead(dead_keeper) && !hold.is_dead(hold.id()));
    let start = std::time::Instant::now();
    let proof = loop {
        if let Some(proof) = DeathProof::by_lock(&mapping, seat.row).unwrap() {
            break proof;
        }
        assert!(start.elapsed().as_secs() < 20, "nobody holds the byte");
    };
    reclaim(&hold, proof).unwrap();
    assert_eq!(instances::rows(&mapping).count(), 0);
    assert_eq!(Row::of(&mapping, seat.row).unwrap().claimant().load(Ordering::Relaxed), 0);
}

#[test]
fn counts_of_the_dead_stay_and_their_shares_go() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = region(&dir);
    let hold = KeeperHold::take(&mapping).unwrap();
    let attach = || {
        let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
        (seat, Process::attach(mapping.clone(), seat, lock).unwrap())
    };
    let desc = |name| MetricDesc { name, help: "", unit: "", labels: &[] };
    let open = |process: &Arc<Process>| {
        let requests = open_counter(process, &desc("requests_total")).unwrap();
        (requests, open_updown(process, &desc("requests_open")).unwrap())
    };
    let (dead, process) = attach();
    let (_, living) = attach();
    let (requests, open_requests) = open(&living);
    requests.add(2);
    open_requests.add(1);
    {
        let (requests, open_requests) = open(&process);
        requests.add(40);
        open_requests.add(7);
    }
    assert_eq!((requests.total(), open_requests.total()), (42, 8));
    drop(process);
    let start = std::time::Instant::now();
    while !hold.is_dead(dead.incarnation) && start.elapsed().as_secs() < 20 {
        std::thread::yield_now();
    }
    let proof = DeathProof::by_lock(&mapping, dead.row).unwrap().unwrap();
    for _ in 0..2 {
        reclaim(&hold, proof).unwrap();
        assert_eq!((requests.total(), open_requests.total()), (42, 1));
    }
    assert_eq!(instances::rows(&mapping).count(), 1);
}

#[test]
fn a_descriptor_that_proves_nothing_seats_nobody() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = region(&dir);
    let (seat, lock) = instances::seat(&mapping, &NewInstance::default()).unwrap();
    let bare = std::fs::File::open(dir.path().join("r")).unwrap();
    drop(lock);
    let start = std::time::Instant::now();
    while !instances::is_dead(&mapping, seat.row).unwrap() && start.elapsed().as_secs() < 20 {
        std::thread::yield_now();
    }
    let e = Process::attach(mapping.clone(), seat, Some(bare.into())).unwrap_err();
    assert!(e.to_string().contains("liveness descriptor"), "{e}");
}

#[test]
fn what_entries_hold_is_not_given_out_again_after_a_reboot() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mapping = region(&dir);
    let desc = |name| MetricDesc { name, help: "", unit: "", labels: &[] };
    let open_one = |keeper: &mut crate::digest::Keeper, name| {
        let (seat, lock) = keeper.seat(&NewInstance::default()).unwrap();
        let process = Process::attach(mapping.clone(), seat, lock).unwrap();
        open_counter(&process, &desc(name)).unwrap()
    };
    let (mut keeper, _) = crate::digest::Keeper::open(mapping.clone()).unwrap();
    let before = open_one(&mut keeper, "before_total");
    before.add(5);
    drop((before, keeper));
    // What a reboot leaves: nobody's locks, another boot's id, and the page of the bump pointers as it was long ago.
    let former = [5u8; 16];
    mapping.copy_in(mapping.control(control::BOOT), &former).unwrap();
    record_word(&mapping, 2).store(crc32(&former).into(), Ordering::Release);
    let bumps = mapping.words(mapping.control(control::OBJECTS), 40).unwrap();
    bumps.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let start = std::time::Instant::now();
    let (mut keeper, recovery) = loop {
        match crate::digest::Keeper::open(mapping.clone()) {
            Ok(opened) => break opened,
            Err(e) => assert!(start.elapsed().as_secs() < 20, "{e}"),
        }
    };
    assert!(recovery.rebooted);
    let after = open_one(&mut keeper, "after_total");
    after.add(1);
    let again = open_one(&mut keeper, "before_total");
    assert_eq!((after.total(), again.total()), (1, 5), "each has its own word");
}

use super::*;
use crate::error::Full;
use crate::layout::{PAGE, SUMMARY_PAGES};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn shm() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn spec(limit: u64) -> RegionSpec {
    RegionSpec { instances_max: 8, lanes_max: 8, slots_max: 64, history_max: 16, ..RegionSpec::new("r", limit) }
}

#[test]
fn a_created_region_opens_again_and_its_file_is_sparse_and_private() {
    let dir = shm();
    let made = Mapping::create_file(dir.path(), &spec(8 << 20)).unwrap();
    let owned = made.segment(SegmentKind::Owned);
    made.ensure(owned.offset + 5000, 8).unwrap();
    made.word(owned.offset + 5000).unwrap().store(77, Ordering::Release);

    let opened = Mapping::open_file(&dir.path().join("r"), false).unwrap();
    assert_eq!((opened.uuid(), opened.identity(), opened.name()), (made.uuid(), made.identity(), "r"));
    assert_eq!(opened.header(), made.header());
    assert_eq!(opened.word(owned.offset + 5000).unwrap().load(Ordering::Acquire), 77);
    assert_eq!(opened.used_bytes(), made.used_bytes());

    let meta = std::fs::metadata(dir.path().join("r")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert!(meta.len() > 100 << 20, "virtual");
    assert_eq!(meta.blocks() * 512, made.used_bytes(), "allocated is what is ready");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["r"], "the draft has become the region");

    let e = Mapping::create_file(dir.path(), &spec(8 << 20)).unwrap_err();
    assert!(
        matches!(&e, Error::Io { op: "name", source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists),
        "{e}"
    );
}

#[test]
fn nothing_outside_ready_extents_is_handed_out() {
    let m = Mapping::heap(&spec(4 << 20)).unwrap();
    let owned = m.segment(SegmentKind::Owned);
    let e = m.words(owned.offset, 1).unwrap_err();
    assert!(matches!(e, Corrupt::OutOfBounds { what: "unallocated extent", .. }), "{e}");
    m.ensure(owned.offset, EXTENT).unwrap();
    m.words(owned.offset, EXTENT / 8).unwrap();
    m.words(owned.offset, EXTENT / 8 + 1).unwrap_err();
    for (offset, n) in [(4, 1), (u64::MAX - 7, 1), (0, u64::MAX), (0, 1 << 61), (m.header().virtual_len, 1)] {
        let e = m.words(offset, n).unwrap_err();
        assert!(matches!(e, Corrupt::OutOfBounds { .. }), "{offset} {n}: {e}");
        m.ensure(offset.max(m.header().virtual_len), n).unwrap_err();
    }
    m.words(m.header().virtual_len, 0).unwrap();
}

#[test]
fn an_owned_extent_comes_with_its_marks_and_crcs() {
    let m = Mapping::heap(&spec(1 << 30)).unwrap();
    let owned = m.segment(SegmentKind::Owned);
    for offset in [0, 600 << 20, owned.len - 8] {
        m.ensure(owned.offset + offset, 8).unwrap();
        let first = offset / EXTENT * (EXTENT / PAGE);
        for page in [first, first + EXTENT / PAGE - 1] {
            m.words32(m.segment(SegmentKind::MarkSummary).offset + page / SUMMARY_PAGES * 4, 1).unwrap();
            m.words32(m.segment(SegmentKind::Marks).offset + page * 4, 1).unwrap();
            m.words(m.segment(SegmentKind::PageCrcs).offset + page * 8, 1).unwrap();
        }
    }
}

#[test]
fn growth_stops_exactly_at_the_limit_whoever_grows() {
    let m = Mapping::heap(&spec(4 << 20)).unwrap();
    let arena = m.segment(SegmentKind::SharedArena);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let m = &m;
            scope.spawn(move || {
                for i in 0..arena.len / EXTENT {
                    // Two threads each go for the same extents.
                    let extent = if t % 2 == 0 { i } else { arena.len / EXTENT - 1 - i };
                    let _ = m.ensure(arena.offset + extent * EXTENT, 8);
                }
            });
        }
    });
    assert_eq!(m.used_bytes(), m.limit_bytes());
    let e = m.ensure(m.segment(SegmentKind::Owned).offset, 8).unwrap_err();
    let Error::Full(Full::Region { needed_bytes, free_bytes, limit_bytes }) = e else { panic!("{e}") };
    assert_eq!((free_bytes, limit_bytes), (0, 4 << 20));
    assert!(needed_bytes > 0);
}

#[test]
fn a_read_only_mapping_grows_nothing() {
    let dir = shm();
    let made = Mapping::create_file(dir.path(), &spec(4 << 20)).unwrap();
    let observer = Mapping::open_file(&dir.path().join("r"), true).unwrap();
    assert!(observer.is_read_only() && observer.used_bytes() == made.used_bytes());
    let e = observer.ensure(observer.segment(SegmentKind::Owned).offset, 8).unwrap_err();
    assert_eq!(e.reason(), "CALLER_DENIED");
}

#[test]
fn a_descriptor_of_another_region_is_refused() {
    let dir = shm();
    let made = Mapping::create_file(dir.path(), &spec(4 << 20)).unwrap();
    let fd = || made.fd().unwrap().try_clone_to_owned().unwrap();
    assert_eq!(Mapping::from_fd(fd(), Some(made.uuid())).unwrap().uuid(), made.uuid());
    let e = Mapping::from_fd(fd(), Some([7; 16])).unwrap_err();
    assert!(e.to_string().contains("found") && e.to_string().contains(&"07".repeat(16)), "{e}");
    let (reader, _writer) = std::io::pipe().unwrap();
    let e = Mapping::from_fd(reader.into(), None).unwrap_err();
    assert_eq!(e.reason(), "INVALID_FIELD");
}

#[test]
fn a_full_file_system_is_an_error_with_figures() {
    let dir = shm();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mut command = std::process::Command::new("mount");
    command.args(["-t", "tmpfs", "-o", "size=4m", "small"]).arg(&mount).stderr(std::process::Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        eprintln!("only root may mount: not shown here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| fill(&mount));
    std::process::Command::new("umount").arg("-l").arg(&mount).status().unwrap();
    outcome.unwrap();
}

fn fill(dir: &Path) {
    let m = Mapping::create_file(dir, &spec(64 << 20)).unwrap();
    let arena = m.segment(SegmentKind::SharedArena);
    let e = (0..arena.len / EXTENT).find_map(|i| m.ensure(arena.offset + i * EXTENT, 8).err()).unwrap();
    let Error::Full(Full::Region { free_bytes, limit_bytes, .. }) = e else { panic!("{e}") };
    assert!(free_bytes < EXTENT && limit_bytes == 64 << 20);
    assert!(m.used_bytes() <= 4 << 20);
    assert_eq!(m.extents().granted() * EXTENT, m.used_bytes(), "a refused extent's grant came back");
    let e = Mapping::create_file(dir, &RegionSpec { name: "second".into(), ..spec(64 << 20) }).unwrap_err();
    assert_eq!(e.reason(), "REGION_FULL");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1, "the draft is gone");
}

#[test]
fn a_file_that_is_no_region_says_which_way() {
    let dir = shm();
    let path = dir.path().join("r");
    let whole = Mapping::create_file(dir.path(), &spec(4 << 20)).unwrap();
    let mut page = vec![0; 4096];
    whole.copy_out(0, &mut page).unwrap();
    let text = |bytes: &[u8]| {
        let other = dir.path().join("other");
        std::fs::write(&other, bytes).unwrap();
        let e = Mapping::open_file(&other, false).unwrap_err();
        (e.reason(), e.to_string())
    };
    assert_eq!(text(b""), ("REGION_CORRUPT", "region header: 0 bytes, expected 4096".into()));
    assert_eq!(text(&page[..4095]).1, "region header: 4095 bytes, expected 4096");
    let len = whole.header().virtual_len;
    assert_eq!(text(&page).1, format!("region file: 4096 bytes, expected {len}"));
    let (reason, said) = text(&[0x7f; 9000]);
    assert!(reason == "REGION_CORRUPT" && said.starts_with("not a heirloom region"), "{said}");
    page[8] = 2;
    assert_eq!(text(&page), ("FORMAT_INCOMPATIBLE", "region format 2.0, this build reads 1.x".into()));

    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(Mapping::open_file(&link, false).unwrap_err().reason(), "IO", "a link is not followed");
    assert_eq!(Mapping::open_file(dir.path(), true).unwrap_err().reason(), "INVALID_FIELD");
    assert_eq!(Mapping::open_file(&dir.path().join("none"), true).unwrap_err().reason(), "IO");
    let e = Mapping::create_file(&dir.path().join("none"), &spec(4 << 20)).unwrap_err();
    assert!(e.to_string().starts_with("open directory"), "{e}");
}

#[test]
fn a_region_whose_fixed_segments_are_not_allocated_is_refused() {
    let dir = shm();
    let made = Mapping::create_file(dir.path(), &spec(4 << 20)).unwrap();
    made.extents().words()[0].fetch_and(!2, Ordering::Relaxed);
    let e = Mapping::open_file(&dir.path().join("r"), false).unwrap_err();
    assert!(matches!(e, Error::Corrupt(Corrupt::OutOfBounds { what: "unallocated extent", .. })), "{e}");
}

#[test]
fn a_reboot_gives_back_the_grants_of_the_killed_and_the_blocks_of_the_ready() {
    let dir = shm();
    let m = Mapping::create_file(dir.path(), &spec(4 << 20)).unwrap();
    let arena = m.segment(SegmentKind::SharedArena).offset;
    m.ensure(arena, 8).unwrap();
    // A grower killed after its grant; and an extent whose ready bit came to the disk without its blocks.
    killed_growers(&m, 5);
    let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(m.fd().unwrap(), punch, arena as i64, EXTENT as i64).unwrap();
    let blocks = || std::fs::metadata(dir.path().join("r")).unwrap().blocks() * 512;
    assert!(blocks() < m.used_bytes());
    m.settle_after_reboot().unwrap();
    assert_eq!((blocks(), m.extents().granted() * EXTENT), (m.used_bytes(), m.used_bytes()));
}

/// Takes grants as growers do that are killed before they allocate.
fn killed_growers(m: &Mapping, n: u64) {
    let last = m.segment(SegmentKind::SharedArena).end() / EXTENT;
    (last - n..last).for_each(|extent| assert!(m.grant(extent, EXTENT).unwrap()));
}

#[test]
fn a_grant_costs_nothing_of_what_a_large_file_has() {
    let words: Vec<_> = (0..1 << 20).map(|_| AtomicU64::new(0)).collect();
    let extents = Extents::of(&words);
    let (began, far) = (std::time::Instant::now(), 100_000);
    for extent in 0..far {
        assert_eq!(extents.grant(extent, far), extents::Grant::Taken);
        assert!(extents.make_ready(extent));
        // Each count of a million words would take a millisecond or more.
        assert!(began.elapsed().as_secs() < 30, "{extent} in {:?}", began.elapsed());
    }
    assert_eq!((extents.grant(far, far), extents.ready(), extents.granted()), (extents::Grant::Full, far, far));
    assert_eq!(extents.bound().load(Ordering::Relaxed), far, "what was refused came back");
}

#[test]
fn a_bound_that_killed_growers_left_too_high_costs_nothing_of_the_limit() {
    let m = Mapping::heap(&spec(4 << 20)).unwrap();
    m.extents().bound().fetch_add(1000, Ordering::Relaxed);
    let arena = m.segment(SegmentKind::SharedArena);
    for extent in arena.offset / EXTENT..arena.end() / EXTENT {
        let _ = m.ensure(extent * EXTENT, 8);
    }
    assert_eq!(m.used_bytes(), m.limit_bytes());
    m.drop_unused_grants();
    assert_eq!(m.extents().bound().load(Ordering::Relaxed) * EXTENT, m.used_bytes());
}

#[test]
fn the_grant_of_a_killed_grower_serves_whoever_needs_its_extent() {
    let m = Mapping::heap(&spec(4 << 20)).unwrap();
    let arena = m.segment(SegmentKind::SharedArena);
    let last = arena.end() / EXTENT;
    // While others live: extents are asked for, their growers killed, again and again.
    (0..1000).for_each(|_| killed_growers(&m, 5));
    for extent in (arena.offset / EXTENT..last).rev() {
        let _ = m.ensure(extent * EXTENT, 8);
    }
    assert_eq!(m.used_bytes(), m.limit_bytes(), "nothing of the limit is lost");
    assert!((last - 5..last).all(|extent| m.is_extent_ready(extent)));
}

#[test]
fn a_grant_that_a_killed_grower_took_comes_back_when_nobody_is_attached() {
    use crate::digest::{Keeper, tests::attach};
    let dir = shm();
    let m = Mapping::create_file(dir.path(), &spec(1 << 26)).unwrap();
    let granted = || m.extents().granted() * EXTENT;
    let mut keeper = Keeper::open(Arc::clone(&m)).unwrap().0;
    let a = attach(&mut keeper, "v1");
    killed_growers(&m, 5);
    drop(keeper);
    let keeper = Keeper::open(Arc::clone(&m)).unwrap().0;
    assert_eq!(granted(), m.used_bytes() + 5 * EXTENT, "the living may be about to use theirs");
    drop((a, keeper));
    Keeper::open(Arc::clone(&m)).unwrap();
    assert_eq!(granted(), m.used_bytes());
}

#[test]
fn damaged_accounts_make_a_region_full_and_nothing_worse() {
    for bits in [0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa, u64::MAX, 64] {
        let m = Mapping::heap(&spec(4 << 20)).unwrap();
        m.extents().words().iter().skip(1).for_each(|word| _ = word.fetch_or(bits, Ordering::Relaxed));
        let arena = m.segment(SegmentKind::SharedArena);
        for i in 0..arena.len / EXTENT {
            match m.ensure(arena.offset + i * EXTENT, 8) {
                Ok(()) => drop(m.words(arena.offset + i * EXTENT, 1).unwrap()),
                Err(e) => assert_eq!(e.reason(), "REGION_FULL"),
            }
        }
    }
}

#[test]
fn a_draft_is_abandoned_once_nobody_makes_it() {
    assert_eq!(draft_of(".shop.0.00112233aabbccdd.tmp"), Some("shop.0"));
    for other in
        ["shop", ".shop.tmp", ".shop.00112233AABBCCDD.tmp", "shop.00112233aabbccdd.tmp", ".S.00112233aabbccdd.tmp"]
    {
        assert_eq!(draft_of(other), None, "{other}");
    }
    let dir = shm();
    let names = || -> Vec<_> { std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect() };
    let draft = Draft::new(dir.path(), &spec(4 << 20)).unwrap();
    let path = names().remove(0);
    assert_eq!(draft_of(path.file_name().unwrap().to_str().unwrap()), Some("r"));
    assert!(!remove_abandoned(&path).unwrap(), "somebody is at it");
    // As its maker's death leaves it.
    draft.mapping().file.as_ref().unwrap().unlock().unwrap();
    assert!(remove_abandoned(&path).unwrap());
    assert!(names().is_empty());
    drop(draft);
    let made = Mapping::create_file(dir.path(), &spec(4 << 20)).unwrap();
    File::open(dir.path().join("r")).unwrap().try_lock().expect("a region holds no such lock");
    drop(made);
}

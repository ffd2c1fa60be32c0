//! Region files that are not what they should be. The bad region is refused with its reason, the others serve.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use heirloom_tests::cli::{Answer, call, helper};
use heirloom_tests::host::Host;
use heirloom_tests::instance::Instance;

/// A host with a good region `cart` and a region `shop` whose file was spoiled while nothing ran.
fn spoiled(spoil: impl FnOnce(&Path)) -> Host {
    let mut host = Host::start();
    for service in ["shop", "cart"] {
        let mut owner = host.ready(service, "1.0.0");
        host.await_owner(service, "1.0.0");
        owner.tell("inc hits_total 1");
        owner.tell("write ledger");
        owner.leave();
        host.await_status(service, "the region to be vacant", |status| status["state"] == "vacant");
    }
    host.stop_sidecar();
    spoil(&host.region_file("shop"));
    host.start_sidecar();
    host
}

fn offline(verb: &[&str], file: &Path) -> Answer {
    let file = file.to_str().expect("a path in UTF-8");
    call(&mut helper("heirloom"), &[verb, &[file]].concat())
}

/// What must hold whatever was spoiled in a way that no start can accept.
#[track_caller]
fn quarantined(host: &Host, reason: &str) {
    let mut owner = host.ready("cart", "1.0.1");
    host.await_owner("cart", "1.0.1");
    assert_eq!(owner.tell("read ledger")["value"]["sequence"], 1, "the other region serves");
    let refused = Instance::refused(host, "shop", "1.0.1", &[]);
    assert!(["REGION_QUARANTINED", reason].contains(&refused["reason"].as_str().unwrap_or_default()), "{refused}");
    let listed = host.call(&["status"]).json;
    let shop =
        listed.as_array().expect("a list").iter().find(|r| r["region"] == "shop").unwrap_or_else(|| panic!("{listed}"));
    assert_eq!(shop["state"], "quarantined", "{shop}");
    assert!(shop["quarantine"].as_str().is_some_and(|why| !why.is_empty()), "says why: {shop}");
    let answer = host.handover("shop", "1.0.1", &[]);
    assert_eq!(answer.exit_code, 6, "{} {}", answer.json, answer.stderr);
}

#[test]
fn a_foreign_file() {
    let host = spoiled(|file| fs::write(file, b"#!/bin/sh\necho this is no region\n").expect("write"));
    let dumped = offline(&["dump"], &host.region_file("shop"));
    assert_eq!(dumped.exit_code, 6, "{} {}", dumped.json, dumped.stderr);
    quarantined(&host, "REGION_CORRUPT");
    let kept = fs::read(host.region_file("shop")).expect("read");
    assert!(kept.starts_with(b"#!/bin/sh"), "a file that is not ours is left alone");
}

#[test]
fn an_empty_file() {
    let host = spoiled(|file| fs::write(file, b"").expect("write"));
    quarantined(&host, "REGION_CORRUPT");
}

#[test]
fn a_truncated_file() {
    let host = spoiled(|file| {
        let file = OpenOptions::new().write(true).open(file).expect("open");
        file.set_len(8192).expect("truncate");
    });
    assert_eq!(offline(&["verify", "--file"], &host.region_file("shop")).exit_code, 6);
    quarantined(&host, "REGION_CORRUPT");
}

/// Flips one bit.
fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("write");
}

#[test]
fn a_flipped_bit_in_the_header() {
    let host = spoiled(|file| flip(file, 100));
    quarantined(&host, "REGION_CORRUPT");
}

#[test]
fn a_newer_major_format() {
    let mut host = Host::start();
    host.ready("shop", "1.0.0").leave();
    host.stop_sidecar();
    let path = host.region_file("shop");
    // Magic (8 bytes), then the major format as a little-endian u16, at these places for ever.
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    let mut major = [0; 2];
    file.read_exact_at(&mut major, 8).expect("read");
    file.write_all_at(&(u16::from_le_bytes(major) + 1).to_le_bytes(), 8).expect("write");
    host.start_sidecar();
    let dumped = offline(&["dump"], &path);
    assert_eq!(
        (dumped.word("reason"), dumped.exit_code),
        ("FORMAT_INCOMPATIBLE", 3),
        "{} {}",
        dumped.json,
        dumped.stderr
    );
    let refused = Instance::refused(&host, "shop", "1.0.1", &[]);
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(["REGION_QUARANTINED", "FORMAT_INCOMPATIBLE"].contains(&reason), "{refused}");
}

#[test]
fn a_flipped_bit_in_a_value() {
    // A recognizable value, so that its bytes can be found in the file.
    let mut host = Host::start();
    let mut owner = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    owner.tell("blob marked 100000 60000");
    owner.leave();
    host.stop_sidecar();
    let path = host.region_file("shop");
    let offset = find(&path, &[0xA5; 4096]).expect("the value lies in the file");
    flip(&path, offset + 2000);
    let verified = offline(&["verify", "--file"], &path);
    assert_eq!(verified.exit_code, 6, "{} {}", verified.json, verified.stderr);
    host.start_sidecar();
    let live = host.call(&["verify", "shop"]);
    assert_eq!(live.exit_code, 6, "{} {}", live.json, live.stderr);
}

/// Where `needle` begins, looking only at data, not at the holes of a sparse file.
fn find(path: &Path, needle: &[u8]) -> Option<u64> {
    use nix::unistd::{Whence, lseek};
    let file = fs::File::open(path).ok()?;
    let mut at = 0;
    while let Ok(data) = lseek(&file, at, Whence::SeekData) {
        let hole = lseek(&file, data, Whence::SeekHole).ok()?;
        let mut bytes = vec![0; usize::try_from(hole - data).ok()?];
        file.read_exact_at(&mut bytes, u64::try_from(data).ok()?).ok()?;
        if let Some(found) = bytes.windows(needle.len()).position(|window| window == needle) {
            return Some(u64::try_from(data).ok()? + found as u64);
        }
        at = hole;
    }
    None
}

/// The file system below the regions is full: an error, never SIGBUS, and what is there goes on working.
#[test]
fn a_full_tmpfs() {
    let mut host = Host::prepared("", "[region]\nlimit = \"256MiB\"\n");
    host.start_sidecar_on_small_tmpfs(24 << 20);
    let mut owner = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    owner.tell("write ledger");
    owner.tell("inc hits_total 1");
    let mut last = serde_json::Value::Null;
    for i in 0..64 {
        last = owner.ask(&format!("blob big{i} 1000000 900000"));
        if last["ok"] != true {
            break;
        }
    }
    assert_eq!(last["reason"], "REGION_FULL", "{last}");
    owner.tell("write ledger");
    owner.tell("inc hits_total 1");
    assert_eq!(host.call(&["verify", "shop"]).exit_code, 0);
    // There is no room for another region either; the first one does not mind.
    let refused = Instance::refused(&host, "cart", "1.0.0", &[]);
    assert_eq!(refused["reason"], "REGION_FULL", "{refused}");
    owner.tell("write ledger");
    assert_eq!(owner.tell("read ledger")["value"]["sequence"], 3);
}

//! Hostile bytes: whatever is read from a region, a socket or a file gets an answer or an error that says what is wrong.
//! Never a panic, never a hang, never a read out of bounds.
//!
//! Each target takes valid inputs (made here, and those kept in `tests/corpus`), changes them by a printed seed
//! ([`mutate`]), and runs each for at most [`EXECUTION_MAX`]: a thread beside it watches. For `HEIRLOOM_FUZZ_SECONDS` (3) a
//! target; longer by
//!
//! ```sh
//! HEIRLOOM_FUZZ_SECONDS=600 cargo test --release -p heirloom-tests --test hostile -- --nocapture
//! ```
//!
//! An input that was found to do harm is kept: its seed in `tests/corpus/seeds`, as `target seed`.

mod mutate;
mod region;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heirloom_tests::random::Random;

/// Longest that one input may take.
const EXECUTION_MAX: Duration = Duration::from_secs(30);

/// Runs `one` with seeds, first those that are kept, then new ones, as long as there is time.
fn fuzz(target: &'static str, one: fn(u64)) {
    let seconds = std::env::var("HEIRLOOM_FUZZ_SECONDS").map_or(3, |n| n.parse().expect("seconds"));
    let (began, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut random = Random::announced(target);
    let kept =
        include_str!("../../corpus/seeds").lines().filter_map(|line| line.strip_prefix(target)?.trim().parse().ok());
    let mut kept = kept.collect::<Vec<u64>>().into_iter();
    let (next, seeds) = mpsc::sync_channel::<u64>(0);
    let (done, ended) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        for seed in seeds {
            let end = catch_unwind(AssertUnwindSafe(|| one(seed)));
            if done.send(end.is_ok()).is_err() {
                break;
            }
        }
    });
    let (mut executions, mut slowest) = (0_u64, Duration::ZERO);
    loop {
        let seed = kept.next().unwrap_or_else(|| random.number());
        let start = Instant::now();
        next.send(seed).expect("the worker");
        match ended.recv_timeout(EXECUTION_MAX) {
            Ok(true) => {}
            Ok(false) => panic!("{target}: seed {seed} made it panic; keep it in tests/corpus/seeds"),
            Err(_) => {
                panic!("{target}: seed {seed} takes longer than {EXECUTION_MAX:?}; keep it in tests/corpus/seeds")
            }
        }
        (executions, slowest) = (executions + 1, slowest.max(start.elapsed()));
        if began.elapsed() > time {
            break;
        }
    }
    drop(next);
    worker.join().expect("no panic");
    println!("{target}: {executions} executions, the slowest {slowest:.1?}");
}

#[test]
fn a_region_file() {
    fuzz("region", region::file);
}

#[test]
fn a_live_region_beside_a_keeper() {
    fuzz("live", region::live);
}

#[test]
fn chunks_of_series() {
    fuzz("chunk", wire::chunk);
}

#[test]
fn descriptor_frames() {
    fuzz("frame", wire::frame);
}

#[test]
fn grpc_messages() {
    fuzz("message", wire::message);
}

#[test]
fn configuration_files() {
    fuzz("configuration", wire::configuration);
}

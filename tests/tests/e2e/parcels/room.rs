//! Thousands of connections in one handover, at the limit of open files: what fits moves, what does not is served where it was.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use heirloom_examples::process::Running;
use heirloom_tests::cli::helper;
use heirloom_tests::holders::holders;
use heirloom_tests::host::Host;
use heirloom_tests::instance::free_address;
use heirloom_tests::lines::Lines;
use heirloom_tests::wait::{holds, until_within};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use super::{connections, echo_with, log_file, whole};

const CONNECTIONS: u64 = 5000;
/// What an instance has open besides its connections, and what it leaves free.
const BESIDES: u64 = 60;
const LONG: Duration = Duration::from_secs(120);

/// An instance with this limit of open files.
fn limited(host: &Host, version: &str, to: SocketAddr, limit: u64) -> Running {
    let echo = helper("echo");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $1 && shift && exec \"$@\"", "sh", &limit.to_string()]);
    command.arg(echo.get_program()).args(echo.get_args());
    echo_with(host, version, to, command)
}

fn allow_many_here() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    let needed = CONNECTIONS + 1000;
    assert!(
        hard >= needed,
        "this test opens {CONNECTIONS} connections: expected a hard RLIMIT_NOFILE of {needed}, found {hard}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(needed), hard).expect("raise it");
}

fn many(host: &Host, limits: [u64; 2]) -> (Running, Running, Lines, SocketAddr) {
    allow_many_here();
    let to = free_address();
    let old = limited(host, "1.0.0", to, limits[0]);
    host.await_owner("echo", "1.0.0");
    let new = limited(host, "2.0.0", to, limits[1]);
    host.await_eligible("echo", "2.0.0");
    let lines = Lines::start(to, CONNECTIONS as usize, Duration::from_secs(2));
    until_within(LONG, "every connection to be answered", || {
        let answers = lines.answers();
        holds(answers >= 2 * CONNECTIONS, format!("{answers} answers, {:?}", lines.so_far()))
    });
    (old, new, lines, to)
}

/// How many connections each of the two holds; `None` while one is held by both, or by nobody.
fn held(to: SocketAddr, old: &Running, new: &Running) -> Option<(u64, u64)> {
    let all = holders(to, &[old.pid(), new.pid()]).expect("two processes");
    let of = |it: &Running| all.values().filter(|pids| **pids == [it.pid()]).count() as u64;
    let (old, new) = (of(old), of(new));
    (old + new == all.len() as u64).then_some((old, new))
}

#[test]
fn five_thousand_connections_move_in_one_handover_between_tables_that_they_nearly_fill() {
    let host = Host::start();
    let (old, new, lines, to) = many(&host, [CONNECTIONS + BESIDES; 2]);
    for (version, expected) in [("2.0.0", (0, CONNECTIONS)), ("1.0.0", (CONNECTIONS, 0))] {
        host.handover("echo", version, &[]).expect("committed", 0);
        let began = Instant::now();
        until_within(LONG, "all to move", || {
            let held = held(to, &old, &new);
            holds(held == Some(expected), format!("{held:?}"))
        });
        println!("{CONNECTIONS} connections moved within {:?} of the answer to the handover", began.elapsed());
    }
    let seen = lines.stop();
    println!("{} answers on {CONNECTIONS} connections, longest wait {:?}", seen.answers, seen.longest);
    whole(&seen);
}

#[test]
fn what_does_not_fit_stays_and_is_served_and_the_limit_is_named() {
    const LIMIT: u64 = 2000;
    let host = Host::start();
    let (old, new, lines, to) = many(&host, [CONNECTIONS + BESIDES, LIMIT]);
    host.handover("echo", "2.0.0", &[]).expect("committed", 0);
    let (left, moved) = until_within(LONG, "the new one to be full", || {
        let held = held(to, &old, &new);
        held.filter(|(_, new)| (LIMIT - BESIDES..LIMIT).contains(new)).ok_or_else(|| format!("{held:?}"))
    });
    assert_eq!(left + moved, CONNECTIONS, "each is held by one");
    let log = std::fs::read_to_string(log_file(&host)).expect("the log");
    assert!(log.contains("(RLIMIT_NOFILE) full: 2000 (TABLE_FULL)"), "{log}");
    // Those that stay say why: they were refused, or are where their protocol cannot move, in the middle of a line.
    host.await_status("echo", "the refused to say why", |status| {
        let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parts = instances.iter().filter(|i| i["role"] == "draining").filter_map(|i| i["undrained"].as_array());
        let why = |part: &&Value| part["kind"] == "connections" && part["reason"] == "TABLE_FULL";
        parts.flatten().filter(why).any(|part| part["count"].as_u64().is_some_and(|n| n > left / 2))
    });
    // It still has room for new ones, and both serve what they hold.
    whole(&connections(5, to, Duration::from_millis(20)).stop());
    let before = lines.answers();
    until_within(LONG, "both to answer", || {
        let now = lines.answers();
        holds(now > before + 2 * CONNECTIONS, now - before)
    });
    // One who has room takes the rest.
    host.call(&["rollback", "echo"]).expect("committed", 0);
    until_within(LONG, "all to be back", || {
        let held = held(to, &old, &new);
        holds(held == Some((CONNECTIONS, 0)), format!("{held:?}"))
    });
    let seen = lines.stop();
    println!("{moved} moved and {left} stayed, {} answers, longest wait {:?}", seen.answers, seen.longest);
    whole(&seen);
}

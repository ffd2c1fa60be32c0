//! Live connections move: every answer once, in order, on the same connection; and each is held by exactly one process,
//! whoever is killed.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use heirloom_examples::process::Running;
use heirloom_tests::cli::helper;
use heirloom_tests::holders::all_held_by;
use heirloom_tests::host::Host;
use heirloom_tests::instance::free_address;
use heirloom_tests::lines::{Lines, Seen};
use heirloom_tests::random::Random;
use heirloom_tests::wait::{holds, until};
use nix::sys::signal::Signal;
use serde_json::Value;

mod room;
mod steps;

/// Between two lines of a connection.
const THINK: Duration = Duration::from_millis(20);

/// One instance of the line service, with more in its environment.
fn echo_with(host: &Host, version: &str, to: SocketAddr, mut command: Command) -> Running {
    let log = fs::OpenOptions::new().create(true).append(true).open(log_file(host)).expect("open the log");
    command.arg(version).arg(host.socket()).arg(to.to_string());
    command.stdout(log.try_clone().expect("clone the log")).stderr(log);
    Running::start(version, &mut command).expect("start the echo")
}

fn echo(host: &Host, version: &str, to: SocketAddr) -> Running {
    echo_with(host, version, to, helper("echo"))
}

fn log_file(host: &Host) -> PathBuf {
    host.dir().join("echo.log")
}

fn pair(host: &Host) -> (Running, Running, SocketAddr) {
    let to = free_address();
    let old = echo(host, "1.0.0", to);
    host.await_owner("echo", "1.0.0");
    let new = echo(host, "2.0.0", to);
    host.await_eligible("echo", "2.0.0");
    (old, new, to)
}

fn connections(n: usize, to: SocketAddr, think: Duration) -> Lines {
    let lines = Lines::start(to, n, think);
    until("every connection to be answered", || {
        let answers = lines.answers();
        holds(answers >= 2 * n as u64, format!("{answers} answers"))
    });
    lines
}

/// Waits until all connections are at the owner.
fn await_moved(host: &Host) {
    host.await_status("echo", "nobody but the owner to hold connections", |status| {
        let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        instances.iter().filter(|i| i["role"] != "owner").all(|i| held_by(i) == 0)
    });
}

/// Connections that an instance holds.
fn held_by(instance: &Value) -> u64 {
    instance["in_flight"]["connections"].as_u64().unwrap_or_default()
}

fn whole(seen: &Seen) {
    assert!(seen.faults.is_empty() && seen.cut == 0 && seen.answers > 0, "{seen:#?}");
}

/// `HEIRLOOM_ECHO_HANDOVERS=50 HEIRLOOM_ECHO_ROLLBACKS=20` for the whole of it.
#[test]
fn connections_go_on_counting_over_handovers_and_rollbacks() {
    let number = |name: &str, default: u32| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (handovers, rollbacks) = (number("HEIRLOOM_ECHO_HANDOVERS", 8), number("HEIRLOOM_ECHO_ROLLBACKS", 4));
    let host = Host::start();
    let (old, new, to) = pair(&host);
    let lines = connections(300, to, Duration::ZERO);
    let (mut owner, mut back) = ("1.0.0", 0);
    for n in 1..=handovers {
        let next = if owner == "1.0.0" { "2.0.0" } else { "1.0.0" };
        host.handover("echo", next, &[]).expect("committed", 0);
        let before = lines.answers();
        if back < n * rollbacks / handovers.max(1) {
            // Every other one comes while connections are still on their way.
            if back % 2 == 0 {
                await_moved(&host);
            }
            host.call(&["rollback", "echo"]).expect("committed", 0);
            back += 1;
        } else {
            owner = next;
        }
        await_moved(&host);
        until("the owner to answer all", || {
            let now = lines.answers();
            holds(now > before + 600, now)
        });
    }
    assert_eq!(back, rollbacks);
    let (holder, pids) = (if owner == "1.0.0" { &old } else { &new }, [old.pid(), new.pid()]);
    until("the owner alone to hold them", || all_held_by(holder.pid(), 300, to, &pids));
    let seen = lines.stop();
    println!(
        "{} answers on 300 connections over {handovers} handovers and {rollbacks} rollbacks, longest wait {:?}",
        seen.answers, seen.longest
    );
    whole(&seen);
}

#[test]
fn an_old_version_ends_at_once_since_its_connections_have_moved() {
    let host = Host::start();
    let (mut old, mut new, to) = pair(&host);
    let lines = connections(50, to, THINK);
    host.handover("echo", "2.0.0", &[]).expect("committed", 0);
    assert!(old.terminate(Duration::from_secs(20)).expect("end the old one").success());
    let mut third = echo(&host, "3.0.0", to);
    host.await_eligible("echo", "3.0.0");
    // No deploy tool: the owner is told to end, and passes region and connections on.
    assert!(new.terminate(Duration::from_secs(20)).expect("end the owner").success());
    host.await_owner("echo", "3.0.0");
    whole(&lines.stop());
    assert!(third.terminate(Duration::from_secs(20)).expect("end the last").success());
}

#[test]
fn connections_move_while_the_sidecar_is_killed_and_come_back_if_they_cannot() {
    let mut random = Random::announced("kills of the sidecar");
    let mut host = Host::start();
    let (_old, _new, to) = pair(&host);
    let lines = connections(100, to, THINK);
    for n in 0..6 {
        let version = if n % 2 == 0 { "2.0.0" } else { "1.0.0" };
        host.handover("echo", version, &[]).expect("committed", 0);
        std::thread::sleep(random.moment(Duration::from_millis(20)));
        host.kill_sidecar();
        let before = lines.answers();
        until("answers without a sidecar", || {
            let now = lines.answers();
            holds(now > before + 200, now)
        });
        host.start_sidecar();
        until("both to be back", || {
            let status = host.status("echo");
            let instances = status["instances"].as_array().cloned().unwrap_or_default();
            let back = instances.len() == 2 && instances.iter().all(|i| i["connected"] == true);
            holds(back && status["owner"]["version"] == version, status)
        });
        await_moved(&host);
    }
    whole(&lines.stop());
}

#[test]
fn a_killed_receiver_or_sender_takes_nothing_with_it_but_what_it_held() {
    let mut random = Random::announced("kills of a holder");
    for round in 0..6 {
        let host = Host::start();
        let (mut old, mut new, to) = pair(&host);
        let lines = connections(100, to, THINK);
        host.handover("echo", "2.0.0", &[]).expect("committed", 0);
        std::thread::sleep(random.moment(Duration::from_millis(30)));
        let (killed, survivor) = if round % 2 == 0 { (&mut new, "1.0.0") } else { (&mut old, "2.0.0") };
        killed.kill().expect("kill it");
        host.await_owner("echo", survivor);
        // Whatever the killed one held is cut; everything else is answered on, once and in order. None hangs.
        let seen = lines.stop();
        println!("round {round}: {} cut of 100, {} answers", seen.cut, seen.answers);
        assert!(seen.faults.is_empty(), "{seen:#?}");
        let next = Lines::start(to, 10, Duration::ZERO);
        until("the survivor to answer", || {
            let answers = next.answers();
            holds(answers > 50, answers)
        });
        whole(&next.stop());
    }
}

#[test]
fn a_stopped_receiver_delays_connections_and_keeps_none() {
    let host = Host::start();
    let (_old, new, to) = pair(&host);
    let lines = connections(20, to, THINK);
    host.handover("echo", "2.0.0", &[]).expect("committed", 0);
    new.signal(Signal::SIGSTOP).expect("stop it");
    // Those that moved before the stop wait for it; what it does not take goes back to the old one, which serves on.
    let left =
        host.await_status("echo", "the old one to have said what it holds", |s| s["owner"]["version"] == "2.0.0");
    let instances = left["instances"].as_array().cloned().unwrap_or_default();
    let left: u64 = instances.iter().filter(|i| i["role"] != "owner").map(held_by).sum();
    let before = lines.answers();
    until("the old one to serve what it could not send", || {
        let now = lines.answers();
        holds(left == 0 || now > before + 20 * left, format!("{} answers on {left} connections", now - before))
    });
    new.signal(Signal::SIGCONT).expect("continue it");
    println!("{left} of 20 connections were left when the receiver was stopped");
    await_moved(&host);
    whole(&lines.stop());
}

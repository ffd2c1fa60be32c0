//! Kills at every step of a parcel's way. The sender or the receiver stops itself at a named step (`HEIRLOOM_STOP_AT`, compiled
//! into debug builds for these tests); then one of the three is killed, or nobody is and time passes.
//!
//! Whatever happens: a connection that was not cut goes on with every answer once and in order, and exactly one of those
//! that live has a descriptor of it; only a killed holder's are cut; none hangs.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use heirloom_examples::process::Running;
use heirloom_tests::cli::helper;
use heirloom_tests::holders::all_held_by;
use heirloom_tests::host::Host;
use heirloom_tests::instance::free_address;
use heirloom_tests::lines::Lines;
use heirloom_tests::wait::{holds, until};
use nix::sys::signal::Signal;

use super::{THINK, connections, echo, echo_with, whole};

const CONNECTIONS: u64 = 12;
/// A step, and how often it was come by before: where parcels go by one by one, some have moved.
const STEPS: [(&str, u32); 11] = [
    ("send-asked", 1),
    ("send-linked", 1),
    ("send-stands", 4),
    ("send-offered", 4),
    ("send-woken", 4),
    ("send-decided", 4),
    ("receive-introduced", 1),
    ("receive-arrived", 4),
    ("receive-checked", 4),
    ("receive-accepted", 4),
    ("receive-rung", 4),
];
/// Longer than an offer stands.
const LONG: Duration = Duration::from_millis(1500);
/// Longest that an answer may take, whoever is stopped or killed: none hangs.
const WAIT_MAX: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Sender,
    Receiver,
    Sidecar,
    Nobody,
}

struct Scene {
    host: Host,
    old: Running,
    new: Running,
    lines: Lines,
    to: SocketAddr,
    /// Whether the sender is the one that stops.
    sends: bool,
}

impl Scene {
    /// Until one has stopped itself at `step`, with connections before it, after it, and at it.
    fn at(step: &str, n: u32) -> Scene {
        let host = Host::start();
        let to = free_address();
        let stops = || {
            let mut command = helper("echo");
            command.env("HEIRLOOM_STOP_AT", format!("{step}/{n}"));
            command
        };
        let sends = step.starts_with("send");
        let old = if sends { echo_with(&host, "1.0.0", to, stops()) } else { echo(&host, "1.0.0", to) };
        host.await_owner("echo", "1.0.0");
        let new = if sends { echo(&host, "2.0.0", to) } else { echo_with(&host, "2.0.0", to, stops()) };
        host.await_eligible("echo", "2.0.0");
        let lines = connections(CONNECTIONS as usize, to, THINK);
        host.handover("echo", "2.0.0", &[]).expect("committed", 0);
        let scene = Scene { host, old, new, lines, to, sends };
        until(&format!("the process to stop at {step}"), || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", scene.stopped().pid())).expect("its state");
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
            holds(state == Some('T'), format!("{state:?}"))
        });
        scene
    }

    fn stopped(&self) -> &Running {
        if self.sends { &self.old } else { &self.new }
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Sender => drop(self.old.kill().expect("kill the sender")),
            Victim::Receiver => drop(self.new.kill().expect("kill the receiver")),
            Victim::Sidecar => self.host.kill_sidecar(),
            Victim::Nobody => std::thread::sleep(LONG), // what is tested is that time passes
        }
        let stopped_is_killed = matches!((victim, self.sends), (Victim::Sender, true) | (Victim::Receiver, false));
        if !stopped_is_killed {
            self.stopped().signal(Signal::SIGCONT).expect("continue it");
        }
        if victim == Victim::Sidecar {
            self.host.start_sidecar();
        }
    }

    /// Each connection that was not cut is held by the owner, and by nobody else: as the kernel says, who knows each descriptor.
    fn settle(&self, victim: Victim) {
        let (owner, version) = if victim == Victim::Receiver { (&self.old, "1.0.0") } else { (&self.new, "2.0.0") };
        self.host.await_owner("echo", version);
        let alive: Vec<u32> = match victim {
            Victim::Sender => vec![self.new.pid()],
            Victim::Receiver => vec![self.old.pid()],
            Victim::Sidecar | Victim::Nobody => vec![self.old.pid(), self.new.pid()],
        };
        until("each connection to be held by the owner alone", || {
            let left = CONNECTIONS - self.lines.so_far().cut;
            all_held_by(owner.pid(), left, self.to, &alive)
        });
    }
}

/// How many connections the killed one may have held: at its `n`-th coming by a step, so many offers had gone at least, or so
/// many had been taken at most.
fn may_be_cut(victim: Victim, step: &str, n: u64) -> RangeInclusive<u64> {
    match (victim, step) {
        (Victim::Nobody | Victim::Sidecar, _) => 0..=0,
        (Victim::Sender, "send-asked" | "send-linked") => CONNECTIONS..=CONNECTIONS,
        (Victim::Sender, "send-stands") => 1..=CONNECTIONS,
        (Victim::Sender, "receive-introduced") => 0..=CONNECTIONS,
        // What was offered is the receiver's to take, and nobody took it back.
        (Victim::Sender, _) => 0..=CONNECTIONS - n,
        (Victim::Receiver, "send-asked" | "send-linked" | "receive-introduced") => 0..=0,
        (Victim::Receiver, "receive-arrived") => 0..=n - 1,
        // One takes them, one after the other: the word alone decides whether it had this one.
        (Victim::Receiver, "receive-checked") => n - 1..=n - 1,
        (Victim::Receiver, "receive-accepted") => n..=n,
        (Victim::Receiver, "send-woken" | "send-decided" | "receive-rung") => n..=CONNECTIONS,
        (Victim::Receiver, _) => 0..=CONNECTIONS,
    }
}

fn everywhere(victim: Victim) {
    for (step, n) in STEPS {
        let began = Instant::now();
        let mut scene = Scene::at(step, n);
        scene.kill(victim);
        scene.settle(victim);
        let (before, alive) = (scene.lines.answers(), CONNECTIONS - scene.lines.so_far().cut);
        until("those that live to be answered", || {
            let now = scene.lines.answers();
            holds(now >= before + 8 * alive, format!("{} on {alive} connections", now - before))
        });
        let seen = scene.lines.stop();
        println!(
            "{victim:?} killed at {step}: {} of {CONNECTIONS} cut, {} answers, longest wait {:?}; {:?}",
            seen.cut,
            seen.answers,
            seen.longest,
            began.elapsed()
        );
        assert!(seen.faults.is_empty() && seen.longest < WAIT_MAX, "{victim:?} at {step}: {seen:#?}");
        let expected = may_be_cut(victim, step, u64::from(n));
        assert!(expected.contains(&seen.cut), "{victim:?} at {step}: expected {expected:?} to be cut, found {seen:#?}");
        let next = connections(2, scene.to, THINK);
        whole(&next.stop());
    }
}

#[test]
fn a_sender_killed_at_any_step_takes_only_what_it_held() {
    everywhere(Victim::Sender);
}

#[test]
fn a_receiver_killed_at_any_step_takes_only_what_it_held() {
    everywhere(Victim::Receiver);
}

#[test]
fn a_sidecar_killed_at_any_step_cuts_nothing() {
    everywhere(Victim::Sidecar);
}

#[test]
fn a_process_stopped_at_any_step_for_longer_than_an_offer_stands_cuts_and_doubles_nothing() {
    everywhere(Victim::Nobody);
}

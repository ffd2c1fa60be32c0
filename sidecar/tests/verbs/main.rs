//! The command line against a sidecar that is told what to do: exit codes, the one JSON object, what people read.

mod fake;
mod offline;
mod reads;
mod switches;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use heirloom_proto::names;
use heirloom_proto::v1::handover_record::{Figures, InstanceRef, Kind, Outcome, Phase};
use heirloom_proto::v1::{ErrorReason, HandoverRecord, Region, region};
use serde_json::Value;

use fake::{Fake, Script};

/// A directory with the socket's path in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }
    fn fake(&self, script: Script) -> Fake {
        Fake::start(&self.socket(), script)
    }
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HEIRLOOM_")) {
            command.env_remove(name);
        }
        command.args(line.split_whitespace()).arg("--socket").arg(self.socket()).stdin(Stdio::null());
        command
    }
    fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line).output().unwrap())
    }
    fn start(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// What a run left.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
    /// Standard output is exactly one JSON value.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    #[track_caller]
    fn code(self, expected: i32) -> Ran {
        assert_eq!(self.code, expected, "{self:?}");
        self
    }
    #[track_caller]
    fn says(self, words: &[&str]) -> Ran {
        for word in words {
            assert!(self.out.contains(word) || self.err.contains(word), "{word:?} is not in {self:?}");
        }
        self
    }
}

/// Waits for a state, bounded.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn record(outcome: Outcome, phase: Phase) -> HandoverRecord {
    let instance = |name: &str, version: &str| InstanceRef {
        name: names::instance("shop", name),
        version: version.into(),
        pid: 42,
    };
    let phase_us = [
        ("prepare".to_owned(), 812),
        ("precopy".to_owned(), 208_114),
        ("flush".to_owned(), 2301),
        ("freeze".to_owned(), 31),
    ];
    HandoverRecord {
        name: names::handover("shop", 17),
        kind: Kind::Handover.into(),
        outcome: outcome.into(),
        phase: phase.into(),
        message: format!("{outcome:?}"),
        source: Some(instance("i-1c09", "1.9.0")),
        target: Some(instance("i-4f2a", "2.0.0")),
        previous_generation: 7,
        generation: if outcome == Outcome::Committed { 8 } else { 7 },
        root_digest: 0x9f3c,
        figures: Some(Figures {
            region_bytes: 1 << 30,
            precopy_rounds: 3,
            precopy_pages: 18_211,
            frozen_pages: 41,
            gate_closed_us: 58,
            writer_blackout_us: Some(63),
            total_ms: 212,
            phase_us: phase_us.into(),
            undrained_counts: [("connection".to_owned(), 12)].into(),
        }),
        ..Default::default()
    }
}

fn aborted(reason: ErrorReason, phase: Phase) -> HandoverRecord {
    HandoverRecord { reason: reason.into(), ..record(Outcome::Aborted, phase) }
}

fn region(name: &str) -> Region {
    Region { name: names::region(name), state: region::State::Vacant.into(), generation: 7, ..Default::default() }
}

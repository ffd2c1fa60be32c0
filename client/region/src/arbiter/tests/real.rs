//! The arbiter over real regions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::people::{Asked, One, status, until};
use crate::arbiter::*;
use crate::digest::Keeper;
use crate::error::{Generation, WriteError};
use crate::instances::Seat;
use crate::layout::RegionSpec;
use crate::mapping::Mapping;
use crate::objects::{CellSpec, MetricDesc, Part, open_cell, open_counter};
use crate::process::Process;

const LIMIT: u64 = 64 << 20;

pub(super) struct Real {
    pub(super) mapping: Arc<Mapping>,
    pub(super) arbiter: Arbiter,
}

impl Real {
    fn over(mapping: Arc<Mapping>, policy: Policy) -> Self {
        let (keeper, _) = Keeper::open(Arc::clone(&mapping)).expect("a keeper");
        let arbiter = Arbiter::spawn(keeper, policy, Box::new(|_| ())).expect("a thread");
        Self { mapping, arbiter }
    }
    fn heap() -> Self {
        Self::over(Mapping::heap(&RegionSpec::new("shop", LIMIT)).expect("memory"), Policy::default())
    }
    pub(super) fn file(dir: &std::path::Path) -> Self {
        Self::over(Mapping::create_file(dir, &RegionSpec::new("shop", LIMIT)).expect("a file"), Policy::default())
    }
    pub(super) fn one(&self, hello: Hello) -> One {
        One::attach(&self.arbiter, hello).expect("a seat")
    }
    /// An instance that is this process.
    pub(super) fn here(&self, version: &str) -> (One, Arc<Process>) {
        let mut one = self.one(Hello { version: version.into(), ..Hello::default() });
        let liveness = one.welcome.liveness.take();
        let process = Process::attach(Arc::clone(&self.mapping), seat(&one), liveness).expect("attached");
        one.ready();
        (one, process)
    }
    pub(super) fn ask(&self, to: &One, options: SwitchOptions) -> Asked {
        let request = SwitchRequest { target: Target::Instance(to.name().into()), options };
        Asked::new(|observer, reply| self.arbiter.handover(request, "uid:0".into(), observer, reply))
    }
    fn until(&self, holds: impl Fn(&RegionStatus) -> bool) -> RegionStatus {
        until(&self.arbiter, std::thread::sleep, holds)
    }
    pub(super) fn until_owner(&self, one: &One) -> RegionStatus {
        self.until(|s| s.owner.as_ref().is_some_and(|o| o.incarnation == one.id()))
    }
    fn hand_over(&self, from: &One, to: &One) -> Record {
        let asked = self.ask(to, SwitchOptions::default());
        to.agree(Hook::Prepare);
        from.agree(Hook::Flush);
        asked.record()
    }
}

pub(super) fn seat(one: &One) -> Seat {
    Seat { row: one.welcome.row.expect("a row"), incarnation: one.id() }
}

pub(super) fn write(process: &Arc<Process>, generation: Generation, n: u64) -> Result<(), WriteError> {
    let spec = CellSpec { name: "basket", labels: &[], bytes_max: 64 };
    let cell = open_cell(process, &spec).expect("a cell");
    let part = Part { schema: 1, codec: 1, bytes: n.to_le_bytes().to_vec() };
    cell.write(generation, &[part], None).map(|_| ())
}

#[test]
fn ownership_goes_to_and_fro_under_writers_and_nothing_is_lost() {
    let real = Real::heap();
    let (old, old_process) = real.here("1.0.0");
    old.agree(Hook::Prepare);
    real.until_owner(&old);
    let (new, new_process) = real.here("2.0.0");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |process: &Arc<Process>| {
        let (process, stop) = (Arc::clone(process), Arc::clone(&stop));
        std::thread::spawn(move || {
            let desc = MetricDesc { name: "written_total", help: "", unit: "", labels: &[] };
            let counter = open_counter(&process, &desc).expect("a counter");
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(generation) = process.learn() else {
                    std::thread::yield_now();
                    continue;
                };
                while !stop.load(Ordering::Relaxed) && write(&process, generation, written).is_ok() {
                    written += 1;
                    counter.inc();
                }
            }
            (written, counter)
        })
    };
    let writers = [writer(&old_process), writer(&new_process)];
    let mut pair = (&old, &new);
    for n in 0..40 {
        let record = real.hand_over(pair.0, pair.1);
        assert_eq!((record.outcome, record.generation), (Outcome::Committed, 3 + n), "{record:?}");
        assert!(record.figures.gate_closed_us > 0 && record.root_digest == status(&real.arbiter).root_digest);
        pair = (pair.1, pair.0);
    }
    stop.store(true, Ordering::Relaxed);
    let done: Vec<_> = writers.into_iter().map(|w| w.join().expect("no panic")).collect();
    let written: u64 = done.iter().map(|(written, _)| written).sum();
    assert_eq!(done[0].1.total(), written, "no increment is lost");
    let report = Arbiter::ask(super::SOON, |reply| real.arbiter.verify(Box::new(|_| true), reply)).expect("an answer");
    assert_eq!(report.expect("nothing runs").faults, []);
}

#[test]
fn a_writer_that_stays_in_its_section_aborts_and_never_tears() {
    let real = Real::heap();
    let (old, old_process) = real.here("1.0.0");
    old.agree(Hook::Prepare);
    let generation = Generation::new(real.until_owner(&old).generation);
    let (new, _new_process) = real.here("2.0.0");
    let section = old_process.enter(generation).expect("open");
    let precopy_timeout = Some(Duration::from_millis(50));
    let asked = real.ask(&new, SwitchOptions { precopy_timeout, ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    let record = asked.record();
    assert_eq!((record.reason, record.phase), (Some(Reason::FreezeTimeout), Phase::Precopy));
    drop(section);
    write(&old_process, generation, 1).expect("the owner goes on");
    assert_eq!(real.hand_over(&old, &new).outcome, Outcome::Committed);
    assert!(matches!(write(&old_process, generation, 2), Err(WriteError::Fenced(_))));
}

#[test]
fn a_cell_of_a_newer_schema_keeps_the_old_version_from_owning() {
    let real = Real::heap();
    let (owner, process) = real.here("2.0.0");
    owner.agree(Hook::Prepare);
    let generation = Generation::new(real.until_owner(&owner).generation);
    write(&process, generation, 1).expect("open");
    let (old, _) = real.here("1.0.0");
    let needs = vec![Need { object: "basket".into(), kind: "cell".into(), readable: vec![0], written: vec![0] }];
    old.say(FromInstance::Declare(needs));
    let refusal = real.ask(&old, SwitchOptions::default()).refusal();
    assert_eq!(refusal.reason, Reason::SchemaUnreadable);
    assert!(refusal.message.contains("basket"), "{refusal}");
}

#[test]
fn another_arbiter_takes_the_same_region_up() {
    let Real { mapping, arbiter } = Real::heap();
    let real = Real { mapping, arbiter };
    let (one, process) = real.here("1.0.0");
    one.agree(Hook::Prepare);
    let generation = Generation::new(real.until_owner(&one).generation);
    let (mapping, arbiter) = (Arc::clone(&real.mapping), real.arbiter.clone());
    let resume = Some((one.name().to_owned(), one.welcome.resume_token));
    drop((one, real));
    arbiter.shutdown();
    write(&process, generation, 1).expect("the data plane needs no arbiter");
    let real = Real::over(mapping, Policy::default());
    assert_eq!(status(&real.arbiter).owner.expect("alive").incarnation, process.incarnation());
    let back = real.one(Hello { version: "1.0.0".into(), resume, ..Hello::default() });
    back.ready();
    let (new, _new_process) = real.here("2.0.0");
    let record = real.hand_over(&back, &new);
    assert_eq!((record.number, record.generation), (2, 3));
}

/// An owner without a flush hook that is stopped while the arbiter is started anew: the region says that it need not be asked.
#[test]
fn the_region_remembers_which_hooks_an_owner_has() {
    let real = Real::heap();
    let (one, process) = real.here("1.0.0");
    one.agree(Hook::Prepare);
    one.ready_with(HookSet { prepare: true, flush: false, resume: true });
    one.hear(|m| matches!(m, ToInstance::ReadyNoted { .. }).then_some(()));
    real.until_owner(&one);
    let (mapping, arbiter) = (Arc::clone(&real.mapping), real.arbiter.clone());
    drop((one, real));
    arbiter.shutdown();
    let real = Real::over(mapping, Policy::default());
    let (new, _new_process) = real.here("2.0.0");
    let asked = real.ask(&new, SwitchOptions { flush_timeout: Some(super::SOON), ..SwitchOptions::default() });
    new.agree(Hook::Prepare);
    assert_eq!(asked.record().outcome, Outcome::Committed);
    assert!(write(&process, Generation::new(2), 1).is_err(), "fenced");
}

/// Random bytes all over a region, page 0 apart: the arbiter answers whatever it finds.
#[test]
fn hostile_bytes_do_not_stop_the_arbiter() {
    for seed in 1..12_u64 {
        let real = Real::heap();
        let (old, _old_process) = real.here("1.0.0");
        old.agree(Hook::Prepare);
        real.until_owner(&old);
        let (new, _new_process) = real.here("2.0.0");
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for segment in &real.mapping.header().segments {
            for _ in 0..64 {
                let offset = segment.offset + next() % segment.len.min(1 << 16) / 8 * 8;
                if segment.offset > 0 {
                    // What is not allocated cannot be reached by anyone.
                    let _ = real.mapping.copy_in(offset, &next().to_le_bytes());
                }
            }
        }
        status(&real.arbiter);
        let limit = Some(Duration::from_millis(50));
        let options = SwitchOptions {
            prepare_timeout: limit,
            precopy_timeout: limit,
            flush_timeout: limit,
            ..SwitchOptions::default()
        };
        let asked = real.ask(&new, options);
        new.say(FromInstance::HookResult { call_id: 0, ok: true, veto: String::new() });
        // Committed, aborted or refused: but an answer, and one that stays.
        let answer = asked.done();
        let seen = status(&real.arbiter);
        if let Ok(record) = &answer {
            assert_eq!(record.outcome == Outcome::Committed, seen.generation > 2, "seed {seed}: {record:?}");
        }
        let report = Arbiter::ask(super::SOON, |reply| real.arbiter.verify(Box::new(|_| true), reply));
        assert!(report.is_some(), "seed {seed}");
    }
}

//! Whoever comes after a kill: recovers, checks, hands over, writes, hands over again, checks again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use heirloom_region::digest::Keeper;
use heirloom_region::error::Error;
use heirloom_region::inspect;
use heirloom_region::instances::{self, NewInstance};
use heirloom_region::mapping::Mapping;
use heirloom_region::objects::lane::lanes_used;
use heirloom_region::objects::{open_cell, open_counter, open_float_counter, open_gauge, open_histogram, open_updown};
use heirloom_region::process::Process;
use heirloom_region::series::{SeriesId, SeriesStore};
use heirloom_tests::steps::{BOUNDS, CELL, SERIES, cell, desc, part, sample, samples, switch};

/// What was found, in words.
pub(crate) type Seen = BTreeMap<&'static str, String>;

/// Recovers the region at `path` and says what is in it; with `go_on`, hands it over afterwards.
pub(crate) fn recover(path: &Path, go_on: bool) -> Result<Seen, String> {
    let mut at = "opening";
    found(path, go_on, &mut at).map_err(|why| format!("{at}: {why}"))
}

fn found(path: &Path, go_on: bool, at: &mut &'static str) -> Result<Seen, Error> {
    let mapping = Mapping::open_file(path, false)?;
    let (mut keeper, recovery) = Keeper::open(Arc::clone(&mapping))?;
    let observer = Process::observer(Arc::clone(&mapping))?;
    *at = "up-down gauge";
    let dead_share = open_updown(&observer, &desc("open"))?.total();
    *at = "reclaiming the dead";
    for row in instances::rows(&mapping) {
        keeper.reclaim(row?.seat.row)?;
    }
    *at = "lanes that the dead still hold";
    expect(lanes_used(&mapping), 0)?;
    *at = "up-down gauge after the reclaim";
    expect(open_updown(&observer, &desc("open"))?.total(), 0)?;
    *at = "verifying";
    expect(keeper.verify(&mut |_, _| ()), vec![])?;
    *at = "reading";
    let mut seen = read(&mapping, &observer)?;
    seen.insert("generation", recovery.generation.to_string());
    seen.insert("open of the dead", dead_share.to_string());
    seen.insert("record", String::from_utf8_lossy(&keeper.history().get(1).unwrap_or_default()).into_owned());
    if go_on {
        *at = "the next handover";
        next(&mapping, &mut keeper, recovery.generation, at)?;
    }
    Ok(seen)
}

fn expect<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(other(format!("expected {expected:?}, found {found:?}"))) }
}

fn other(found: impl std::fmt::Display) -> Error {
    heirloom_region::error::Misuse::Argument { what: "recovery", found: found.to_string() }.into()
}

fn read(mapping: &Arc<Mapping>, p: &Arc<Process>) -> Result<Seen, Error> {
    let mut seen = Seen::new();
    seen.insert("count", open_counter(p, &desc("count"))?.total().to_string());
    seen.insert("work", open_float_counter(p, &desc("work"))?.total().to_string());
    let took = open_histogram(p, &desc("took"), &BOUNDS)?;
    seen.insert("took count", took.count().to_string());
    seen.insert("took sum", took.sum().to_string());
    seen.insert("took buckets", format!("{:?}", took.counts()));
    seen.insert("level", open_gauge(p, &desc("level"))?.value().to_string());
    for (what, name) in [("basket", "basket"), ("fresh cell", "fresh")] {
        let value = open_cell(p, &cell(name))?.read()?;
        let text = value.map_or("unborn".into(), |value| match &value.parts[0].bytes {
            long if long.len() >= 1000 && long.iter().all(|b| *b == long[0]) => {
                format!("{} bytes of {}", long.len(), long[0])
            }
            short => String::from_utf8_lossy(short).into_owned(),
        });
        seen.insert(what, text);
    }
    let families = inspect::metrics(mapping);
    let samples_of = |name: &str| families.iter().filter(|f| *f.name == *name).map(|f| f.samples.len()).sum::<usize>();
    seen.insert("fresh metrics", samples_of("fresh").to_string());
    let store = SeriesStore::open(p)?;
    seen.insert("series", store.count()?.to_string());
    let Some(id) = store.find(&SERIES)? else { return Err(other("the series is gone")) };
    let all = samples(&store.chunks(id, i64::MIN..=i64::MAX)?)?;
    let whole = all.iter().zip(0..).all(|(found, n)| *found == sample(n));
    seen.insert("heat", format!("{} samples{}", all.len(), if whole { "" } else { ", wrong ones" }));
    for number in 0..store.count()? {
        store.labels(SeriesId::new(number))?;
    }
    Ok(seen)
}

/// Two handovers to instances that write everything there is.
fn next(mapping: &Arc<Mapping>, keeper: &mut Keeper, generation: u64, at: &mut &'static str) -> Result<(), Error> {
    for n in 1..=2 {
        let (seat, liveness) = keeper.seat(&NewInstance::default())?;
        let p = Process::attach(Arc::clone(mapping), seat, liveness)?;
        expect(switch(keeper, seat.incarnation)?, generation + n)?;
        let term = p.learn()?;
        *at = "writing after the handover";
        let count = open_counter(&p, &desc("count"))?;
        let before = count.total();
        count.inc();
        expect(count.total(), before + 1)?;
        open_counter(&p, &desc("fresh_too"))?.inc();
        open_histogram(&p, &desc("took"), &BOUNDS)?.observe(0.1);
        open_updown(&p, &desc("open"))?.add(1);
        expect(open_updown(&p, &desc("open"))?.total(), 1)?;
        open_gauge(&p, &desc("level"))?.set(term, 9.0).map_err(other)?;
        for name in ["basket", "fresh", "fresh_too"] {
            let cell = open_cell(&p, &cell(name))?;
            cell.write(term, &[part(CELL[0])], None).map_err(other)?;
            expect(cell.read()?.map(|value| value.parts[0].bytes.clone()), Some(CELL[0].to_vec()))?;
        }
        let store = SeriesStore::open(&p)?;
        for name in ["heat", "fresh", "fresh_too"] {
            let id = store.open_series(term, &[("__name__", name)]).map_err(other)?;
            let have = samples(&store.chunks(id, i64::MIN..=i64::MAX)?)?.len() as u32;
            store.append(term, id, sample(have)).map_err(other)?;
            expect(samples(&store.chunks(id, i64::MIN..=i64::MAX)?)?.len() as u32, have + 1)?;
        }
        let number = keeper.history().next_number();
        keeper.history().put(number, b"a record")?;
        *at = "the handover after the next";
        let row = p.row();
        drop((count, store, p));
        keeper.reclaim(row)?;
    }
    *at = "verifying after two handovers";
    while !matches!(round(keeper)?, heirloom_region::digest::RoundStep::Done { .. }) {}
    expect(keeper.verify(&mut |_, _| ()), vec![])
}

fn round(keeper: &mut Keeper) -> Result<heirloom_region::digest::RoundStep, Error> {
    keeper.begin_round()?;
    keeper.round_step(u32::MAX)
}

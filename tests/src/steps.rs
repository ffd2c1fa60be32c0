//! A process that is followed instruction by instruction: it prepares, stops itself, does one thing, and stops itself again.
//!
//! [`base`] is what every region holds before; [`Primitive`] is the one thing. What a kill within it may leave is a sentence
//! of the test (`tests/every_instruction`), not of this module.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use heirloom_region::digest::{Keeper, Next, RoundStep};
use heirloom_region::error::{Error, Generation};
use heirloom_region::instances::NewInstance;
use heirloom_region::mapping::Mapping;
use heirloom_region::objects::{
    CellSpec, MetricDesc, Part, open_cell, open_counter, open_float_counter, open_gauge, open_histogram, open_updown,
};
use heirloom_region::process::{Process, Seat};
use heirloom_region::recover::KeeperHold;
use heirloom_region::series::xor::Decoder;
use heirloom_region::series::{Chunks, Sample, SeriesStore};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};

/// A histogram's bounds.
pub const BOUNDS: [f64; 2] = [0.5, 1.0];
/// The value of the cell before, and after.
pub const CELL: [&[u8]; 2] = [b"the old value of the cell", b"another value, of another length, in the same buffers"];
/// The value that needs larger buffers, in another extent.
pub const LARGE: usize = 1_000;
/// The labels of the series.
pub const SERIES: [(&str, &str); 1] = [("__name__", "heat")];

macro_rules! primitives {
    ($($name:ident = $word:literal,)*) => {
        /// The one thing that is done between the two stops.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Primitive { $($name,)* }
        impl Primitive {
            /// All of them.
            pub const ALL: &[Primitive] = &[$(Primitive::$name,)*];
            /// Its word on the command line.
            pub fn word(self) -> &'static str {
                match self { $(Primitive::$name => $word,)* }
            }
        }
    };
}

primitives! {
    CounterAdd = "counter-add",
    FloatAdd = "float-add",
    Observe = "histogram-observe",
    UpDownAdd = "updown-add",
    GaugeSet = "gauge-set",
    FirstMark = "page-mark",
    CellWrite = "cell-write",
    CellGrow = "cell-grow",
    SeriesAppend = "series-append",
    SeriesSeal = "series-seal",
    OpenCounter = "directory-insert",
    OpenHistogram = "extent-growth",
    OpenCell = "owned-insert",
    OpenSeries = "series-insert",
    LaneClaim = "lane-claim",
    Attach = "slot-claim",
    Detach = "detach",
    Hold = "liveness-lock",
    Seat = "seat",
    Round = "round",
    Freeze = "gate-change",
    Seal = "superblock-write",
    Commit = "commit",
    History = "history-put",
    Reclaim = "reclaim",
}

impl Primitive {
    /// Whether it is the keeper's doing; else an instance's, which owns.
    pub fn is_the_keepers(self) -> bool {
        use Primitive::*;
        matches!(self, Hold | Seat | Round | Freeze | Seal | Commit | History | Reclaim)
    }
}

/// A metric's description.
pub fn desc(name: &str) -> MetricDesc<'_> {
    MetricDesc { name, ..MetricDesc::default() }
}
/// The cell of this name.
pub fn cell(name: &str) -> CellSpec<'_> {
    CellSpec { name, labels: &[], bytes_max: 1 << 20 }
}
/// A value's one part.
pub fn part(bytes: &[u8]) -> Part {
    Part { schema: 1, codec: 1, bytes: bytes.to_vec() }
}
/// The sample with this number.
pub fn sample(n: u32) -> Sample {
    Sample { timestamp_ms: 1_000_000 + 15_000 * i64::from(n), value: 1.5 * f64::from(n * n) }
}

/// What every region holds before. `samples` is how many the series has.
///
/// # Errors
/// As the region's calls.
pub fn base(p: &Arc<Process>, generation: Generation, samples: u32) -> Result<(), Error> {
    open_counter(p, &desc("count"))?.add(7);
    open_float_counter(p, &desc("work"))?.add(1.5);
    open_histogram(p, &desc("took"), &BOUNDS)?.observe(0.25);
    open_updown(p, &desc("open"))?.add(3);
    open_gauge(p, &desc("level"))?.set(generation, 1.0).map_err(error)?;
    open_cell(p, &cell("basket"))?.write(generation, &[part(CELL[0])], None).map_err(error)?;
    let store = SeriesStore::open(p)?;
    let id = store.open_series(generation, &SERIES).map_err(error)?;
    for n in 0..samples {
        store.append(generation, id, sample(n)).map_err(|e| error(&e))?;
    }
    Ok(())
}

fn error(what: impl std::fmt::Display) -> Error {
    let found = what.to_string();
    heirloom_region::error::Misuse::Argument { what: "step", found }.into()
}

/// Makes `owner` the owner of the next generation.
///
/// # Errors
/// As the region's calls.
pub fn switch(keeper: &mut Keeper, owner: u64) -> Result<u64, Error> {
    let budget = std::time::Duration::from_millis(250);
    round(keeper)?;
    keeper.record_totals()?;
    let next = Next { owner_incarnation: owner, schema_fingerprint: 0 };
    let sealed = keeper.freeze(budget).map_err(error)?.seal(next).map_err(error)?;
    let done = sealed.commit().map_err(error)?;
    if done.recomputed_root.is_some_and(|root| root != done.root_digest) {
        return Err(error(format!("a page was missed: {done:?}")));
    }
    Ok(done.generation.get())
}

fn round(keeper: &mut Keeper) -> Result<(), Error> {
    keeper.begin_round()?;
    while !matches!(keeper.round_step(u32::MAX)?, RoundStep::Done { .. }) {}
    Ok(())
}

/// `steps PRIMITIVE REGION ROW INCARNATION DESCRIPTOR`: the child.
pub fn run(args: &[String]) -> ExitCode {
    match follow(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("steps {args:?}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Stops this process: where its parent begins and ends to count.
fn stop() -> Result<(), Error> {
    raise(Signal::SIGSTOP).map_err(error)
}

fn follow(args: &[String]) -> Result<(), Error> {
    let [word, region, row, incarnation, fd] = args else { return Err(error("expected five arguments")) };
    let primitive = Primitive::ALL.iter().copied().find(|p| p.word() == word).ok_or_else(|| error("what?"))?;
    ptrace::traceme().map_err(|e| error(format!("ptrace is not permitted here: {e}")))?;
    let mapping = Mapping::open_file(Path::new(region), false)?;
    if primitive.is_the_keepers() {
        return keeper_step(primitive, mapping);
    }
    let number = |text: &String| text.parse().map_err(|_| error(format!("{text} is no number")));
    let (row, incarnation): (u64, u64) = (number(row)?, number(incarnation)?);
    let seat = Seat { row: row as u32, incarnation };
    let liveness = Some(crate::sys::inherited(number(fd)? as i32));
    if primitive == Primitive::Attach {
        stop()?;
        let attached = Process::attach(mapping, seat, liveness)?;
        stop()?;
        drop(attached);
        return Ok(());
    }
    let process = Process::attach(mapping, seat, liveness)?;
    instance_step(primitive, process)
}

fn instance_step(primitive: Primitive, p: Arc<Process>) -> Result<(), Error> {
    let generation = p.learn()?;
    if primitive == Primitive::LaneClaim {
        // Its thread has no lane before it opens anything.
        stop()?;
        open_counter(&p, &desc("count"))?.add(1);
        return stop();
    }
    let (count, work, took) = (
        open_counter(&p, &desc("count"))?,
        open_float_counter(&p, &desc("work"))?,
        open_histogram(&p, &desc("took"), &BOUNDS)?,
    );
    let (level, basket) = (open_gauge(&p, &desc("level"))?, open_cell(&p, &cell("basket"))?);
    let open = open_updown(&p, &desc("open"))?;
    let store = SeriesStore::open(&p)?;
    let id = store.open_series(generation, &SERIES).map_err(error)?;
    count.add(0);
    work.add(0.0);
    open.add(0);
    let next = sample(samples(&store.chunks(id, i64::MIN..=i64::MAX)?)?.len() as u32);
    if primitive == Primitive::GaugeSet {
        // The page is marked, and this thread has its slot.
        level.set(generation, 1.0).map_err(error)?;
    } else {
        drop(p.enter(generation).map_err(error)?);
    }
    stop()?;
    match primitive {
        Primitive::CounterAdd => count.add(1),
        Primitive::FloatAdd => work.add(1.0),
        Primitive::Observe => took.observe(0.75),
        Primitive::UpDownAdd => open.add(2),
        Primitive::GaugeSet | Primitive::FirstMark => level.set(generation, 2.0).map_err(error)?,
        Primitive::CellWrite => basket.write(generation, &[part(CELL[1])], None).map(|_| ()).map_err(error)?,
        Primitive::CellGrow => basket.write(generation, &[part(&[7; LARGE])], None).map(|_| ()).map_err(error)?,
        Primitive::SeriesAppend | Primitive::SeriesSeal => {
            store.append(generation, id, next).map(|_| ()).map_err(error)?;
        }
        Primitive::OpenCounter => drop(open_counter(&p, &desc("fresh"))?),
        Primitive::OpenHistogram => drop(open_histogram(&p, &desc("fresh"), &[0.0; 0])?),
        Primitive::OpenCell => {
            open_cell(&p, &cell("fresh"))?.write(generation, &[part(CELL[1])], None).map(|_| ()).map_err(error)?;
        }
        Primitive::OpenSeries => store.open_series(generation, &[("__name__", "fresh")]).map(|_| ()).map_err(error)?,
        Primitive::Detach => drop((count, work, took, level, basket, open, store, p)),
        _ => return Err(error("not an instance's")),
    }
    stop()
}

/// Every sample of these chunks.
///
/// # Errors
/// A chunk that cannot be decoded.
pub fn samples(chunks: &Chunks) -> Result<Vec<Sample>, Error> {
    chunks.chunks.iter().flat_map(|chunk| Decoder::new(&chunk.bytes)).collect::<Result<_, _>>().map_err(error)
}

fn keeper_step(primitive: Primitive, mapping: Arc<Mapping>) -> Result<(), Error> {
    if primitive == Primitive::Hold {
        stop()?;
        let hold = KeeperHold::take(&mapping)?;
        stop()?;
        drop(hold);
        return Ok(());
    }
    let (mut keeper, _) = Keeper::open(mapping)?;
    let next = Next { owner_incarnation: 0, schema_fingerprint: 0 };
    let history = keeper.history();
    let budget = std::time::Duration::from_millis(250);
    if matches!(primitive, Primitive::Freeze | Primitive::Seal | Primitive::Commit) {
        // Nothing is left to read. A freeze has a budget, in which few instructions can be followed: each part by itself.
        round(&mut keeper)?;
        round(&mut keeper)?;
        if primitive == Primitive::Freeze {
            stop()?;
            drop(keeper.freeze(budget));
            return stop();
        }
        let frozen = keeper.freeze(budget).map_err(error)?;
        if primitive == Primitive::Seal {
            stop()?;
            // Late or not, it opens the gate again.
            drop(frozen.seal(next));
            return stop();
        }
        let sealed = frozen.seal(next).map_err(error)?;
        stop()?;
        // Late, it opens the gate again; who follows it sees that nothing was committed.
        drop(sealed.commit());
        return stop();
    }
    stop()?;
    match primitive {
        Primitive::Seat => drop(keeper.seat(&NewInstance { version: "2".into(), ..NewInstance::default() })?),
        Primitive::Round => round(&mut keeper)?,
        Primitive::History => history.put(1, b"the second revision of the record")?,
        Primitive::Reclaim => keeper.reclaim(0)?,
        _ => return Err(error("not the keeper's")),
    }
    stop()
}

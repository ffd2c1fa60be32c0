//! Killed at every instruction: each primitive of the region runs under single-step in a process of its own, and for every
//! instruction k the region is recovered as a SIGKILL after k instructions would have left it.
//!
//! Two ways, which check one another:
//! - **Every k.** The process is stopped after each instruction, and the region's bytes are compared with those before it.
//!   A kill writes nothing to a shared mapping and frees the process' locks; so a copy of the file, which nobody has locked,
//!   is what a kill here leaves. Equal bytes are recovered once: *kill points* counts instructions, *states* what was
//!   recovered. After the first 2,000 instructions one of 16 is looked at, chosen by a seed that is printed, and after
//!   `HEIRLOOM_STEPS_SECONDS` (10) the rest is left out, which is printed too; `HEIRLOOM_STEPS=all` looks at every one and
//!   has all the time.
//! - **Really killed.** A sample of k, chosen by the same seed: stepped to k, SIGKILLed, reaped, and the region itself is
//!   recovered, where the kernel's proof of death is needed to free what the dead held.
//!
//! After each kill: a keeper opens the region, the dead are reclaimed, `verify` finds nothing, everything is as it was but
//! the one thing, which is old or new and, once new, stays new; then the region is handed over, written, handed over again
//! and verified again.
//!
//! Where ptrace is not permitted this fails and says so, unless `HEIRLOOM_SKIP_PTRACE=1`. All instructions of everything:
//!
//! ```sh
//! HEIRLOOM_STEPS=all HEIRLOOM_KILLS=200 cargo test --release -p heirloom-tests --test every_instruction -- --nocapture
//! ```

mod recovery;
mod scene;
mod tracer;

use std::time::{Duration, Instant};

use heirloom_tests::random::Random;
use heirloom_tests::steps::Primitive;

use recovery::{Seen, recover};
use scene::Scene;
use tracer::{Stepped, Tracee};

fn limit(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
}

/// Whether the environment says in so many words that there is no ptrace here.
fn is_skipped() -> bool {
    let skipped = std::env::var("HEIRLOOM_SKIP_PTRACE").is_ok_and(|v| v == "1");
    if skipped {
        println!("SKIPPED: nothing was killed, because HEIRLOOM_SKIP_PTRACE=1");
    }
    skipped
}

/// Old, then new, and never old again.
struct Order {
    primitive: Primitive,
    before: Seen,
    new_since: Option<u64>,
}

impl Order {
    fn check(&mut self, k: u64, seen: &Seen) {
        let changed = scene::check(self.primitive, &self.before, seen).unwrap_or_else(|why| self.fail(k, &why));
        match (changed, self.new_since) {
            (true, None) => self.new_since = Some(k),
            (false, Some(since)) => self.fail(k, &format!("new since instruction {since}, and old again: {seen:?}")),
            _ => {}
        }
    }
    fn fail(&self, k: u64, why: &str) -> ! {
        panic!("{} killed after {k} instructions: {why}", self.primitive.word())
    }
}

fn at_every_instruction(primitive: Primitive) {
    if is_skipped() {
        return;
    }
    let began = Instant::now();
    let mut random = Random::announced(primitive.word());
    let kills = limit("HEIRLOOM_KILLS", 1);
    let followed = match primitive {
        // It has a deadline, so it is looked at seldom, and again if it was late all the same.
        Primitive::Commit => (0..40).map(|_| follow(primitive, &mut random)).find(|f| f.done),
        _ => Some(follow(primitive, &mut random)),
    };
    let followed = followed.expect("a commit within its budget of 250 ms, single-stepped, in 40 tries");
    for _ in 0..kills {
        kill(primitive, random.below(followed.instructions));
    }
    println!(
        "{:18} {:7} instructions{}, {:6} kill points, {:4} states recovered, {kills} real kills, {:.1?}",
        primitive.word(),
        followed.instructions,
        if followed.whole { "" } else { " (the rest was LEFT OUT: HEIRLOOM_STEPS=all)" },
        followed.points,
        followed.states,
        began.elapsed()
    );
}

/// What was looked at.
struct Followed {
    instructions: u64,
    points: u64,
    states: u64,
    whole: bool,
    done: bool,
}

/// Looks at the region after every instruction, or after as many as there is time for.
fn follow(primitive: Primitive, random: &mut Random) -> Followed {
    let in_haste = primitive == Primitive::Commit;
    let (each, then_one_of) = if in_haste { (0, 64) } else { (2_000, 16) };
    let all = !in_haste && std::env::var("HEIRLOOM_STEPS").is_ok_and(|v| v == "all");
    let (began, time) = (Instant::now(), Duration::from_secs(limit("HEIRLOOM_STEPS_SECONDS", 10)));
    let mut scene = Scene::new(primitive);
    let before = recover(&scene.copy(), false).unwrap_or_else(|why| panic!("before {}: {why}", primitive.word()));
    let mut order = Order { primitive, before, new_since: None };
    let mut tracee = Tracee::start(&mut scene);
    let mut followed = Followed { instructions: 0, points: 0, states: 0, whole: true, done: false };
    let mut last = Vec::new();
    loop {
        let k = followed.instructions;
        if all || k < each || random.below(then_one_of) == 0 {
            followed.points += 1;
            let now = scene.bytes();
            if now != last {
                followed.states += 1;
                let seen = recover(&scene.copy_of(&now), true).unwrap_or_else(|why| order.fail(k, &why));
                order.check(k, &seen);
                last = now;
            }
        }
        followed.instructions += 1;
        if tracee.step() == Stepped::Over {
            break;
        }
        if !all && began.elapsed() > time {
            followed.whole = false;
            return followed;
        }
    }
    let k = followed.instructions;
    let seen = recover(&scene.copy(), true).unwrap_or_else(|why| order.fail(k, &why));
    order.check(k, &seen);
    followed.done = order.new_since.is_some();
    assert!(followed.done || in_haste, "{} was done, and nothing of it is there: {seen:?}", primitive.word());
    followed
}

/// Kills it after `k` instructions, and recovers the region itself.
fn kill(primitive: Primitive, k: u64) {
    let mut scene = Scene::new(primitive);
    let before = recover(&scene.copy(), false).unwrap_or_else(|why| panic!("before {}: {why}", primitive.word()));
    let mut order = Order { primitive, before, new_since: None };
    let mut tracee = Tracee::start(&mut scene);
    for _ in 0..k {
        if tracee.step() == Stepped::Over {
            break;
        }
    }
    tracee.kill();
    let seen = recover(&scene.path(), true).unwrap_or_else(|why| order.fail(k, &format!("really: {why}")));
    order.check(k, &seen);
}

macro_rules! tests {
    ($($name:ident = $primitive:ident,)*) => {
        $(#[test] fn $name() { at_every_instruction(Primitive::$primitive); })*
        #[test]
        fn every_primitive_has_its_test() {
            assert_eq!([$(Primitive::$primitive),*], Primitive::ALL);
        }
    };
}

tests! {
    counter_add = CounterAdd,
    float_add = FloatAdd,
    histogram_observe = Observe,
    updown_add = UpDownAdd,
    gauge_set = GaugeSet,
    page_mark = FirstMark,
    cell_write = CellWrite,
    cell_grow = CellGrow,
    series_append = SeriesAppend,
    series_seal = SeriesSeal,
    directory_insert = OpenCounter,
    extent_growth = OpenHistogram,
    owned_insert = OpenCell,
    series_insert = OpenSeries,
    lane_claim = LaneClaim,
    slot_claim = Attach,
    detach = Detach,
    liveness_lock = Hold,
    seat = Seat,
    round = Round,
    gate_change = Freeze,
    superblock_write = Seal,
    commit = Commit,
    history_put = History,
    reclaim = Reclaim,
}

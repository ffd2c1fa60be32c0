//! A service under load, through the client crate and a real sidecar: random updates of 16 bytes whenever it owns.

use std::io::BufRead;
use std::time::{Duration, Instant};

use heirloom_client::{Cell, Hooks, IfAbsent, Region, Term, WriteError, attach, wait};

/// What it serves.
pub(crate) const SERVICE: &str = "bench";
/// Bytes between two small cells.
const FILLER_BYTES: usize = 4000;
/// Small cells in a MiB of such a region.
const CELLS_PER_MIB: u64 = 212;

fn small(region: &Region, number: u64) -> Cell<[u64; 2]> {
    region.cell("small").label("number", &number.to_string()).bytes_max(64).open().expect("a small cell")
}

/// `[socket, version, MiB, updates a second]`; a first line on standard input says "fill" or "storm". Says "ready".
pub(crate) fn play(words: &[String]) {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("end with the parent");
    let [socket, version, mib, per_second] = words else { panic!("expected four words, found {words:?}") };
    let [mib, per_second] = [mib, per_second].map(|word| word.parse::<u64>().expect("a number"));
    let attaching = attach(SERVICE).version(version.as_str()).socket(socket);
    let attachment = attaching.if_absent(IfAbsent::Wait(Duration::from_secs(10))).wait().expect("attached");
    let region = attachment.region().clone();
    let _serving = wait(attachment.ready(Hooks::new())).expect("ready");
    for line in std::io::stdin().lock().lines() {
        match line.as_deref() {
            Ok("fill") => fill(&region, mib * CELLS_PER_MIB),
            Ok("storm") => {
                let cells: Vec<_> = (0..mib * CELLS_PER_MIB).map(|i| small(&region, i)).collect();
                let region = region.clone();
                std::thread::spawn(move || storm(&region, &cells, per_second));
            }
            _ => return,
        }
        println!("ready");
    }
}

fn owned(region: &Region) -> Term {
    loop {
        match region.term() {
            Ok(term) => return term,
            Err(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

fn fill(region: &Region, cells: u64) {
    let term = owned(region);
    for i in 0..cells {
        let filler: Cell<Vec<u8>> =
            region.cell("filler").label("number", &i.to_string()).bytes_max(4096).open().expect("a cell");
        filler.set(&term, &vec![0x5a; FILLER_BYTES]).expect("filled");
        let small = small(region, i);
        (0..4).for_each(|n| small.set(&term, &[u64::MAX, n]).expect("filled"));
    }
}

fn storm(region: &Region, cells: &[Cell<[u64; 2]>], per_second: u64) {
    let mut random = u64::from(std::process::id()) | 1;
    loop {
        let (term, began, mut done) = (owned(region), Instant::now(), 0u64);
        'term: loop {
            let due = (began.elapsed().as_nanos() as u64).saturating_mul(per_second) / 1_000_000_000;
            done = done.max(due.saturating_sub(1000));
            while done < due {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                match cells[random as usize % cells.len()].set(&term, &[random, done]) {
                    Ok(()) => done += 1,
                    Err(WriteError::Fenced(_)) => break 'term,
                    Err(e) => panic!("an update: {e}"),
                }
            }
            std::hint::spin_loop();
        }
    }
}

//! Speed and memory, as ratios to what others take for the same, in one run that ends with one table:
//!
//! ```text
//! cargo bench -p heirloom-tests                          every row, in some minutes
//! cargo bench -p heirloom-tests -- counter blackout      only parts whose name contains one of these words
//! cargo bench -p heirloom-tests -- --quick               fewer rounds and series; the figures are rougher
//! chrt -f 1 cargo bench -p heirloom-tests                on a machine that does other things too, as root
//! ```
//!
//! Parts: `counter`, `histogram`, `gauge`, `cell`, `scrape`, `memory`, `select`, `series`, `series-ingest`, `series-takeover`,
//! `series-upgrade`, `takeover`, `blackout`, `parcels`, `sidecar`. Two of them start Debian's `prometheus`. What is compared is
//! measured in turns, in many short rounds, and the medians are printed, so that a busy machine disturbs both sides
//! alike ([`measure`] says how). This is why the harness is its own: Criterion and Divan measure one subject after the other.
//!
//! What needs several processes starts this program again, with a part to play ([`actor`]).

mod actor;
mod blackout;
mod cells;
mod counters;
mod ground;
mod ingest;
mod machine;
mod measure;
mod member;
mod memory;
mod mmap;
mod parcels;
mod scrape;
mod scraper;
mod select;
mod series;
mod stores;
mod storm;
mod table;
mod takeover;
mod through_sidecar;
mod upgrade;

use measure::Effort;
use table::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|word| word == actor::FLAG) {
        return actor::play(&arguments[at + 1..]);
    }
    let effort = if arguments.iter().any(|word| word == "--quick") { Effort::QUICK } else { Effort::FULL };
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let mut table = Table::default();
    type Part = (&'static str, fn(&mut Table, Effort));
    let parts: [Part; 15] = [
        ("counter", counters::counter),
        ("histogram", counters::histogram),
        ("gauge", counters::gauge),
        ("cell", cells::cell),
        ("scrape", scrape::scrape),
        ("memory", memory::memory),
        ("select", select::select),
        ("series", series::series),
        ("series-ingest", ingest::ingest),
        ("series-takeover", scraper::takeover),
        ("series-upgrade", upgrade::upgrade),
        ("takeover", takeover::takeover),
        ("blackout", blackout::blackout),
        ("parcels", parcels::parcels),
        ("sidecar", through_sidecar::sidecar),
    ];
    println!("{}", machine::facts());
    for (name, measure) in parts {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            println!("measuring {name} ...");
            measure(&mut table, effort);
        }
    }
    println!("\n{}\n{table}", machine::facts());
}

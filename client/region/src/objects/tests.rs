//! What the objects promise, tried hard: races, deaths, full regions, damaged bytes.

use std::sync::Arc;

use super::*;
use crate::digest::Keeper;
use crate::instances::{self, NewInstance};
use crate::layout::RegionSpec;
use crate::mapping::Mapping;
use crate::process::Process;

mod cells;
mod damage;
mod lanes;
mod metrics;
mod processes;

fn spec() -> RegionSpec {
    RegionSpec::new("r", 64 << 20)
}

fn heap(spec: &RegionSpec) -> Arc<Mapping> {
    Mapping::heap(spec).unwrap()
}

fn attach(mapping: &Arc<Mapping>) -> Arc<Process> {
    let new = NewInstance { version: "v1".into(), pid: 1, uid: 1, start_ticks: 1, resume_token: [0; 16] };
    let (seat, liveness) = instances::seat(mapping, &new).unwrap();
    Process::attach(Arc::clone(mapping), seat, liveness).unwrap()
}

/// Gives the region to `owner`. The commit compares the root with a full recomputation, so no page was left unmarked.
fn switch_to(keeper: &mut Keeper, owner: u64) {
    crate::digest::tests::switch_to(keeper, owner);
}

fn desc(name: &str) -> MetricDesc<'_> {
    MetricDesc { name, ..MetricDesc::default() }
}

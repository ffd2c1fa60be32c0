//! `dump`: a region file, read without a sidecar.
//!
//! Invariant: the file is opened to read only. What is wrong in it is listed and makes the exit code 6; only a header that
//! cannot be trusted ends the reading, because everything else is found by it.

mod series;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use heirloom_proto::reason::exit;
use heirloom_region::digest::{self, PageState};
use heirloom_region::error::Error;
use heirloom_region::history::History;
use heirloom_region::inspect::{self, Value};
use heirloom_region::layout::SegmentKind;
use heirloom_region::mapping::Mapping;
use heirloom_region::{gate, instances};
use prost_types::Timestamp;

use super::failed::Failed;
use super::print::{Printer, bytes, counts, table};
use super::verify::{fault, open, region_error};
use crate::output::dump::{Cell, Dump, Gate, Header, InstanceRow, Metric, PageRun, Segment, Superblock};
use crate::output::{digest as hexadecimal, time::rfc3339};

pub(crate) fn run(printer: Printer, path: &Path, objects: bool, pages: bool) -> Result<u8, Failed> {
    let region = open(path)?;
    let dump = read(path, &region, objects, pages).map_err(|e| region_error(path, &e))?;
    printer.result(&dump, || text(&dump));
    let Some(first) = dump.faults.first() else { return Ok(exit::DONE) };
    let mut failed = Failed::usage(format!("{}: {} faults, the first: {first}", path.display(), dump.faults.len()));
    (failed.exit_code, failed.reason) = (exit::CORRUPT, heirloom_proto::v1::ErrorReason::from_str_name(&first.reason));
    printer.error(&failed);
    Ok(exit::CORRUPT)
}

fn read(path: &Path, region: &Arc<Mapping>, objects: bool, pages: bool) -> Result<Dump, Error> {
    let gate = gate::gate_word(region)?;
    let phase = match gate {
        gate if gate.is_open() => "open",
        gate if gate.is_frozen() => "frozen",
        _ => "unknown",
    };
    let runs = digest::page_states(region).unwrap_or_default();
    let mut page_counts = BTreeMap::new();
    for (run, state) in &runs {
        *page_counts.entry(state_word(*state).to_owned()).or_insert(0) += run.end - run.start;
    }
    let gate = Gate { generation: gate.generation().get(), attempt: gate.attempt(), phase: phase.to_owned() };
    Ok(Dump {
        file: path.display().to_string(),
        header: header(region),
        superblocks: superblocks(region, gate.generation)?,
        gate,
        same_boot: digest::is_of_this_boot(region)?,
        instances: rows(region),
        next_handover: History::new(region).next_number(),
        objects: inspect::object_counts(region),
        metrics: objects.then(|| metrics(region)),
        cells: objects.then(|| cells(region)),
        series: if objects { Some(series::read(region)?) } else { None },
        page_counts,
        pages: pages.then(|| runs.iter().map(page_run).collect()),
        faults: digest::verify_file(region, &mut |_, _| {}).faults.into_iter().map(fault).collect(),
    })
}

fn time(unix_ms: u64) -> Option<String> {
    let seconds = i64::try_from(unix_ms / 1000).ok().filter(|s| *s > 0)?;
    rfc3339(&Timestamp { seconds, nanos: (unix_ms % 1000) as i32 * 1_000_000 })
}

fn header(region: &Mapping) -> Header {
    let header = region.header();
    let segments = header.segments.iter().map(|s| Segment {
        kind: SegmentKind::from_number(s.kind)
            .map_or_else(|| format!("kind-{}", s.kind), |kind| kind.name().to_owned()),
        version: s.version,
        offset_bytes: s.offset,
        len_bytes: s.len,
    });
    Header {
        region: header.name.clone(),
        uid: uuid::Uuid::from_bytes(header.uuid).to_string(),
        format: format!("{}.{}", header.major, header.minor),
        create_time: time(header.created_unix_ms),
        virtual_bytes: header.virtual_len,
        used_bytes: region.used_bytes(),
        limit_bytes: header.limits.limit_bytes,
        instances_max: header.limits.instances_max,
        lanes_max: header.limits.lanes_max,
        slots_max: header.limits.slots_max,
        series_max: header.limits.series_max,
        history_max: header.limits.history_max,
        segments: segments.collect(),
    }
}

fn superblocks(region: &Mapping, gate_generation: u64) -> Result<Vec<Superblock>, Error> {
    let pair = digest::superblock::read(region)?;
    let current = pair.current(gate_generation).ok();
    let each = (0..).zip(pair.slots()).map(|(slot, found)| match found {
        Err(why) => Superblock {
            slot,
            state: "invalid".to_owned(),
            fault: Some(why.to_string()),
            sequence: None,
            generation: None,
            owner: None,
            root_digest: None,
            seal_time: None,
            frozen_pages: None,
        },
        Ok(it) => Superblock {
            slot,
            state: if Some(*it) == current { "current" } else { "other" }.to_owned(),
            fault: None,
            sequence: Some(it.sequence),
            generation: Some(it.generation),
            owner: (it.owner_incarnation != 0).then(|| instances::instance_name(it.owner_incarnation)),
            root_digest: Some(hexadecimal(it.root_digest)),
            seal_time: time(it.sealed_unix_ms),
            frozen_pages: Some(it.frozen_pages),
        },
    });
    Ok(each.collect())
}

fn rows(region: &Mapping) -> Vec<InstanceRow> {
    let row = |it: instances::InstanceRow| InstanceRow {
        row: it.seat.row,
        instance: it.name(),
        alive: instances::is_dead(region, it.seat.row).ok().map(|dead| !dead),
        version: it.instance.version,
        pid: it.instance.pid,
        uid: it.instance.uid,
        attach_time: time(it.attach_unix_ms),
        last_generation: it.last_generation,
    };
    instances::rows(region).flatten().map(row).collect()
}

fn metrics(region: &Mapping) -> Vec<Metric> {
    let mut all = Vec::new();
    for family in inspect::metrics(region) {
        for sample in family.samples {
            let (value, count, buckets) = match sample.value {
                Value::Counter(n) => (n as f64, Some(n), None),
                Value::FloatCounter(v) | Value::Gauge(v) => (v, None, None),
                Value::UpDownGauge(n) => (n as f64, None, None),
                Value::Histogram { buckets, sum } => (sum, Some(buckets.iter().sum()), Some(buckets)),
                _ => (f64::NAN, None, None),
            };
            all.push(Metric {
                name: family.name.to_string(),
                labels: sample.labels.iter().cloned().collect(),
                kind: family.kind.as_str().to_owned(),
                value: Some(value).filter(|v| v.is_finite()),
                count,
                buckets,
            });
        }
    }
    all
}

fn cells(region: &Mapping) -> Vec<Cell> {
    let cell = |it: inspect::CellInfo| {
        let (summary, fault) = match it.value {
            Ok(summary) => (summary, None),
            Err(e) => (None, Some(e.to_string())),
        };
        Cell {
            name: it.name,
            labels: it.labels.into_iter().collect(),
            schemas: summary.iter().flat_map(|s| s.schemas.iter().map(|(schema, _)| *schema)).collect(),
            len_bytes: summary.as_ref().map(|s| s.len_bytes),
            generation: summary.as_ref().map(|s| s.generation.get()),
            fault,
        }
    };
    inspect::cells(region).into_iter().map(cell).collect()
}

fn state_word(state: PageState) -> &'static str {
    match state {
        PageState::Empty => "empty",
        PageState::Verified => "verified",
        PageState::Dirty => "dirty",
        PageState::Unverifiable => "unverifiable",
        PageState::Corrupt { .. } => "corrupt",
    }
}

fn page_run((run, state): &(Range<u64>, PageState)) -> PageRun {
    let crc = |crc: u32| format!("{crc:#010x}");
    let (expected, found) = match state {
        PageState::Corrupt { expected, found } => (expected.map(crc), Some(crc(*found))),
        _ => (None, None),
    };
    PageRun { first: run.start, pages: run.end - run.start, state: state_word(*state).to_owned(), expected, found }
}

fn text(dump: &Dump) -> String {
    let none = || "–".to_owned();
    let (head, gate) = (&dump.header, &dump.gate);
    let mut text = format!(
        "{}: region {}, format {}, uid {}, created {}\n{} used of {}, {} virtual; gate {} in generation {}, attempt {}\n",
        dump.file,
        head.region,
        head.format,
        head.uid,
        head.create_time.clone().unwrap_or_else(none),
        bytes(head.used_bytes),
        bytes(head.limit_bytes),
        bytes(head.virtual_bytes),
        gate.phase,
        gate.generation,
        gate.attempt,
    );
    if !dump.same_boot {
        text.push_str("last served in another boot of the host: its instances are dead\n");
    }
    let number = |n: Option<u64>| n.map_or_else(none, |n| n.to_string());
    let rows = dump.superblocks.iter().cloned().map(|s| {
        let what = s.fault.unwrap_or(s.state);
        let (owner, digest) = (s.owner.unwrap_or_else(none), s.root_digest.unwrap_or_else(none));
        [
            s.slot.to_string(),
            what,
            number(s.sequence),
            number(s.generation),
            owner,
            digest,
            s.seal_time.unwrap_or_else(none),
        ]
    });
    let names = ["SUPERBLOCK", "STATE", "SEQUENCE", "GEN", "OWNER", "ROOT DIGEST", "SEALED"];
    text.push_str(&format!("\n{}\n", table(names, &[2, 3], rows)));
    let rows = dump.instances.iter().cloned().map(|i| {
        let alive = match i.alive {
            Some(true) => "alive",
            Some(false) => "dead",
            None => "not told",
        };
        let at = i.attach_time.unwrap_or_else(none);
        [
            i.row.to_string(),
            i.instance,
            i.version,
            i.pid.to_string(),
            alive.to_owned(),
            i.last_generation.to_string(),
            at,
        ]
    });
    let names = ["ROW", "INSTANCE", "VERSION", "PID", "STATE", "LAST GEN", "ATTACHED"];
    text.push_str(&format!("\n{}\n", table(names, &[0, 3, 5], rows)));
    text.push_str(&format!("\nobjects: {}\n", counts(&dump.objects)));
    objects(dump, &mut text);
    text.push_str(&format!("pages of the owned area: {}\n", counts(&dump.page_counts)));
    if let Some(runs) = &dump.pages {
        let rows = runs.iter().map(|run| {
            let crc = |c: &Option<String>| c.clone().unwrap_or_default();
            let range = format!("{}..{}", run.first, run.first + run.pages);
            [range, run.state.clone(), crc(&run.expected), crc(&run.found)]
        });
        text.push_str(&format!("\n{}\n", table(["PAGES", "STATE", "EXPECTED", "FOUND"], &[], rows)));
    }
    for fault in &dump.faults {
        text.push_str(&format!("fault: {fault}\n"));
    }
    text
}

fn objects(dump: &Dump, text: &mut String) {
    let labels = |labels: &BTreeMap<String, String>| {
        let each: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        if each.is_empty() { String::new() } else { format!("{{{}}}", each.join(",")) }
    };
    if let Some(metrics) = &dump.metrics {
        let rows = metrics.iter().map(|m| {
            let value = match (m.count, m.value, &m.buckets) {
                (Some(n), sum, Some(buckets)) => {
                    format!("{n} observed, sum {}, buckets {buckets:?}", sum.unwrap_or(f64::NAN))
                }
                (Some(n), ..) => n.to_string(),
                (None, value, _) => value.map_or_else(|| "not finite".to_owned(), |v| v.to_string()),
            };
            [format!("{}{}", m.name, labels(&m.labels)), m.kind.clone(), value]
        });
        text.push_str(&format!("\n{}\n\n", table(["METRIC", "KIND", "VALUE"], &[], rows)));
    }
    if let Some(cells) = &dump.cells {
        let rows = cells.iter().map(|c| {
            let state = c
                .fault
                .clone()
                .unwrap_or_else(|| c.len_bytes.map_or_else(|| "empty".to_owned(), |n| format!("{n} bytes")));
            let generation = c.generation.map_or_else(String::new, |g| g.to_string());
            [format!("{}{}", c.name, labels(&c.labels)), state, format!("{:?}", c.schemas), generation]
        });
        text.push_str(&format!("{}\n\n", table(["CELL", "VALUE", "SCHEMAS", "GEN"], &[], rows)));
    }
    if let Some(all) = dump.series.as_ref().filter(|all| !all.is_empty()) {
        text.push_str(&format!("{}\n\n", series::text(all, labels)));
    }
}

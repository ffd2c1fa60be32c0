//! The time series of a region file: labels, and how much there is of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use heirloom_region::error::Error;
use heirloom_region::mapping::Mapping;
use heirloom_region::process::Process;
use heirloom_region::series::{Chunks, Encoding, SeriesId, SeriesStore};

use crate::output::dump::Series;
use crate::verbs::print::table;

/// All series by number. One that cannot be read is listed with its fault.
pub(super) fn read(region: &Arc<Mapping>) -> Result<Vec<Series>, Error> {
    let opened = Process::observer(Arc::clone(region)).and_then(|process| SeriesStore::open(&process));
    let store = match opened {
        Ok(store) => store,
        // Listed among the faults of the region, as all that is corrupt.
        Err(Error::Corrupt(_)) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    Ok((0..store.count().unwrap_or_default()).map(|number| one(&store, number)).collect())
}

fn one(store: &SeriesStore, number: u32) -> Series {
    let id = SeriesId::new(number);
    let labels = store.labels(id).map_err(Error::from);
    let found = store.chunks(id, i64::MIN..=i64::MAX);
    let fault = [labels.as_ref().err(), found.as_ref().err()].into_iter().flatten().next().map(ToString::to_string);
    let Chunks { chunks, skipped } = found.unwrap_or_default();
    let mut encodings = BTreeMap::new();
    for encoding in chunks.iter().map(|chunk| chunk.encoding).chain(skipped) {
        *encodings.entry(word(encoding)).or_insert(0) += 1;
    }
    Series {
        number,
        labels: labels.unwrap_or_default().into_iter().collect(),
        samples: chunks.iter().map(|chunk| u64::from(chunk.count)).sum(),
        chunk_bytes: chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum(),
        first_ms: chunks.first().map(|chunk| chunk.min_ms),
        last_ms: chunks.last().map(|chunk| chunk.max_ms),
        chunks: encodings,
        fault,
    }
}

fn word(encoding: Encoding) -> String {
    match encoding {
        Encoding::XOR => "xor".to_owned(),
        Encoding(other) => format!("encoding-{other}"),
    }
}

/// A row for each.
pub(super) fn text(all: &[Series], labels: impl Fn(&BTreeMap<String, String>) -> String) -> String {
    let time = |ms: Option<i64>| {
        let known = ms.and_then(|ms| super::time(u64::try_from(ms).ok()?));
        known.or(ms.map(|ms| format!("{ms} ms"))).unwrap_or_else(|| "–".to_owned())
    };
    let rows = all.iter().map(|it| {
        let mut others = it.labels.clone();
        let name = others.remove("__name__").unwrap_or_default();
        let chunks: Vec<_> = it.chunks.iter().map(|(encoding, n)| format!("{n} {encoding}")).collect();
        let state = it.fault.clone().unwrap_or_else(|| chunks.join(", "));
        [
            format!("{name}{}", labels(&others)),
            it.samples.to_string(),
            time(it.first_ms),
            time(it.last_ms),
            it.chunk_bytes.to_string(),
            state,
        ]
    });
    table(["SERIES", "SAMPLES", "FIRST", "LAST", "BYTES", "CHUNKS"], &[1, 4], rows)
}

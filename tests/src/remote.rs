//! Prometheus' remote write and remote read, as a client.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use heirloom_examples::metric_store::wire::{
    Chunk, Label, LabelMatcher, Query, ReadRequest, ReadResponse, WriteRequest, compressed, frames, label_matcher,
    read_request::ResponseType,
};
use prost::Message as _;

use crate::http;

/// A series' labels, as they came.
pub type Labels = Vec<(String, String)>;
/// Samples by series: milliseconds and the value's bits, so that stale markers and every NaN compare.
pub type Samples = BTreeMap<Labels, Vec<(i64, u64)>>;

const HEADERS: [&str; 2] = ["content-type: application/x-protobuf", "content-encoding: snappy"];

/// What a remote write was answered: the status, and the text.
///
/// # Errors
/// If there was no answer, so that nobody knows what became of it.
pub fn write(address: SocketAddr, request: &WriteRequest) -> Result<(u16, String), String> {
    let headers = [HEADERS[0], HEADERS[1], "x-prometheus-remote-write-version: 0.1.0"];
    let answer = http::ask(address, "POST", "/api/v1/write", &headers, &compressed(request))?;
    Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
}

/// Labels as the protocol carries them.
pub fn labels(labels: &Labels) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label { name: name.clone(), value: value.clone() }).collect()
}

pub(crate) fn plain(labels: Vec<Label>) -> Labels {
    labels.into_iter().map(|label| (label.name, label.value)).collect()
}

/// Every series there is.
pub fn all() -> LabelMatcher {
    LabelMatcher { r#type: label_matcher::Type::Re.into(), name: "__name__".into(), value: ".+".into() }
}

fn ask(
    address: SocketAddr,
    matcher: LabelMatcher,
    (start, end): (i64, i64),
    kind: ResponseType,
) -> Result<http::Answer<Vec<u8>>, String> {
    let query = Query { start_timestamp_ms: start, end_timestamp_ms: end, matchers: vec![matcher] };
    let request = ReadRequest { queries: vec![query], accepted_response_types: vec![kind.into()] };
    let answer = http::ask(address, "POST", "/api/v1/read", &HEADERS, &compressed(&request))?;
    if answer.status == 200 {
        Ok(answer)
    } else {
        Err(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
    }
}

/// The samples of the series that match, from `start` to `end`, both included.
///
/// # Errors
/// What went wrong, in words.
pub fn samples(address: SocketAddr, matcher: LabelMatcher, range: (i64, i64)) -> Result<Samples, String> {
    let answer = ask(address, matcher, range, ResponseType::Samples)?;
    let bytes = snap::raw::Decoder::new().decompress_vec(&answer.body).map_err(|e| e.to_string())?;
    let mut response = ReadResponse::decode(bytes.as_slice()).map_err(|e| e.to_string())?;
    let result = response.results.pop().ok_or("expected one result, found none")?;
    let series = result.timeseries.into_iter().map(|series| {
        let samples = series.samples.iter().map(|s| (s.timestamp, s.value().to_bits())).collect();
        (plain(series.labels), samples)
    });
    Ok(series.collect())
}

/// The chunks of the series that match and that touch the range.
///
/// # Errors
/// What went wrong, in words.
pub fn chunks(
    address: SocketAddr,
    matcher: LabelMatcher,
    range: (i64, i64),
) -> Result<BTreeMap<Labels, Vec<Chunk>>, String> {
    let answer = ask(address, matcher, range, ResponseType::StreamedXorChunks)?;
    let kind = "content-type: application/x-streamed-protobuf; proto=prometheus.chunkedreadresponse";
    if !answer.head.lines().any(|line| line == kind) {
        return Err(format!("expected {kind}, found {}", answer.head));
    }
    let mut all: BTreeMap<Labels, Vec<Chunk>> = BTreeMap::new();
    for frame in frames(&answer.body).map_err(|e| e.to_string())? {
        for series in frame.chunked_series {
            all.entry(plain(series.labels)).or_default().extend(series.chunks);
        }
    }
    Ok(all)
}

/// What two answers have in common, and the first difference in words.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Samples that were expected.
    pub expected: usize,
    /// Expected samples that were not found as they should be.
    pub missing: usize,
    /// Samples found that were not expected.
    pub more: usize,
    /// Of both, the first.
    pub first: Option<String>,
}

/// Compares all samples of all series, by time and value.
pub fn compare<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    expected: &BTreeMap<K, Vec<V>>,
    found: &BTreeMap<K, Vec<V>>,
) -> Comparison {
    let mut all = Comparison::default();
    for (labels, samples) in expected {
        all.expected += samples.len();
        let there = found.get(labels).map_or(&[][..], Vec::as_slice);
        if there != samples.as_slice() {
            let missing = samples.iter().filter(|sample| !there.contains(sample));
            let more = there.iter().filter(|sample| !samples.contains(sample));
            all.first.get_or_insert_with(|| {
                let (missing, more) = (missing.clone().next(), more.clone().next());
                format!(
                    "{labels:?}: {} samples, expected {}; missing {missing:?}, more {more:?}",
                    there.len(),
                    samples.len()
                )
            });
            all.missing += missing.count();
            all.more += more.count();
        }
    }
    for (labels, samples) in found.iter().filter(|(labels, _)| !expected.contains_key(labels)) {
        all.more += samples.len();
        all.first.get_or_insert_with(|| format!("{labels:?}: not expected"));
    }
    all
}

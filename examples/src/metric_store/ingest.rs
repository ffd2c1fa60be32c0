//! A write request into the region: what is good goes in, what is not is told.

use heirloom_client::error::Full;
use heirloom_client::series::{Sample, Store};
use heirloom_client::{Error, Term, WriteError};

use super::labels::{checked, written};
use super::wire::{TimeSeries, WriteRequest};

/// What became of a request that was read to its end. Everything accepted is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// New samples.
    pub(super) appended: u64,
    /// Equal ones that were in.
    pub(super) duplicates: u64,
    /// Samples that no later try would bring in.
    pub(super) rejected: u64,
    /// The first faults, in words.
    pub(super) faults: Vec<String>,
}

/// Faults that an answer lists.
const FAULTS_MAX: usize = 5;

impl Outcome {
    fn reject(&mut self, samples: usize, fault: impl FnOnce() -> String) {
        self.rejected += samples as u64;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault());
        }
    }
}

/// Appends the request's samples to their series.
///
/// # Errors
/// If a switch, a frozen gate or a full region kept samples out that are good: send the whole request again. Of a series that
/// got several samples in, all but the last are then rejected as out of order, though they are there; as by Prometheus.
pub(super) fn ingest(store: &Store, term: &Term, request: &WriteRequest) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut appender = store.appender(term);
    // Where in the batch each series begins, to name it if a sample is rejected.
    let mut starts: Vec<(usize, &TimeSeries)> = Vec::with_capacity(request.timeseries.len());
    let mut pushed = 0;
    for series in &request.timeseries {
        if !series.histograms.is_empty() {
            let found = series.histograms.len();
            outcome.reject(found, || {
                format!("{}: {found} native histograms, which are not kept", written(&series.labels))
            });
        }
        let reference = match checked(&series.labels) {
            Ok(_) if series.samples.is_empty() => continue,
            Ok(labels) => match store.open(term, &labels) {
                Ok(reference) => reference,
                // The label set's own fault, or one series too many: series only grow in number, so never better later.
                Err(error @ (WriteError::Misuse(_) | WriteError::Full(Full::Table { .. }))) => {
                    outcome.reject(series.samples.len(), || format!("{}: {error}", written(&series.labels)));
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
            Err(fault) => {
                outcome.reject(series.samples.len().max(1), || format!("{}: {fault}", written(&series.labels)));
                continue;
            }
        };
        starts.push((pushed, series));
        for sample in &series.samples {
            appender.push(reference, Sample { timestamp_ms: sample.timestamp, value: sample.value() });
        }
        pushed += series.samples.len();
    }
    let commit = appender.commit().map_err(|interrupted| Error::from(interrupted.error))?;
    outcome.appended = commit.appended;
    outcome.duplicates = commit.duplicates;
    for (position, why) in commit.rejected {
        outcome.reject(1, || {
            let (start, series) = starts[starts.partition_point(|(start, _)| *start <= position) - 1];
            format!("{} at {}: {why}", written(&series.labels), series.samples[position - start].timestamp)
        });
    }
    Ok(outcome)
}

//! `VerifyRegion`: progress while the arbiter checks, then what it found, then DATA_LOSS if that was anything.

use std::sync::Arc;

use heirloom_proto::Failure;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_region::arbiter::VerifyProgress;
use heirloom_region::mapping::Mapping;
use heirloom_region::process::Process;
use heirloom_region::series::SeriesStore;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use super::host::Host;
use super::switch::EventStream;

/// Begins to verify; the stream ends with the verdict.
pub(crate) fn stream(host: Arc<Host>) -> EventStream<v1::VerifyEvent> {
    let (out, stream) = mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(failure) = run(&host, &out).await {
            let _ = out.send(Err(failure.to_status())).await;
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

/// How many series there are; 0 if that cannot be told, which is among the faults then.
pub(crate) fn series_count(mapping: &Arc<Mapping>) -> u64 {
    let store = Process::observer(Arc::clone(mapping)).and_then(|process| SeriesStore::open(&process));
    store.and_then(|store| Ok(store.count()?)).map_or(0, u64::from)
}

async fn run(host: &Host, out: &mpsc::Sender<Result<v1::VerifyEvent, Status>>) -> Result<(), Failure> {
    let progress_out = out.clone();
    // A reader that is slow loses progress, never the verdict.
    let progress = Box::new(move |at: VerifyProgress| {
        let event = v1::VerifyEvent {
            checked_bytes: at.checked_bytes,
            total_bytes: at.total_bytes,
            paused_by: at.paused_by.unwrap_or_default(),
            ..v1::VerifyEvent::default()
        };
        let _ = progress_out.try_send(Ok(event));
        !progress_out.is_closed()
    });
    let report = host.ask_for(|arbiter, reply| arbiter.verify(progress, reply)).await?;
    let faults: Vec<v1::Fault> = report.faults.iter().map(convert::fault).collect();
    let event = v1::VerifyEvent {
        checked_bytes: report.checked_bytes,
        total_bytes: report.checked_bytes,
        fault_count: report.fault_count,
        faults: faults.clone(),
        unverifiable_bytes: report.unverifiable_bytes,
        unverifiable: report.unverifiable.iter().map(convert::byte_range).collect(),
        paused_by: 0,
        series_checked: series_count(&host.mapping),
    };
    let _ = out.send(Ok(event)).await;
    match faults.first() {
        None => Ok(()),
        Some(first) => {
            let reason =
                if first.reason() == ErrorReason::Unspecified { ErrorReason::RegionCorrupt } else { first.reason() };
            let message = format!(
                "{} faults; the first in {} at byte {}",
                report.fault_count, first.structure, first.offset_bytes
            );
            Err(Failure::new(reason, message).region(&*host.name).expected(&first.expected).found(&first.found))
        }
    }
}

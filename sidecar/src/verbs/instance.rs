//! `abort` and `drain`: the short verbs that change something.

use std::time::Duration;

use heirloom_proto::names;
use heirloom_proto::reason::exit;
use heirloom_proto::v1::handover_record::Outcome as Decided;
use heirloom_proto::v1::{AbortHandoverRequest, DrainInstanceRequest, HandoverRecord};

use super::connect::Sidecar;
use super::failed::{Asked, Failed};
use super::options::millis;
use super::print::{Printer, counts};
use crate::output::{Handover, InstanceStatus};

/// Aborts the running handover, or the one with this number if it is the one that runs. Done is exit 0.
pub(crate) async fn abort(
    sidecar: &Sidecar,
    printer: Printer,
    region: &str,
    number: Option<u64>,
    note: Option<&str>,
) -> u8 {
    let name = number.map_or_else(|| format!("{}/handovers/-", names::region(region)), |n| names::handover(region, n));
    match ask(sidecar, AbortHandoverRequest { name, note: note.unwrap_or_default().to_owned() }).await {
        Ok(record) => {
            let mut object = Handover::from(&record);
            if record.outcome() == Decided::Aborted {
                // What was asked holds.
                object.exit_code = exit::DONE;
            }
            let number = object.handover.unwrap_or(0);
            printer.result(&object, || {
                let generation = object.generation.unwrap_or(0);
                format!("{region}: handover {number} aborted, generation {generation} as before")
            });
            object.exit_code
        }
        Err(failed) => printer.no_handover(failed, region),
    }
}

async fn ask(sidecar: &Sidecar, request: AbortHandoverRequest) -> Result<HandoverRecord, Failed> {
    let mut client = sidecar.client().await?;
    sidecar.answer(Asked::ToChange, client.abort_handover(request)).await
}

/// Asks an instance to drain and leave.
pub(crate) async fn drain(
    sidecar: &Sidecar,
    printer: Printer,
    region: &str,
    instance: &str,
    force: bool,
    timeout: Option<Duration>,
) -> Result<u8, Failed> {
    let name = names::instance(region, instance);
    let request = DrainInstanceRequest { name, force, drain_timeout_ms: millis("--timeout", timeout)? };
    let mut client = sidecar.client().await?;
    let answer = sidecar.answer(Asked::ToChange, client.drain_instance(request)).await;
    let object = InstanceStatus::from(&answer.map_err(|failed| failed.in_region(region))?);
    printer.result(&object, || {
        let left = counts(&object.in_flight);
        let left = if left.is_empty() { String::new() } else { format!(": {left}") };
        format!("{region}: {} {} is {} and asked to leave{left}", object.version, object.instance, object.role)
    });
    Ok(exit::DONE)
}

//! `watch`: one line, or one JSON object, per change, until interrupted or the sidecar goes.

use std::time::SystemTime;

use heirloom_proto::reason::exit;
use heirloom_proto::v1::WatchRegionsRequest;

use super::connect::Sidecar;
use super::failed::{Asked, Failed, is_lagged};
use super::print::Printer;
use crate::output::Event;

pub(crate) async fn run(
    sidecar: &Sidecar,
    printer: Printer,
    region: Option<&str>,
    after: Option<u64>,
) -> Result<u8, Failed> {
    let mut client = sidecar.client().await?;
    let mut request = WatchRegionsRequest { name: super::region_name(region), after_sequence: after.unwrap_or(0) };
    let mut changes = sidecar.answer(Asked::ToRead, client.watch_regions(request.clone())).await?;
    loop {
        match changes.message().await {
            Ok(Some(change)) => {
                // The state at the beginning comes by name, not by sequence.
                request.after_sequence = request.after_sequence.max(change.sequence);
                let event = Event::from(&change);
                if printer.quiet {
                } else if printer.is_json() {
                    printer.json_line(&event);
                } else {
                    printer.text(&line(&event));
                }
            }
            Ok(None) => return Err(Failed::unreachable(sidecar.address(), "the end of the stream")),
            // The sidecar remembers some time: from there, without a gap, or not at all.
            // Before its first event it does not know from where, and from anew is with a gap.
            Err(status) if is_lagged(&status) && request.after_sequence == 0 => {
                return Err(Failed { exit_code: exit::REFUSED, ..sidecar.failed(&status, Asked::ToRead) });
            }
            Err(status) if is_lagged(&status) => {
                let again = sidecar.answer(Asked::ToRead, client.watch_regions(request.clone())).await;
                changes = again.map_err(|failed| Failed { exit_code: exit::REFUSED, ..failed })?;
            }
            Err(status) => return Err(sidecar.failed(&status, Asked::ToRead)),
        }
    }
}

fn line(event: &Event) -> String {
    let time = event.time.clone().unwrap_or_else(|| humantime::format_rfc3339_millis(SystemTime::now()).to_string());
    let mut text = format!("{time} {}", event.sequence);
    if let Some(region) = &event.region {
        let owner =
            region.owner.as_ref().map_or_else(|| "nobody".to_owned(), |o| format!("{} {}", o.version, o.instance));
        let (name, state, generation) = (&region.region, &region.state, region.generation);
        text.push_str(&format!(
            " {name} {state} generation {generation} owner {owner} instances {}",
            region.instances.len()
        ));
    }
    if let Some(handover) = &event.handover {
        let outcome = format!("{:?}", handover.outcome).to_lowercase();
        let kind = handover.kind.as_deref().unwrap_or("handover");
        let number = handover.handover.map_or_else(String::new, |n| format!("#{n} "));
        text.push_str(&format!(" · {kind} {number}{outcome} {}", handover.phase.as_deref().unwrap_or("")));
        if let Some(reason) = &handover.reason {
            text.push_str(&format!(" {reason}"));
        }
    }
    if let Some(instance) = &event.drained {
        text.push_str(&format!(" · {instance} drained"));
    }
    text.trim_end().to_owned()
}

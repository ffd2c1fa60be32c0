//! `history`: the records of a region's handovers, newest first, or one of them as `handover -o json` printed it.

use std::time::SystemTime;

use heirloom_proto::names;
use heirloom_proto::reason::exit;
use heirloom_proto::v1::{GetHandoverRequest, HandoverRecord, ListHandoversRequest};

use super::connect::Sidecar;
use super::failed::{Asked, Failed};
use super::print::{Printer, table};
use super::view::summary;
use crate::output::time::{ago, micros};
use crate::output::{Handover, Instance};

pub(crate) async fn run(
    sidecar: &Sidecar,
    printer: Printer,
    region: &str,
    number: Option<u64>,
    lines: u32,
) -> Result<u8, Failed> {
    let in_region = |failed: Failed| failed.in_region(region);
    if let Some(number) = number {
        let mut client = sidecar.client().await?;
        let request = GetHandoverRequest { name: names::handover(region, number) };
        let record = sidecar.answer(Asked::ToRead, client.get_handover(request)).await.map_err(in_region)?;
        let object = Handover::from(&record);
        printer.result(&object, || one(&object));
        return Ok(exit::DONE);
    }
    let records = list(sidecar, region, lines as usize).await.map_err(in_region)?;
    let objects: Vec<_> = records.iter().map(Handover::from).collect();
    printer.result(&objects, || text(&records, &objects));
    Ok(exit::DONE)
}

pub(super) async fn list(sidecar: &Sidecar, region: &str, lines: usize) -> Result<Vec<HandoverRecord>, Failed> {
    let mut client = sidecar.client().await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    // Asked at least once: none at all of a region that does not exist is a mistake, too.
    loop {
        let page_size = i32::try_from(lines - all.len()).unwrap_or(i32::MAX).max(1);
        let request = ListHandoversRequest { parent: names::region(region), page_size, page_token: page_token.clone() };
        let page = sidecar.answer(Asked::ToRead, client.list_handovers(request)).await?;
        let is_last =
            page.next_page_token.is_empty() || page.next_page_token == page_token || page.handovers.is_empty();
        all.extend(page.handovers);
        if is_last || all.len() >= lines {
            break;
        }
        page_token = page.next_page_token;
    }
    all.truncate(lines);
    Ok(all)
}

fn text(records: &[HandoverRecord], objects: &[Handover]) -> String {
    if objects.is_empty() {
        return "no handover yet".to_owned();
    }
    let now = SystemTime::now();
    let rows = records.iter().zip(objects).map(|(record, object)| {
        let name = |i: &Option<heirloom_proto::v1::handover_record::InstanceRef>| {
            let i = i.as_ref().map(Instance::from);
            i.map_or_else(|| "–".to_owned(), |i| format!("{} {}", i.version, i.instance))
        };
        let outcome = format!("{:?}", object.outcome).to_lowercase();
        [
            object.handover.unwrap_or(0).to_string(),
            record.create_time.as_ref().and_then(|t| ago(t, now)).unwrap_or_default(),
            object.kind.clone().unwrap_or_default(),
            object.reason.as_ref().map_or_else(|| outcome.clone(), |r| format!("{outcome} {r}")),
            object.generation.map_or_else(String::new, |g| g.to_string()),
            format!("{} → {}", name(&record.source), name(&record.target)),
            object.blackout_us.map(micros).unwrap_or_default(),
            object.caller.clone().unwrap_or_default(),
            object.note.clone().unwrap_or_default(),
        ]
    });
    let head = ["NUMBER", "WHEN", "KIND", "OUTCOME", "GEN", "FROM → TO", "BLACKOUT", "CALLER", "NOTE"];
    table(head, &[0, 4], rows)
}

fn one(object: &Handover) -> String {
    let mut text = summary(object);
    if let Some(reason) = &object.reason {
        text.push_str(&format!("\n{reason} in phase {}: {}", object.phase.as_deref().unwrap_or("–"), object.message));
    }
    let phases = ["prepare", "precopy", "flush", "freeze", "seal", "commit", "drain"];
    let rows = phases.iter().filter_map(|p| Some([(*p).to_owned(), micros(*object.phase_us.get(*p)?)]));
    text.push_str(&format!("\n\n{}", table(["PHASE", "TOOK"], &[1], rows)));
    let facts = [
        ("asked by", &object.caller),
        ("note", &object.note),
        ("request", &object.request_id),
        ("begun", &object.create_time),
        ("ended", &object.end_time),
        ("seal", &object.root_digest),
    ];
    for (name, fact) in facts {
        if let Some(fact) = fact {
            text.push_str(&format!("\n{name:<9} {fact}"));
        }
    }
    text
}

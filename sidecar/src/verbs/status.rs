//! `status`: regions and their instances, once or at each change. Always a list, also for one region.

use std::time::SystemTime;

use heirloom_proto::names;
use heirloom_proto::reason::exit;
use heirloom_proto::v1::handover_record::Outcome;
use heirloom_proto::v1::instance::Role;
use heirloom_proto::v1::{self, GetRegionRequest, ListRegionsRequest, WatchRegionsRequest};

use super::connect::Sidecar;
use super::failed::{Asked, Failed, is_lagged};
use super::print::{Printer, bytes, counts, table};
use crate::output::time::{ago, micros};
use crate::output::{Handover, InstanceStatus, Region};

pub(crate) async fn run(sidecar: &Sidecar, printer: Printer, region: Option<&str>, watch: bool) -> Result<u8, Failed> {
    if !watch {
        let regions = get(sidecar, region).await?;
        printer.result(&objects(&regions), || text(&regions, printer.is_wide()));
        return Ok(exit::DONE);
    }
    let mut client = sidecar.client().await?;
    let request = WatchRegionsRequest { name: super::region_name(region), after_sequence: 0 };
    let mut changes = sidecar.answer(Asked::ToRead, client.watch_regions(request.clone())).await?;
    loop {
        let regions = get(sidecar, region).await?;
        if printer.quiet {
        } else if printer.is_json() {
            printer.json_line(&objects(&regions));
        } else {
            let clear = if printer.is_live() { "\x1b[H\x1b[2J" } else { "" };
            printer.text(&format!("{clear}{}\n", text(&regions, printer.is_wide())));
        }
        match changes.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(Failed::unreachable(sidecar.address(), "the end of the stream")),
            // The whole state is shown at each change, so what was missed does not matter.
            Err(status) if is_lagged(&status) => {
                changes = sidecar.answer(Asked::ToRead, client.watch_regions(request.clone())).await?;
            }
            Err(status) => return Err(sidecar.failed(&status, Asked::ToRead)),
        }
    }
}

async fn get(sidecar: &Sidecar, region: Option<&str>) -> Result<Vec<v1::Region>, Failed> {
    let Some(region) = region else { return super::regions(sidecar, &ListRegionsRequest::default()).await };
    let mut client = sidecar.client().await?;
    let request = GetRegionRequest { name: names::region(region) };
    let answer = sidecar.answer(Asked::ToRead, client.get_region(request)).await;
    answer.map(|one| vec![one]).map_err(|failed| failed.in_region(region))
}

fn objects(regions: &[v1::Region]) -> Vec<Region> {
    regions.iter().map(Region::from).collect()
}

fn text(regions: &[v1::Region], wide: bool) -> String {
    if regions.is_empty() {
        return "no region yet; one is created when the first instance attaches".to_owned();
    }
    let rows = regions.iter().map(|region| {
        let object = Region::from(region);
        let series = region.object_counts.get("series").map_or_else(String::new, |n| format!(", {n} series"));
        let (owner, size) = (
            object.owner.as_ref().map_or_else(|| "–".to_owned(), |o| format!("{} {}", o.version, o.instance)),
            format!("{} / {}{series}", bytes(object.used_bytes), bytes(object.limit_bytes)),
        );
        let generation = object.generation.to_string();
        [object.region, object.state, generation, owner, instances(region), size, last(region, SystemTime::now())]
    });
    let head = ["REGION", "STATE", "GEN", "OWNER", "INSTANCES", "USED / LIMIT", "LAST HANDOVER"];
    let mut out = table(head, &[2], rows);
    for region in regions {
        if let Some(fault) = Region::from(region).quarantine {
            out.push_str(&format!("\n{}: {fault}", names::short(&region.name)));
        }
        if wide {
            out.push_str(&format!("\n\n{}", detail(region)));
        }
    }
    out
}

/// `2 (1 draining: 12 connection)`
fn instances(region: &v1::Region) -> String {
    let here: Vec<_> = region.instances.iter().filter(|i| i.role() != Role::Left).collect();
    let draining: Vec<_> = here.iter().filter(|i| i.role() == Role::Draining).collect();
    let total = here.len();
    if !draining.is_empty() {
        let left = draining.iter().flat_map(|i| i.in_flight_counts.clone()).fold(
            std::collections::BTreeMap::new(),
            |mut sum, (kind, n)| {
                *sum.entry(kind).or_insert(0u64) += n;
                sum
            },
        );
        let left = counts(&left);
        let left = if left.is_empty() { left } else { format!(": {left}") };
        return format!("{total} ({} draining{left})", draining.len());
    }
    let is_vacant = region.owner.is_empty();
    if is_vacant && total > 0 && !here.iter().any(|i| i.eligible) {
        return format!("{total} (not eligible)");
    }
    total.to_string()
}

/// `#17 committed 4s ago, blackout 63 µs`
fn last(region: &v1::Region, now: SystemTime) -> String {
    let Some(record) = &region.last_handover else { return "–".to_owned() };
    let object = Handover::from(record);
    let number = object.handover.map_or_else(String::new, |n| format!("#{n} "));
    let what = format!("{:?}", object.outcome).to_lowercase();
    let when = record.end_time.as_ref().or(record.create_time.as_ref()).and_then(|t| ago(t, now));
    let mut text = format!("{number}{what}");
    if let Some(when) = when {
        text.push_str(&format!(" {when}"));
    }
    match (record.outcome(), object.blackout_us, object.reason) {
        (Outcome::Committed, Some(us), _) => text.push_str(&format!(", blackout {}", micros(us))),
        (Outcome::Aborted, _, Some(reason)) => text.push_str(&format!(": {reason}")),
        _ => {}
    }
    text
}

fn detail(region: &v1::Region) -> String {
    let rows = Region::from(region).instances.into_iter().map(|i| {
        let in_flight = in_flight(&i);
        let state = match (i.eligible, i.ineligible, i.ready) {
            (true, ..) => "eligible".to_owned(),
            (false, Some(why), _) => why,
            (false, None, true) => "not eligible".to_owned(),
            (false, None, false) => "not ready".to_owned(),
        };
        let connected = if i.connected { "yes" } else { "no" }.to_owned();
        [i.instance, i.version, i.pid.to_string(), i.role, state, connected, in_flight, i.attach_time]
    });
    let head = ["INSTANCE", "VERSION", "PID", "ROLE", "STATE", "CONNECTED", "IN FLIGHT", "ATTACHED"];
    let objects = region.object_counts.clone().into_iter().collect();
    format!("{}\n{}\nobjects: {}", names::short(&region.name), table(head, &[2], rows), counts(&objects))
}

/// `3 connections (2 TLS, 1 NO_BOUNDARY), 1 requests`
fn in_flight(instance: &InstanceStatus) -> String {
    let each = instance.in_flight.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| {
        let why = instance.undrained.iter().filter(|part| part.kind == *kind);
        let why: Vec<_> = why.map(|part| format!("{} {}", part.count, part.reason)).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        format!("{n} {kind}{why}")
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use heirloom_proto::v1::HandoverRecord;
    use heirloom_proto::v1::handover_record::Figures;
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn the_last_handover_is_told_in_a_few_words() {
        let record = HandoverRecord {
            name: names::handover("shop", 17),
            outcome: Outcome::Committed.into(),
            create_time: Some(Timestamp { seconds: 96, nanos: 0 }),
            figures: Some(Figures { writer_blackout_us: Some(63), ..Default::default() }),
            ..Default::default()
        };
        let region = v1::Region { last_handover: Some(record), ..Default::default() };
        assert_eq!(last(&region, UNIX_EPOCH + Duration::from_secs(100)), "#17 committed 4s ago, blackout 63 µs");
        assert_eq!(last(&v1::Region::default(), UNIX_EPOCH), "–");
    }

    #[test]
    fn instances_say_what_drains() {
        let instance = |role: Role, n| v1::Instance {
            role: role.into(),
            in_flight_counts: [("connection".to_owned(), n)].into(),
            ..Default::default()
        };
        let region = v1::Region {
            owner: "regions/shop/instances/a".into(),
            instances: vec![instance(Role::Owner, 300), instance(Role::Draining, 12), instance(Role::Left, 1)],
            ..Default::default()
        };
        assert_eq!(instances(&region), "2 (1 draining: 12 connection)");
    }

    #[test]
    fn an_instance_says_why_it_is_left_with_what_it_has() {
        let part = |reason: &str, count| v1::Undrained { kind: "connections".into(), reason: reason.into(), count };
        let instance = v1::Instance {
            in_flight_counts: [("connections".to_owned(), 3), ("requests".to_owned(), 1)].into(),
            undrained: vec![part("NO_BOUNDARY", 1), part("TLS", 2)],
            ..Default::default()
        };
        assert_eq!(in_flight(&InstanceStatus::from(&instance)), "3 connections (1 NO_BOUNDARY, 2 TLS), 1 requests");
    }
}

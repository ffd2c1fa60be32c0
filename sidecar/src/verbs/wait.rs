//! `wait --for`: until a condition holds, as `kubectl wait`.
//!
//! The condition is judged on whole states of the region, never on single events, so a state that was passed by between two
//! looks is not seen; a lost sidecar is looked for until the time is out.
//!
//! Who is awaited to own or to be eligible may come later. Who is awaited to be drained or to leave must be known: attached, or
//! seen here before, or told of as departed, or named in the region's history. Anybody else is a mistake and named at once,
//! also one that is only about to attach: to have waited for nobody proves nothing.

use std::time::Duration;

use heirloom_proto::reason::exit;
use heirloom_proto::v1::handover_record::{InstanceRef, Phase};
use heirloom_proto::v1::instance::Role;
use heirloom_proto::v1::{ErrorReason, Instance, Region, WatchRegionsRequest};
use heirloom_proto::{Failure, names};
use tokio::time::Instant;

use super::connect::Sidecar;
use super::failed::{Asked, Failed, is_lagged, is_lost};
use super::print::Printer;
use crate::args::Condition;
use crate::output;

const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(
    sidecar: &Sidecar,
    printer: Printer,
    region: &str,
    condition: &Condition,
    timeout: Duration,
) -> Result<u8, Failed> {
    let begun = Instant::now();
    let mut last: Option<Region> = None;
    // Without patience it looks once.
    let met = match tokio::time::timeout(timeout.max(LOOK_EVERY), until(sidecar, region, condition, &mut last)).await {
        Ok(result) => {
            result?;
            true
        }
        Err(_) => false,
    };
    let found = match (&last, met) {
        (Some(region), _) => found(region, condition),
        (None, _) => "nothing: the sidecar did not answer".to_owned(),
    };
    let object = output::Wait {
        outcome: if met { "met" } else { "timed_out" }.to_owned(),
        exit_code: if met { exit::DONE } else { exit::REFUSED },
        region: region.to_owned(),
        condition: text(condition),
        waited_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        found,
    };
    if met || printer.is_json() {
        printer.result(&object, || format!("{region}: {} after {} ms", object.condition, object.waited_ms));
    }
    if !met {
        let waited = humantime::format_duration(timeout);
        let mut failed =
            Failed::usage(format!("{region}: not within {waited}")).expected(&object.condition).found(&object.found);
        (failed.exit_code, failed.reason) = (exit::REFUSED, None);
        printer.error(&failed.in_region(region));
    }
    Ok(object.exit_code)
}

/// Returns when the condition holds.
async fn until(
    sidecar: &Sidecar,
    region: &str,
    condition: &Condition,
    last: &mut Option<Region>,
) -> Result<(), Failed> {
    let mut is_first = true;
    let mut seen = false;
    loop {
        match look(sidecar, region, condition, last, &mut seen).await {
            Ok(()) => return Ok(()),
            // Never there: say so at once. There before: it may come back.
            Err(Gone::Failed(failed)) if is_first && last.is_none() => return Err(failed),
            Err(Gone::Failed(failed)) if failed.exit_code != exit::UNREACHABLE => return Err(failed),
            Err(_) => {}
        }
        is_first = false;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

enum Gone {
    Failed(Failed),
    StreamEnded,
}

async fn look(
    sidecar: &Sidecar,
    region: &str,
    condition: &Condition,
    last: &mut Option<Region>,
    seen: &mut bool,
) -> Result<(), Gone> {
    let failed = |failed: Failed| Gone::Failed(failed.in_region(region));
    let mut client = sidecar.client().await.map_err(failed)?;
    let request = WatchRegionsRequest { name: names::region(region), after_sequence: 0 };
    let answer = sidecar.answer(Asked::ToRead, client.watch_regions(request)).await;
    let mut changes = answer.map_err(failed)?;
    loop {
        match changes.message().await {
            Ok(Some(change)) => {
                let Some(state) = change.region else { continue };
                let is_met = holds(&state, condition);
                if !*seen && let Condition::Drained(v) | Condition::Left(v) = condition {
                    *seen = is_known(&state, v) || existed(sidecar, region, v).await.map_err(failed)?;
                    if !*seen {
                        return Err(failed(unknown(region, &state, v)));
                    }
                }
                *last = Some(state);
                if is_met {
                    return Ok(());
                }
            }
            Ok(None) => return Err(Gone::StreamEnded),
            Err(status) if is_lost(&status) || is_lagged(&status) => return Err(Gone::StreamEnded),
            Err(status) => return Err(failed(sidecar.failed(&status, Asked::ToRead))),
        }
    }
}

fn named<'a>(region: &'a Region, v: &'a str) -> impl Iterator<Item = &'a Instance> {
    region.instances.iter().filter(move |i| i.version == v || names::short(&i.name) == v)
}

/// Attached, or not long gone.
fn is_known(region: &Region, v: &str) -> bool {
    named(region, v).next().is_some() || region.departed.iter().any(|it| is_named(it, v))
}

fn is_named(it: &InstanceRef, v: &str) -> bool {
    it.version == v || names::short(&it.name) == v
}

/// Whether history names it.
async fn existed(sidecar: &Sidecar, region: &str, v: &str) -> Result<bool, Failed> {
    let records = super::history::list(sidecar, region, usize::MAX).await?;
    Ok(records.iter().any(|r| r.source.iter().chain(&r.target).any(|it| is_named(it, v))))
}

fn unknown(region: &str, state: &Region, v: &str) -> Failed {
    let message = format!("no instance and no version of {region} is or was called {v}");
    let mut known: Vec<_> = state.instances.iter().flat_map(|i| [i.version.as_str(), names::short(&i.name)]).collect();
    known.sort_unstable();
    known.dedup();
    let expected = match known.as_slice() {
        [] => "one that is attached, departed or in the history".to_owned(),
        known => format!("one of {}, or one that departed or is in the history", known.join(", ")),
    };
    Failure::new(ErrorReason::InstanceNotFound, message).expected(expected).found(v).into()
}

fn holds(region: &Region, condition: &Condition) -> bool {
    match condition {
        Condition::Owner(v) => named(region, v).any(|i| i.role() == Role::Owner),
        Condition::Eligible(v) => named(region, v).any(|i| i.eligible || i.role() == Role::Owner),
        Condition::Drained(v) => named(region, v).all(|i| is_drained(region, i)),
        Condition::Left(v) => named(region, v).all(|i| i.role() == Role::Left),
        Condition::Generation(n) => region.generation >= *n,
    }
}

/// Nothing in flight that it told of; if it told nothing, the drain's own record says whether it is over.
fn is_drained(region: &Region, instance: &Instance) -> bool {
    match instance.role() {
        Role::Owner => false,
        Role::Draining if instance.in_flight_counts.is_empty() => region.last_handover.as_ref().is_some_and(|record| {
            let is_its = record.source.as_ref().is_some_and(|s| names::short(&s.name) == names::short(&instance.name));
            is_its && record.phase() == Phase::Done
        }),
        Role::Draining => instance.in_flight_counts.values().all(|n| *n == 0),
        _ => true,
    }
}

fn text(condition: &Condition) -> String {
    match condition {
        Condition::Owner(v) => format!("owner={v}"),
        Condition::Eligible(v) => format!("eligible={v}"),
        Condition::Drained(v) => format!("drained={v}"),
        Condition::Left(v) => format!("left={v}"),
        Condition::Generation(n) => format!("generation={n}"),
    }
}

/// What the condition speaks of, as it is.
fn found(region: &Region, condition: &Condition) -> String {
    let (Condition::Owner(v) | Condition::Eligible(v) | Condition::Drained(v) | Condition::Left(v)) = condition else {
        return format!("generation {}", region.generation);
    };
    let each = named(region, v).map(|i| {
        let role = i.role().as_str_name().to_lowercase();
        let status = output::InstanceStatus::from(i);
        let left = super::print::counts(&status.in_flight);
        let why = status.ineligible.map(|why| format!(", {why}")).unwrap_or_default();
        let left = if left.is_empty() { left } else { format!(", {left}") };
        format!("{} {role}{why}{left}", status.instance)
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() { format!("no instance of {v}") } else { each.join("; ") }
}

#[cfg(test)]
mod tests {
    use heirloom_proto::v1::HandoverRecord;
    use heirloom_proto::v1::handover_record::InstanceRef;

    use super::*;

    fn instance(name: &str, version: &str, role: Role, left: Option<u64>) -> Instance {
        Instance {
            name: names::instance("shop", name),
            version: version.into(),
            role: role.into(),
            eligible: role == Role::Standby,
            in_flight_counts: left.map(|n| [("connection".to_owned(), n)].into()).unwrap_or_default(),
            ..Default::default()
        }
    }

    #[test]
    fn conditions_are_judged_on_the_whole_state() {
        let region = Region {
            generation: 8,
            instances: vec![
                instance("a", "1", Role::Draining, Some(2)),
                instance("b", "2", Role::Owner, None),
                instance("c", "3", Role::Standby, None),
                instance("d", "0", Role::Left, Some(1)),
                instance("e", "1b", Role::Draining, Some(0)),
            ],
            ..Default::default()
        };
        for (text, expected) in [
            ("owner=2", true),
            ("owner=b", true),
            ("owner=1", false),
            ("eligible=3", true),
            ("eligible=2", true),
            ("eligible=1", false),
            ("drained=1", false),
            ("drained=1b", true),
            ("drained=2", false),
            ("drained=9", true),
            ("left=0", true),
            ("left=1", false),
            ("left=9", true),
            ("generation=8", true),
            ("generation=7", true),
            ("generation=9", false),
        ] {
            let condition = text.parse().unwrap();
            assert_eq!(holds(&region, &condition), expected, "{text}");
            assert_eq!(super::text(&condition), text);
        }
        assert_eq!(found(&region, &"drained=1".parse().unwrap()), "a draining, 2 connection");
    }

    #[test]
    fn a_silent_instance_is_drained_when_its_record_says_so() {
        let condition = "drained=1".parse().unwrap();
        let source = Some(InstanceRef { name: names::instance("shop", "a"), ..Default::default() });
        let record =
            |phase: Phase| HandoverRecord { source: source.clone(), phase: phase.into(), ..Default::default() };
        let mut region = Region { instances: vec![instance("a", "1", Role::Draining, None)], ..Default::default() };
        assert!(!holds(&region, &condition));
        region.last_handover = Some(record(Phase::Drain));
        assert!(!holds(&region, &condition));
        region.last_handover = Some(record(Phase::Done));
        assert!(holds(&region, &condition));
    }
}

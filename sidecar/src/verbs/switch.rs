//! `handover` and `rollback`: one switch, or those of all replicas of a service.
//!
//! Invariant: what is printed and the exit code come from the record that the sidecar sent last, never from a guess; without
//! one the outcome is "unknown". The first Ctrl-C asks for an abort and goes on listening; the second leaves.

use heirloom_proto::names;
use heirloom_proto::reason::exit;
use heirloom_proto::v1::handover_record::{Outcome as Decided, Phase};
use heirloom_proto::v1::{
    AbortHandoverRequest, HandoverRecord, HandoverRequest, ListRegionsRequest, RollbackRequest, SwitchOptions,
    handover_request,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::connect::Sidecar;
use super::failed::{Asked, Failed};
use super::follow::{self, Ask, Step};
use super::options::{confirm, new_request_id, options};
use super::print::Printer;
use super::view::{View, summary};
use crate::args::{self, Switch};
use crate::output::{Handover, Handovers, Outcome};

/// `heirloom handover`.
pub(crate) async fn handover(sidecar: &Sidecar, printer: Printer, args: &args::Handover) -> u8 {
    let region = &args.region;
    let made = confirm(&args.switch, printer, region).and_then(|()| options(&args.switch, args.wait_ready));
    let options = match made {
        Ok(options) => options,
        Err(failed) => return report(printer, region, Err(failed)),
    };
    if args.all {
        return all(sidecar, printer, args, &options).await;
    }
    let ask = Ask::Handover(request(region, args, options));
    let ended = run(sidecar, printer, region, ask, &args.switch).await;
    report(printer, region, ended)
}

/// `heirloom rollback`.
pub(crate) async fn rollback(
    sidecar: &Sidecar,
    printer: Printer,
    region: &str,
    undo: Option<u64>,
    switch: &Switch,
) -> u8 {
    let made = confirm(switch, printer, region).and_then(|()| options(switch, None));
    let options = match made {
        Ok(options) => options,
        Err(failed) => return report(printer, region, Err(failed)),
    };
    let handover = undo.map(|number| names::handover(region, number)).unwrap_or_default();
    let ask = Ask::Rollback(RollbackRequest { name: names::region(region), handover, options: Some(options) });
    let ended = run(sidecar, printer, region, ask, switch).await;
    report(printer, region, ended)
}

fn request(region: &str, args: &args::Handover, options: SwitchOptions) -> HandoverRequest {
    let instance = args.instance.clone().map(handover_request::Target::TargetInstance);
    let target = instance.or_else(|| args.version.clone().map(handover_request::Target::TargetVersion));
    HandoverRequest { name: names::region(region), target, options: Some(options) }
}

/// Each replica in order; the first that is not committed ends it.
async fn all(sidecar: &Sidecar, printer: Printer, args: &args::Handover, options: &SwitchOptions) -> u8 {
    let service = &args.region;
    let regions = match replicas(sidecar, service).await {
        Ok(regions) => regions,
        Err(failed) => {
            printer.failed(&failed);
            return failed.exit_code;
        }
    };
    let mut result = Handovers {
        outcome: Outcome::Already,
        exit_code: exit::DONE,
        service: service.clone(),
        handovers: vec![],
        not_tried: regions.clone(),
    };
    // With -o json the one object comes at the end.
    let each = Printer { quiet: printer.quiet || printer.output == args::Output::Json, ..printer };
    for region in &regions {
        result.not_tried.remove(0);
        let options = SwitchOptions { request_id: new_request_id(), ..options.clone() };
        let ask = Ask::Handover(request(region, args, options));
        let object = match run(sidecar, each, region, ask, &args.switch).await {
            Ok(object) => object,
            Err(failed) => {
                printer.error(&failed);
                failed.to_handover(region)
            }
        };
        each.result(&object, || summary(&object));
        (result.outcome, result.exit_code) = (object.outcome, object.exit_code);
        result.handovers.push(object);
        if result.exit_code != exit::DONE {
            break;
        }
    }
    if result.exit_code == exit::DONE && result.handovers.iter().any(|h| h.outcome == Outcome::Committed) {
        result.outcome = Outcome::Committed;
    }
    if !result.not_tried.is_empty() {
        printer.note(&format!("halted; not tried: {}", result.not_tried.join(", ")));
    }
    if printer.is_json() {
        printer.result(&result, String::new);
    }
    result.exit_code
}

async fn replicas(sidecar: &Sidecar, service: &str) -> Result<Vec<String>, Failed> {
    let mut found = super::regions(sidecar, &ListRegionsRequest::default()).await?;
    found.retain(|r| {
        let name = names::short(&r.name);
        name == service || name.strip_prefix(service).is_some_and(|rest| rest.starts_with('.'))
    });
    let mut found: Vec<_> = found.iter().map(|r| names::short(&r.name).to_owned()).collect();
    // shop.2 before shop.10.
    found.sort_by_key(|name| (name.len(), name.clone()));
    if found.is_empty() {
        let reason = heirloom_proto::v1::ErrorReason::RegionNotFound;
        let failure = heirloom_proto::Failure::new(reason, format!("service {service} has no region"));
        return Err(failure.expected(format!("regions {service} or {service}.*")).found("none").region(service).into());
    }
    Ok(found)
}

/// Prints the one result and gives the exit code.
fn report(printer: Printer, region: &str, ended: Result<Handover, Failed>) -> u8 {
    match ended {
        Ok(object) if object.exit_code == exit::DONE => {
            printer.result(&object, || summary(&object));
            object.exit_code
        }
        Ok(object) => {
            if printer.is_json() {
                printer.json(&object);
            }
            printer.error(&of_object(&object));
            object.exit_code
        }
        Err(failed) => printer.no_handover(failed, region),
    }
}

fn of_object(object: &Handover) -> Failed {
    let mut failed = match object.exit_code {
        exit::INTERRUPTED | exit::UNKNOWN => Failed::unknown(object.message.clone()),
        _ => Failed { exit_code: object.exit_code, ..Failed::usage(object.message.clone()) },
    };
    failed.reason = object.reason.as_deref().and_then(heirloom_proto::v1::ErrorReason::from_str_name);
    (failed.expected, failed.found) = (object.expected.clone(), object.found.clone());
    failed.in_region(&object.region)
}

/// Runs one switch to its end.
///
/// # Errors
/// There is no record: it was refused before it began, or nobody answered.
async fn run(sidecar: &Sidecar, printer: Printer, region: &str, ask: Ask, switch: &Switch) -> Result<Handover, Failed> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|e| Failed::io("signals", &e))?;
    let mut steps = follow::start(sidecar, ask).await?;
    let mut watch =
        Watch { sidecar, region, last: None, abort: None, wants_abort: false, asked: false, view: View::new(printer) };
    let ended = watch.follow(&mut steps, &mut interrupts, switch).await;
    watch.view.close();
    ended
}

struct Watch<'a> {
    sidecar: &'a Sidecar,
    region: &'a str,
    last: Option<HandoverRecord>,
    abort: Option<JoinHandle<Result<(), Failed>>>,
    wants_abort: bool,
    asked: bool,
    view: View,
}

impl Watch<'_> {
    async fn follow(
        &mut self,
        steps: &mut tokio::sync::mpsc::Receiver<Step>,
        interrupts: &mut Signal,
        switch: &Switch,
    ) -> Result<Handover, Failed> {
        loop {
            tokio::select! {
                step = steps.recv() => match step.unwrap_or(Step::End) {
                    Step::Event(event) => {
                        self.view.event(&event);
                        self.last = event.handover.or(self.last.take());
                        self.ask_for_abort();
                        if self.is_enough(switch) {
                            return Ok(self.object());
                        }
                    }
                    Step::Lost(why) => self.view.note(&format!("lost the sidecar ({why}); looking for it")),
                    Step::Rejoined => self.view.note("joined again"),
                    Step::Refused(failed) => return self.refused(failed),
                    Step::End => return self.ended(),
                    Step::Gone(why) => return self.gone(&why),
                },
                _ = interrupts.recv() => if let Some(object) = self.interrupted() {
                    return Ok(object);
                },
                Some(result) = abort_result(&mut self.abort) => if let Err(failed) = result {
                    self.view.note(&format!("the abort was {}", failed.text()));
                },
            }
        }
    }

    fn object(&self) -> Handover {
        let empty =
            || Handover::without_record(self.region, Outcome::Unknown, exit::UNKNOWN, "the sidecar sent no record");
        self.last.as_ref().map_or_else(empty, Handover::from)
    }

    /// Nothing that was asked for is still to come.
    fn is_enough(&self, switch: &Switch) -> bool {
        let Some(record) = &self.last else { return false };
        match record.outcome() {
            Decided::Running => switch.detach,
            Decided::Committed if switch.follow_drain => record.phase() == Phase::Done,
            // An abort is explained by the status that follows it.
            Decided::Committed | Decided::Already | Decided::Validated => true,
            _ => false,
        }
    }

    /// The sidecar's last word was an error.
    fn refused(&self, failed: Failed) -> Result<Handover, Failed> {
        match &self.last {
            Some(record) if record.outcome() == Decided::Aborted => {
                let mut object = Handover::from(record);
                (object.expected, object.found) = (failed.expected, failed.found);
                if object.message.is_empty() {
                    object.message = failed.message;
                }
                Ok(object)
            }
            _ => Err(failed),
        }
    }

    fn ended(&self) -> Result<Handover, Failed> {
        match self.last.as_ref().map(HandoverRecord::outcome) {
            None | Some(Decided::Running | Decided::Unspecified) => {
                self.gone("the stream ended before the handover did")
            }
            Some(_) => Ok(self.object()),
        }
    }

    fn gone(&self, why: &str) -> Result<Handover, Failed> {
        let region = self.region;
        let (address, within) = (self.sidecar.address(), humantime::format_duration(follow::REJOIN_WITHIN));
        let message = format!(
            "the sidecar at {address} was lost after the request was sent; once it answers again (it may be stopped: `heirloom \
             doctor`), `heirloom history {region}` tells the end"
        );
        let expected = format!("a sidecar at {address} that answers again within {within}");
        match &self.last {
            // Committed for good; only the drain was still watched.
            Some(record) if record.outcome() == Decided::Committed => Ok(Handover::from(record)),
            Some(record) => {
                let reason = Some(heirloom_proto::v1::ErrorReason::Unreachable.as_str_name().to_owned());
                let object = Handover::from(record);
                let (expected, found) = (Some(expected), Some(why.to_owned()));
                let exit_code = exit::UNKNOWN;
                Ok(Handover { outcome: Outcome::Unknown, exit_code, reason, message, expected, found, ..object })
            }
            None => Err(Failed::unknown(message).expected(expected).found(why).in_region(region)),
        }
    }

    /// The first Ctrl-C asks for an abort, the second leaves.
    fn interrupted(&mut self) -> Option<Handover> {
        let is_decided = self.last.as_ref().is_some_and(|r| r.outcome() != Decided::Running);
        if is_decided {
            return Some(self.object());
        }
        if self.wants_abort {
            let message = format!("left to the sidecar; `heirloom history {}` will tell", self.region);
            let outcome = if self.last.is_some() { Outcome::Running } else { Outcome::Unknown };
            return Some(Handover {
                outcome,
                exit_code: exit::INTERRUPTED,
                message,
                region: self.region.to_owned(),
                ..self.object()
            });
        }
        self.wants_abort = true;
        self.view.note("asking for an abort; Ctrl-C again leaves the handover to the sidecar");
        self.ask_for_abort();
        None
    }

    /// Asks by number, so that it never hits another's handover; as soon as the number is known.
    fn ask_for_abort(&mut self) {
        let Some(record) = self.last.as_ref().filter(|_| self.wants_abort && !self.asked) else { return };
        self.asked = true;
        let request = AbortHandoverRequest { name: record.name.clone(), note: "interrupted".to_owned() };
        let sidecar = self.sidecar.clone();
        self.abort = Some(tokio::spawn(async move {
            let mut client = sidecar.client().await?;
            sidecar.answer(Asked::ToChange, client.abort_handover(request)).await.map(drop)
        }));
    }
}

/// The result of the abort that was asked for, once; pending for ever without one.
async fn abort_result(abort: &mut Option<JoinHandle<Result<(), Failed>>>) -> Option<Result<(), Failed>> {
    let Some(handle) = abort else { return std::future::pending().await };
    let result = handle.await;
    *abort = None;
    result.ok()
}

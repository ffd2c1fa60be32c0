//! Handovers and rollbacks as gRPC and HTTP both run them: begun at the arbiter, followed from here, never owned here.
//!
//! Losing the caller stops the following and nothing else: the handover is the arbiter's.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{Failure, names};
use heirloom_region::arbiter::{
    Arbiter, HandoverEvent, Observer, Outcome, Record, Refusal, Reply, RollbackRequest, SwitchOptions, SwitchRequest,
    Target,
};
use heirloom_region::name;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use super::follower::{Events, follower};
use super::host::Host;
use super::hosts::bad_name;

/// What every streaming call answers with.
pub(crate) type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The longest request id and note that are taken.
const REQUEST_ID_BYTES_MAX: usize = 64;
const NOTE_BYTES_MAX: usize = 512;

/// A handover on its way.
pub(crate) struct Switch {
    host: Arc<Host>,
    events: Events,
    answer: oneshot::Receiver<Result<Record, Refusal>>,
}

/// Begins a handover.
///
/// # Errors
/// `INVALID_FIELD` for a request that says nothing sensible.
pub(crate) fn handover(
    host: Arc<Host>,
    target: Target,
    options: SwitchOptions,
    caller: String,
) -> Result<Switch, Failure> {
    check(&host.name, &options)?;
    let request = SwitchRequest { target, options };
    Ok(Switch::begin(host, |arbiter, observer, reply| arbiter.handover(request, caller, observer, reply)))
}

/// Begins a rollback.
///
/// # Errors
/// As [`handover`].
pub(crate) fn rollback(
    host: Arc<Host>,
    handover: Option<u64>,
    options: SwitchOptions,
    caller: String,
) -> Result<Switch, Failure> {
    check(&host.name, &options)?;
    let request = RollbackRequest { handover, options };
    Ok(Switch::begin(host, |arbiter, observer, reply| arbiter.rollback(request, caller, observer, reply)))
}

fn check(region: &str, options: &SwitchOptions) -> Result<(), Failure> {
    for (what, len, max) in
        [("request_id", options.request_id.len(), REQUEST_ID_BYTES_MAX), ("note", options.note.len(), NOTE_BYTES_MAX)]
    {
        if len > max {
            let failure = Failure::new(ErrorReason::InvalidField, format!("{what} is too long")).region(region);
            return Err(failure.expected(format!("at most {max} bytes")).found(len));
        }
    }
    Ok(())
}

/// The target of a request, by full or short instance name or by version.
///
/// # Errors
/// `INVALID_NAME` for what cannot be either, `INSTANCE_NOT_FOUND` for an instance of another region.
pub(crate) fn target(region: &str, it: Option<v1::handover_request::Target>) -> Result<Target, Failure> {
    match it {
        None => Ok(Target::Any),
        Some(v1::handover_request::Target::TargetVersion(version)) => {
            name::version(&version).map_err(|e| convert::misuse(&e).region(region))?;
            Ok(Target::Version(version))
        }
        Some(v1::handover_request::Target::TargetInstance(instance)) => {
            Ok(Target::Instance(short_instance(region, &instance)?))
        }
    }
}

/// The bare name of an instance of `region`.
pub(crate) fn short_instance(region: &str, instance: &str) -> Result<String, Failure> {
    if !instance.contains('/') && !instance.is_empty() {
        return Ok(instance.to_owned());
    }
    match names::parse_instance(instance) {
        Some((found, instance)) if found == region => Ok(instance.to_owned()),
        Some((found, _)) => {
            let failure =
                Failure::new(ErrorReason::InstanceNotFound, "the instance is of another region").region(region);
            Err(failure.expected(names::region(region)).found(names::region(found)))
        }
        None => Err(bad_name(instance, "regions/{region}/instances/{instance}").region(region)),
    }
}

impl Switch {
    fn begin(host: Arc<Host>, call: impl FnOnce(&Arbiter, Observer, Reply<Result<Record, Refusal>>)) -> Switch {
        let (observer, events) = follower();
        let (reply, answer) = oneshot::channel();
        call(&host.arbiter, observer, Box::new(move |it| drop(reply.send(it))));
        Switch { host, events, answer }
    }

    /// Waits until it is decided; `last` is what was heard of it on the way. May be called again after it was cancelled.
    ///
    /// # Errors
    /// Refused: nothing changed. `SHUTTING_DOWN`: not known.
    pub(crate) async fn decided(&mut self, last: &mut Option<Record>) -> Result<Record, Failure> {
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => *last = Some(event.record),
                record = decided(&self.host, &mut self.answer) => return record,
            }
        }
    }

    /// The events as a stream that ends as the protocol says: OK if the target owns, else with the reason.
    ///
    /// # Errors
    /// What is refused at once is the call's own status.
    pub(crate) async fn into_stream(mut self, follow_drain: bool) -> Result<EventStream<v1::HandoverEvent>, Status> {
        let first = tokio::select! {
            biased;
            Some(event) = self.events.recv() => Err(event),
            record = decided(&self.host, &mut self.answer) => Ok(record?),
        };
        let (out, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            let end = self.forward(first, follow_drain, &out).await;
            if let Err(failure) = end {
                let _ = out.send(Err(failure.to_status())).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    async fn forward(
        &mut self,
        first: Result<Record, HandoverEvent>,
        follow_drain: bool,
        out: &mpsc::Sender<Result<v1::HandoverEvent, Status>>,
    ) -> Result<(), Failure> {
        let region = self.host.name.clone();
        let mut last = None;
        let mut verdict = None;
        match first {
            Ok(record) => verdict = Some(record),
            Err(event) => send(out, &region, &mut last, event).await,
        }
        while verdict.is_none() {
            tokio::select! {
                biased;
                () = out.closed() => return Ok(()),
                Some(event) = self.events.recv() => send(out, &region, &mut last, event).await,
                record = decided(&self.host, &mut self.answer) => verdict = Some(record?),
            }
        }
        let Some(record) = verdict else { return Ok(()) };
        while let Some(event) = self.events.try_recv() {
            send(out, &region, &mut last, event).await;
        }
        if last.as_ref().is_none_or(|l: &Record| !l.is_decided()) {
            let event = HandoverEvent { unix_ms: super::unix_ms(), record: record.clone(), ..HandoverEvent::default() };
            send(out, &region, &mut last, event).await;
        }
        if record.outcome == Outcome::Aborted {
            return Err(convert::aborted(&region, &record));
        }
        if follow_drain && record.number != 0 {
            self.forward_drain(&region, &mut last, out).await;
            self.events.complete(&region)?;
        }
        Ok(())
    }

    async fn forward_drain(
        &mut self,
        region: &str,
        last: &mut Option<Record>,
        out: &mpsc::Sender<Result<v1::HandoverEvent, Status>>,
    ) {
        loop {
            tokio::select! {
                () = out.closed() => return,
                event = self.events.recv() => match event {
                    Some(event) => send(out, region, last, event).await,
                    None => return,
                },
            }
        }
    }
}

async fn decided(host: &Host, answer: &mut oneshot::Receiver<Result<Record, Refusal>>) -> Result<Record, Failure> {
    let answer = answer.await.map_err(|_| host.gone())?;
    host.count(&answer);
    answer.map_err(|refusal| convert::refusal(&host.name, refusal))
}

async fn send(
    out: &mpsc::Sender<Result<v1::HandoverEvent, Status>>,
    region: &str,
    last: &mut Option<Record>,
    event: HandoverEvent,
) {
    let _ = out.send(Ok(convert::handover_event(region, &event))).await;
    *last = Some(event.record);
}

//! The way between an instance and its arbiter: the same messages over a stream to the sidecar, or within this process.

use std::sync::Arc;
#[cfg(feature = "embedded")]
use std::sync::Weak;
use std::time::Duration;

use heirloom_proto::names;
use heirloom_proto::v1::{self, attach_request, attach_response};
use heirloom_region::arbiter::record::{Cause, InstanceRef, Record};
use heirloom_region::arbiter::{FromInstance, Hook, HookSet, Need, Outbox, ToInstance};
use tokio::sync::mpsc;

use crate::in_process::InProcess;

mod speech;

use speech::Speech;

/// A link that is up.
pub(crate) struct Live {
    incoming: Incoming,
    outgoing: Outgoing,
    /// The other side answers when it was told of readiness.
    notes_ready: bool,
}

enum Incoming {
    Sidecar(Box<tonic::Streaming<v1::AttachResponse>>),
    Embedded(mpsc::UnboundedReceiver<ToInstance>),
}

enum Outgoing {
    /// What is said is coalesced by the control thread, so this queue stays short though it has no bound.
    Sidecar(mpsc::UnboundedSender<v1::AttachRequest>),
    Embedded(Arc<Speech>),
    Closed,
}

/// An instance of an embedded arbiter does not keep it: dropping the arbiter is a sidecar's crash. A private region does.
pub(crate) enum ArbiterRef {
    Owned(Arc<InProcess>),
    #[cfg(feature = "embedded")]
    Borrowed(Weak<InProcess>),
}

impl ArbiterRef {
    fn get(&self) -> Option<Arc<InProcess>> {
        match self {
            ArbiterRef::Owned(inner) => Some(inner.clone()),
            #[cfg(feature = "embedded")]
            ArbiterRef::Borrowed(inner) => inner.upgrade(),
        }
    }
}

impl Live {
    pub(crate) fn sidecar(
        incoming: tonic::Streaming<v1::AttachResponse>,
        outgoing: mpsc::UnboundedSender<v1::AttachRequest>,
        notes_ready: bool,
    ) -> Self {
        Self { incoming: Incoming::Sidecar(Box::new(incoming)), outgoing: Outgoing::Sidecar(outgoing), notes_ready }
    }
    pub(crate) fn embedded(
        incoming: mpsc::UnboundedReceiver<ToInstance>,
        arbiter: ArbiterRef,
        incarnation: u64,
    ) -> Self {
        let outgoing = Outgoing::Embedded(Speech::new(arbiter, incarnation));
        Self { incoming: Incoming::Embedded(incoming), outgoing, notes_ready: true }
    }

    /// Whether [`ToInstance::ReadyNoted`] comes; a sidecar of an earlier release does not know it.
    pub(crate) fn notes_ready(&self) -> bool {
        self.notes_ready
    }

    /// The next message; `None` when the link is gone. Cancel-safe.
    pub(crate) async fn hear(&mut self) -> Option<ToInstance> {
        match &mut self.incoming {
            Incoming::Embedded(messages) => messages.recv().await,
            Incoming::Sidecar(stream) => loop {
                match stream.message().await {
                    // A message that this build does not know is for a later one.
                    Ok(Some(message)) => match from_wire(message) {
                        Some(message) => return Some(message),
                        None => continue,
                    },
                    Ok(None) => return None,
                    Err(status) => {
                        tracing::debug!(%status, "attach stream ended");
                        return None;
                    }
                }
            },
        }
    }

    /// Says something; `false` when the link is gone.
    pub(crate) fn say(&self, message: FromInstance) -> bool {
        match &self.outgoing {
            Outgoing::Sidecar(queue) => queue.send(to_wire(message)).is_ok(),
            Outgoing::Embedded(speech) => speech.say(message),
            Outgoing::Closed => false,
        }
    }

    /// Ends the link in order: what was said is sent before this returns, unless that takes longer than `limit`.
    pub(crate) async fn close(mut self, limit: Duration) {
        if let Incoming::Sidecar(stream) = &mut self.incoming {
            self.outgoing = Outgoing::Closed;
            // The other side ends its half when it has read ours to the end.
            let rest = async { while let Ok(Some(_)) = stream.message().await {} };
            let _ = tokio::time::timeout(limit, rest).await;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Outgoing::Embedded(speech) = &self.outgoing {
            speech.end();
        }
    }
}

/// An embedded instance's ear.
pub(crate) struct Ear(pub(crate) mpsc::UnboundedSender<ToInstance>);

impl Outbox for Ear {
    fn send(&mut self, message: ToInstance) -> bool {
        self.0.send(message).is_ok()
    }
}

fn millis(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

fn to_wire(message: FromInstance) -> v1::AttachRequest {
    use attach_request::{self as wire, Message};
    let message = match message {
        FromInstance::Declare(needs) => {
            let need = |n: Need| wire::Need {
                object: n.object,
                kind: n.kind,
                readable_schemas: n.readable,
                written_schemas: n.written,
            };
            Message::Declare(wire::Declare { needs: needs.into_iter().map(need).collect() })
        }
        FromInstance::Ready { ready, message, hooks } => {
            let set = |has: HookSet| wire::HookSet { prepare: has.prepare, flush: has.flush, resume: has.resume };
            Message::Ready(wire::Ready { ready, message, hooks: hooks.map(set) })
        }
        FromInstance::HookResult { call_id, ok, veto } => {
            Message::HookResult(wire::HookResult { call_id, ok, veto_message: veto })
        }
        FromInstance::InFlight { counts, left, drained } => {
            let left = left.into_iter().map(|it| v1::Undrained { kind: it.kind, reason: it.reason, count: it.count });
            Message::InFlight(wire::InFlight { counts: counts.into_iter().collect(), drained, left: left.collect() })
        }
        FromInstance::Leave { drain_timeout } => {
            Message::Leave(wire::Leave { drain_timeout_ms: drain_timeout.map_or(0, millis) })
        }
    };
    v1::AttachRequest { message: Some(message) }
}

/// What a message means; `None` for what this build does not know, and for a welcome, which comes once and first.
fn from_wire(message: v1::AttachResponse) -> Option<ToInstance> {
    use attach_response::{self as wire, Message};
    let from_ms = |ms: u32| Duration::from_millis(ms.into());
    Some(match message.message? {
        Message::Welcome(_) => return None,
        Message::HookCall(call) => ToInstance::HookCall {
            call_id: call.call_id,
            hook: match call.hook() {
                wire::Hook::Prepare => Hook::Prepare,
                wire::Hook::Flush => Hook::Flush,
                wire::Hook::Resume => Hook::Resume,
                wire::Hook::Unspecified => return None,
            },
            timeout: from_ms(call.timeout_ms),
            record: Box::new(record(call.handover?)),
        },
        Message::GenerationHint(hint) => ToInstance::GenerationHint {
            generation: hint.generation,
            cause: match hint.cause() {
                wire::Cause::Unspecified => Cause::Unspecified,
                wire::Cause::First => Cause::First,
                wire::Cause::Succession => Cause::Succession,
                wire::Cause::Handover => Cause::Handover,
                wire::Cause::Rollback => Cause::Rollback,
                wire::Cause::OwnerLeft => Cause::OwnerLeft,
                wire::Cause::OwnerDied => Cause::OwnerDied,
            },
            previous: hint.previous.map(instance),
            owner: hint.owner.map(instance),
            writer_blackout_us: hint.writer_blackout_us,
        },
        Message::ReadyNoted(noted) => ToInstance::ReadyNoted { ready: noted.ready },
        Message::LeaveRequest(ask) => {
            ToInstance::LeaveRequest { drain_timeout: from_ms(ask.drain_timeout_ms), message: ask.message }
        }
    })
}

/// As much of a record as hooks are told.
fn record(wire: v1::HandoverRecord) -> Record {
    let why = match wire.reason() {
        v1::ErrorReason::Unspecified => wire.message.clone(),
        reason if wire.message.is_empty() => reason.as_str_name().to_owned(),
        reason => format!("{}: {}", reason.as_str_name(), wire.message),
    };
    Record {
        number: names::parse_handover(&wire.name).and_then(|(_, number)| number).unwrap_or_default(),
        source: wire.source.map(instance),
        target: wire.target.map(instance),
        previous_generation: wire.previous_generation,
        generation: wire.generation,
        message: why,
        ..Record::default()
    }
}

fn instance(wire: v1::handover_record::InstanceRef) -> InstanceRef {
    InstanceRef { instance: names::short(&wire.name).to_owned(), version: wire.version, pid: wire.pid, incarnation: 0 }
}

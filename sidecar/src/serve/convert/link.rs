//! What passes between an instance and its arbiter, over the instance's stream.

use std::time::Duration;

use heirloom_proto::v1::attach_response as to;
use heirloom_proto::v1::{self, attach_request as from};
use heirloom_region::arbiter::{Cause, FromInstance, Hook, HookSet, Need, ToInstance, Undrained};

use super::{instance_ref, millis, record};

/// What an instance says after its Hello; `None` for a message that is not known here or has no place.
pub(crate) fn from_instance(it: v1::AttachRequest) -> Option<FromInstance> {
    Some(match it.message? {
        from::Message::Hello(_) => return None,
        from::Message::Declare(it) => FromInstance::Declare(it.needs.into_iter().map(need).collect()),
        from::Message::Ready(it) => FromInstance::Ready {
            ready: it.ready,
            message: it.message,
            hooks: it.hooks.map(|has| HookSet { prepare: has.prepare, flush: has.flush, resume: has.resume }),
        },
        from::Message::HookResult(it) => {
            FromInstance::HookResult { call_id: it.call_id, ok: it.ok, veto: it.veto_message }
        }
        from::Message::InFlight(it) => {
            let left = it.left.into_iter().map(|it| Undrained { kind: it.kind, reason: it.reason, count: it.count });
            FromInstance::InFlight {
                counts: it.counts.into_iter().collect(),
                left: left.collect(),
                drained: it.drained,
            }
        }
        from::Message::Leave(it) => {
            FromInstance::Leave { drain_timeout: millis(Some(it.drain_timeout_ms).filter(|ms| *ms != 0)) }
        }
    })
}

fn need(it: from::Need) -> Need {
    Need { object: it.object, kind: it.kind, readable: it.readable_schemas, written: it.written_schemas }
}

/// What an instance is told.
pub(crate) fn to_instance(region: &str, it: ToInstance) -> v1::AttachResponse {
    let message = match it {
        ToInstance::HookCall { call_id, hook, record: it, timeout } => to::Message::HookCall(to::HookCall {
            call_id,
            hook: match hook {
                Hook::Prepare => to::Hook::Prepare,
                Hook::Flush => to::Hook::Flush,
                Hook::Resume => to::Hook::Resume,
            }
            .into(),
            handover: Some(record(region, &it)),
            timeout_ms: ms(timeout),
        }),
        ToInstance::GenerationHint { generation, cause: why, previous, owner, writer_blackout_us } => {
            to::Message::GenerationHint(to::GenerationHint {
                generation,
                cause: cause(why).into(),
                previous: previous.map(|i| instance_ref(region, &i)),
                owner: owner.map(|i| instance_ref(region, &i)),
                writer_blackout_us,
            })
        }
        ToInstance::ReadyNoted { ready } => to::Message::ReadyNoted(to::ReadyNoted { ready }),
        ToInstance::LeaveRequest { drain_timeout, message } => {
            to::Message::LeaveRequest(to::LeaveRequest { drain_timeout_ms: ms(drain_timeout), message })
        }
    };
    v1::AttachResponse { message: Some(message) }
}

pub(super) fn cause(cause: Cause) -> to::Cause {
    match cause {
        Cause::First => to::Cause::First,
        Cause::Succession => to::Cause::Succession,
        Cause::Handover => to::Cause::Handover,
        Cause::Rollback => to::Cause::Rollback,
        Cause::OwnerLeft => to::Cause::OwnerLeft,
        Cause::OwnerDied => to::Cause::OwnerDied,
        _ => to::Cause::Unspecified,
    }
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

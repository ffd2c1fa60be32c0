//! The arbiter: who owns a region, and every change of it.
//!
//! [`machine`] and [`policy`] are pure: no clock, no IO, no chance. The thread around them runs the same in the sidecar,
//! in the client's embedded mode and in tests; a transport only maps its messages onto [`Arbiter`]'s calls.
//!
//! **If the arbiter dies anywhere**, the region says what happened: before the gate's compare-and-swap generation g goes on (a
//! frozen gate is thawed by whoever waits at it), after it generation g+1 is open. The next arbiter reads that, closes the
//! record that was left running accordingly, and takes up every living instance's row as it is.

mod assign;
mod closing;
mod drain;
mod eligible;
mod feed;
mod ground;
mod handle;
mod journal;
pub mod machine;
mod mailbox;
mod members;
pub mod message;
mod needs;
mod outcome;
pub mod policy;
pub mod reason;
pub mod record;
mod region;
mod report;
mod restart;
mod runner;
mod session;
pub mod status;
mod switch;
#[cfg(test)]
mod tests;
mod undo;
mod verbs;
mod verifying;
mod words;

pub use assign::{Assignment, Replica, assign};
pub use handle::{Arbiter, FaultReport, VerifyProgress, VerifyReport, Voice};
pub use message::{
    FromInstance, Hello, Hook, HookSet, Need, Observer, Outbox, Refusal, Reply, RollbackRequest, SwitchOptions,
    SwitchRequest, Target, ToInstance, Watcher, Welcome,
};
pub use needs::{Present, verdict};
pub use policy::{Policy, QUARANTINE_DEATHS_MAX, Vacancy};
pub use reason::Reason;
pub use record::{Cause, Figures, InstanceRef, Kind, Outcome, Phase, Record};
pub use status::{HandoverEvent, InstanceStatus, RegionEvent, RegionStatus, Role, State, Undrained};

//! The arbiter's thread under test, over a ground that does on demand what a real region does rarely.
//!
//! Nothing here sleeps: each step awaits the message or the state that must come, within [`SOON`].

mod crowd;
mod fake;
mod handover;
mod killed;
mod members;
mod model;
mod people;
mod real;
mod restart;
mod verbs;

use people::Region;

use std::time::Duration;

/// Longest wait for anything that must happen.
const SOON: Duration = Duration::from_secs(10);

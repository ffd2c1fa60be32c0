//! Live connections that move: a descriptor, the bytes read and not consumed, the bytes not yet written, and the
//! application's state.
//!
//! # Invariant
//!
//! **A connection has one holder**: the one process that reads and writes it. It changes by one instruction, a
//! compare-and-swap that both processes see; there is no moment with two holders, and none without one except by the
//! holder's own death.
//!
//! Two processes that can only send messages cannot agree for certain that one has what the other gave (the two generals:
//! whoever speaks last does not know whether it was heard). On one host they need not: they share a *word*.
//!
//! ```text
//! word    ──offer (sender)──► offered(t) ──accept: CAS (receiver)──► accepted(t)    the receiver is the holder
//!                                 └──────take back: CAS (either)──► returned(t)     the sender is the holder
//! ```
//!
//! - The sender stops reading and writing *before* it offers, and the receiver begins *after* its swap. Between the two
//!   nobody does; late bytes wait in the kernel's buffers, which belong to the socket and not to a process.
//! - Of *accept* and *take back* exactly one succeeds, since both swap from `offered(t)`; `t` is never used again, so a late
//!   swap on a word that was reused fails. Whoever finds `accepted` lets go; whoever finds `returned` lets be.
//! - What can fail at the receiver fails before its swap: a swap that succeeded has a socket in its event queue, and a state.
//! - Packets are doorbells: an offer carries the descriptor (both hold one until the word is decided), *settled* and
//!   *withdrawn* say "look". One that is lost delays, and decides nothing.
//!
//! # Crashes
//!
//! | killed | at | the word | so |
//! |---|---|---|---|
//! | receiver | before its swap | offered: the sender sees the end of the link, and takes back | the sender serves on |
//! | receiver | after it | accepted: the sender finds that, and lets go | it ends with its holder, as with any that is killed |
//! | sender | before its packet is sent | offered, and nobody knows | it ends with its holder |
//! | sender | after that, before the swap | offered: the packet is in the kernel, and the receiver accepts | the receiver serves on |
//! | sender | after the swap | accepted | the receiver serves on |
//! | sidecar | at any step | – | it only introduced the two; without an introduction nothing is offered |
//!
//! None hangs. A receiver that is stopped does not accept, and after [`OFFER`] the sender takes back, by the word and not by
//! the clock: if the receiver was first after all, the sender finds that, and lets go. A connection is served until there is
//! room for its offer ([`OFFERS_MAX`] stand at once), so it pauses for its own move only, not for those of thousands before.
//! After an answer that others would get as well (a full table, another schema, none in time), one connection of the protocol
//! at a time tries, ever more seldom, and the others are served meanwhile.
//!
//! # What comes is input
//!
//! The other end of a link is another version, if not worse. Lengths, slots, tickets, descriptors and states are looked at
//! before they are used; what concerns one connection sends that one back with an error that names the fault, what belongs to
//! none cuts the link, by which all that is undecided stays with its sender. [`Halls`] holds at most one offer a word.
//!
//! # When, and between whom
//!
//! Connections move after the commit, when the old owner sees who owns, and on to whoever owns then; none is offered while the
//! gate is frozen. Instances speak directly, over a pair of sockets that the sidecar gave both (it knows who they are, and
//! introduces nobody to another uid), not through it: a connection in flight does not depend on a third process, and costs one
//! packet there and one doorbell back. Every link goes one way, from the instance that asked for it; a rollback uses another.
//!
//! TLS does not move: its keys are in the process. Such connections drain.

mod arrival;
mod departure;
mod flow;
mod hall;
mod link;
mod origin;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use heirloom_region::error::Error;
use heirloom_region::sockets;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::conn::Stream;
use crate::session::Session;
use crate::work::{InFlight, NO_BOUNDARY};

pub use arrival::Arrival;
pub use departure::{Departure, Returned};
use hall::Hall;
pub(super) use hall::Halls;
pub(super) use link::Link;
pub(super) use origin::receive;
pub(super) use step::at as step;

/// How long an offer stands before the sender takes it back.
const OFFER: Duration = Duration::from_secs(1);
/// Offers that stand at once on one link.
const OFFERS_MAX: usize = 64;
/// Bytes of a parcel that fit into its packet; more go in a file.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// Bytes of one parcel.
const BYTES_MAX: u64 = 64 << 20;

/// The values of a word, with the ticket above them.
mod word {
    pub(super) const OFFERED: u64 = 1;
    pub(super) const ACCEPTED: u64 = 2;
    pub(super) const RETURNED: u64 = 3;

    pub(super) fn of(ticket: u64, state: u64) -> u64 {
        ticket << 2 | state
    }
}

/// A live connection with all that the next holder needs.
#[derive(Debug)]
pub struct Parcel<S> {
    /// The socket. Not TLS: keys do not move.
    pub stream: Stream,
    /// Read from it and not yet consumed.
    pub unread: Vec<u8>,
    /// To be written to it before anything else.
    pub unsent: Vec<u8>,
    /// The application's state of it.
    pub state: S,
}

/// Where connections of one protocol depart and arrive; see [`Region::parcels`](crate::Region::parcels).
pub struct Parcels<S> {
    session: Arc<Session>,
    hall: Arc<Hall>,
    _state: std::marker::PhantomData<fn(S) -> S>,
}

impl<S> Clone for Parcels<S> {
    fn clone(&self) -> Self {
        Self { session: self.session.clone(), hall: self.hall.clone(), _state: std::marker::PhantomData }
    }
}

impl<S> std::fmt::Debug for Parcels<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parcels").field("protocol", &self.hall.protocol).field("schema", &self.hall.schema).finish()
    }
}

impl<S: Serialize + DeserializeOwned + Send + 'static> Parcels<S> {
    pub(crate) fn new(session: &Arc<Session>, protocol: &str, schema: u32) -> Result<Self, Error> {
        session.refuse_a_fork()?;
        sockets::name(protocol)?;
        let hall = session.net.halls.open(protocol, schema)?;
        session.net.reserve();
        Ok(Self { session: session.clone(), hall, _state: std::marker::PhantomData })
    }

    /// Counts a connection as in flight (`connections`), and tells it when to move.
    pub fn track(&self) -> Tracked<S> {
        let counted = InFlight::left_for(&self.session, "connections", NO_BOUNDARY);
        Tracked { parcels: self.clone(), counted, refused: None, tries: 0, not_before: None }
    }

    /// The next connection that comes from another instance; pends while none does. Cancel-safe. Several tasks may wait.
    pub async fn arrival(&self) -> Arrival<S> {
        let raw = self.hall.next().await;
        Arrival::new(self.clone(), raw)
    }
}

/// A live connection's place in the drain.
#[derive(Debug)]
pub struct Tracked<S> {
    parcels: Parcels<S>,
    counted: InFlight,
    /// What it came back for last.
    refused: Option<&'static str>,
    /// Times that it came back for a reason of its own.
    tries: u32,
    /// When it may try again.
    not_before: Option<Instant>,
}

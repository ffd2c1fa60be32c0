//! Listeners kept by name, over restarts, handovers and the sidecar's death; and live connections that move to the next owner.
//!
//! [`Region::listener`](crate::Region::listener) gives the socket kept under a name, or binds a new one that is then kept:
//! by the sidecar, and by every attached instance, each with a descriptor of the same socket. So the kernel's queue of
//! connections is one. Who accepts from it is decided by the generation, as every owned write is: [`Listener::accept`]
//! takes a [`Term`](crate::Term) and ends with it, and the next owner's begins with its own.
//!
//! - A connection that waits in the queue at the switch is served by the new owner; one that was accepted before, or in the
//!   moment of the switch, by the one that accepted it, which drains. An aborted handover ends no term, so nothing changes;
//!   a rollback is a switch like any other.
//! - While nobody owns (a restart in place), connections wait in the queue. They are refused when it is full
//!   (`net.core.somaxconn`), and reset only when the last process that keeps the socket is gone.
//! - A name that this instance keeps opens without a sidecar. A new one is waited for: two instances that bind it at once
//!   must not both, and only the sidecar knows.
//!
//! Sockets are non-blocking, whoever has them: that flag belongs to the socket, not to the process. What is *not* kept:
//! socket options that a service sets are, since they are the socket's; a Unix socket's file is never removed here.
//!
//! A protocol that can be carried on elsewhere moves its live connections, too: [`Region::parcels`](crate::Region::parcels),
//! [`Parcels`]. Each is held by exactly one process at any moment, whoever is killed.
//!
//! If this process dies anywhere, its descriptors are closed, and every other keeper has its own.

mod channel;
mod conn;
mod keep;
mod listener;
mod open;
mod parcel;
mod ways;

pub use conn::{Conn, Stream};
pub use heirloom_region::sockets::Kind as SocketKind;
pub(crate) use keep::{Net, Shared};
pub use listener::{During, Listener};
pub use open::OpenListener;
pub use parcel::{Arrival, Departure, Parcel, Parcels, Returned, Tracked};

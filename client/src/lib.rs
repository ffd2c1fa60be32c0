//! What a service links so that its memory outlives its process.
//!
//! ```text
//!  attach("shop") ──► Attachment ──ready(hooks)──► Serving ──run(…)──► Term ──► owned writes
//!                        │ region()                    │ leave()              │ ended()
//!                        ▼                             ▼                      ▼
//!                     Region ── counter, histogram, gauge, cell, series … (Clone + Send + Sync)
//! ```
//!
//! Two rules explain the shapes in this crate:
//!
//! * **What only we change is a type.** Attaching, declaring readiness and leaving are steps of this process, so they
//!   are linear: [`Attachment`] becomes [`Serving`], [`Serving::leave`] consumes it. A wrong order does not compile.
//! * **What others change is a token.** Ownership can end at any instruction, and come back by a rollback. So an owned
//!   write takes a [`Term`], the proof of one generation, and fails with [`Fenced`] once that generation is over; also
//!   when this process owns again under a later one, since what the caller read may be stale by then.
//!
//! Data-plane calls are synchronous, make no system call and need no sidecar. The control plane lives on one thread of
//! this crate's own; its futures run on any executor, and [`wait()`] runs them on none.
//!
//! Listening sockets outlive the process, too: [`Region::listener`] gives the one kept under a name, and the owner accepts
//! from it ([`net`]). Live connections move to the next owner where their protocol can be carried on ([`Region::parcels`]).
//!
//! What this crate does *not* do: it moves no TLS connection, keeps nothing that you did not put into the region, and
//! gives no lock or reference into shared memory, so nothing a request holds can delay a switch.
//!
//! ```
//! use heirloom_client::{Hooks, wait};
//! # use heirloom_client::embedded::Embedded;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let arbiter = Embedded::new("shop")?;
//! # let attach = |_: &str| arbiter.attach("1.0.0");
//! let shop = attach("shop").version("1.0.0").wait()?; // or .await
//! let visits = shop.region().counter("shop_visits_total").open()?;
//! let basket = shop.region().cell::<Vec<String>>("basket").open()?;
//! let mut serving = wait(shop.ready(Hooks::new()))?;
//!
//! visits.inc(); // any instance, at any time
//! let term = wait(serving.next_term()).expect("nobody asked it to leave");
//! basket.update(&term, |b| b.push("tea".into()))?; // the owner
//! # Ok(()) }
//! ```
//!
//! Modules by what they do: `attach`, `open`, `dial`, `link` bring a process to a region; `control` and `driver` keep it
//! there; `session` is what all handles share; `region`, `object`, `family`, `cell`, [`series`], `view` are the data plane.
#![forbid(unsafe_code)]

pub mod adapters;
mod attach;
mod build;
mod cell;
mod codec;
mod control;
mod dial;
mod driver;
#[cfg(feature = "embedded")]
pub mod embedded;
mod exposition;
mod facts;
mod family;
mod hooks;
mod in_process;
mod link;
pub mod net;
mod object;
mod observe;
mod open;
mod region;
mod registry;
mod role;
pub mod series;
mod serving;
mod session;
mod term;
mod view;
mod wait;
mod work;

#[cfg(feature = "axum")]
pub use adapters::axum;
pub use attach::{Attach, IfAbsent, attach};
pub use cell::{Cell, OpenCell, Stamp, Versioned};
pub use codec::Codec;
pub use exposition::Exposition;
pub use family::Family;
/// Errors by culprit: whose fault, what was expected, what was found. [`Error::reason`] is the same word as
/// `ErrorInfo.reason` on the wire and `reason` in the command line's JSON.
pub use heirloom_region::error;
pub use heirloom_region::error::{Error, Fenced, Generation, NotOwner, Peer, WriteError};
pub use hooks::{Flush, Hooks, Prepare, Resume, Veto};
pub use net::{Arrival, Conn, Departure, During, Listener, OpenListener, Parcel, Parcels, Returned};
pub use net::{SocketKind, Stream, Tracked};
pub use object::{Counter, FloatCounter, Gauge, Histogram, Metric, Open, Share, Timer, UpDownGauge};
pub use observe::{Observer, observe};
pub use region::Region;
pub use role::{Cause, Link, Role, RoleChange, RoleWatch};
pub use serving::{Attachment, Left, Serving};
pub use term::{Ended, Term};
pub use view::View;
pub use wait::wait;
pub use work::InFlight;

/// Every handle is `Clone + Send + Sync + 'static`; the three linear types are `Send` and not `Clone`.
const _: () = {
    const fn handle<T: Clone + Send + Sync + 'static>() {}
    const fn linear<T: Send + 'static>() {}
    handle::<Region>();
    handle::<Term>();
    handle::<RoleWatch>();
    handle::<Counter>();
    handle::<FloatCounter>();
    handle::<Histogram>();
    handle::<Gauge>();
    handle::<UpDownGauge>();
    handle::<Family<Counter, 2>>();
    handle::<Cell<String>>();
    handle::<Observer>();
    linear::<Attachment>();
    linear::<Serving>();
    linear::<Hooks>();
};

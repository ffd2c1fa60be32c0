//! Connections that go to another instance.

use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use heirloom_proto::v1::{ErrorReason, ParcelOffer, ParcelSettled};
use heirloom_region::error::Error;
use heirloom_region::os::words;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::arrival::stream_of;
use super::flow::{Flow, May, PAUSE, Trying, pause};
use super::link::{Decided, Link, Slot};
use super::{BYTES_MAX, INLINE_BYTES_MAX, OFFER, Parcel, Tracked, step};
use crate::codec::Codec;
use crate::net::conn::Stream;
use crate::role::Role;
use crate::session::Session;
use crate::work::{InFlight, MOVING, NO_BOUNDARY};

/// Until a gate that is frozen is looked at again.
const FREEZE: Duration = Duration::from_millis(1);

impl<S: Serialize + DeserializeOwned + Send + 'static> Tracked<S> {
    /// Completes when this connection should move: another instance owns, can be spoken to, and has room for it. Ask only where
    /// the protocol is at a boundary; go on serving until it completes. Cancel-safe, also where it is asked again and again
    /// beside what is always ready.
    pub async fn departure(&mut self) -> Departure<'_, S> {
        let Tracked { parcels, counted, refused, not_before, .. } = self;
        let session = &parcels.session;
        let mut roles = session.roles();
        if matches!(roles.borrow().role, Role::Owner(_)) {
            *refused = None; // of a drain that is over
        }
        // The sender lives in the session.
        let _ = roles.wait_for(|now| !matches!(now.role, Role::Owner(_)) && now.owner.is_some()).await;
        let mut waits = Waits { counted, after: refused.unwrap_or(NO_BOUNDARY) };
        loop {
            waits.counted.because(refused.unwrap_or(MOVING));
            let _ = roles.wait_for(|now| !matches!(now.role, Role::Owner(_)) && now.owner.is_some()).await;
            if let Some(left) = not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
                Pause::of(session, left).await;
                continue;
            }
            let Some(link) = owner_link(session).await else {
                waits.counted.because("UNREACHABLE");
                *not_before = Some(Instant::now() + PAUSE);
                continue;
            };
            let flow = link.flow(&parcels.hall.protocol);
            let trying = match flow.may_offer() {
                May::Go(trying) => trying,
                May::Wait(left, reason) => {
                    waits.counted.because(reason);
                    Pause::of(session, left).await;
                    continue;
                }
            };
            let Some(slot) = link.slot().await else { continue };
            if trying.is_none() && !flow.flows() {
                continue; // others were refused while this one waited for room
            }
            if session.process.gate().is_frozen() {
                Pause::of(session, FREEZE).await;
                continue;
            }
            waits.after = MOVING;
            drop(waits);
            return Departure { tracked: self, flow, slot, _trying: trying };
        }
    }

    /// Says why this connection does not move while this instance drains: `TLS`, say. Until it does, that is found out:
    /// `NO_BOUNDARY` where no departure was asked for, `MOVING` while one waits for its turn, or what it was refused for.
    pub fn because(&mut self, reason: &'static str) {
        self.counted.because(reason);
    }

    /// It came back for a reason of its own.
    fn again(&mut self) {
        self.tries = self.tries.saturating_add(1);
        self.not_before = Some(Instant::now() + pause(self.tries));
    }
}

/// Whoever waits for a departure says why; who waits no more says what he said before.
struct Waits<'t> {
    counted: &'t mut InFlight,
    after: &'static str,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.counted.because(self.after);
    }
}

/// A reason that another instance gives, if it is one of ours.
fn known(reason: &str) -> &'static str {
    ErrorReason::from_str_name(reason).map_or("REFUSED", |reason| reason.as_str_name())
}

/// The way to whoever owns, if that is another. At once where there is one: who asks often is seldom kept waiting here.
async fn owner_link(session: &Arc<Session>) -> Option<Arc<Link>> {
    let (_, owner) = session.process.owner().ok()?;
    let incarnation = owner?.incarnation;
    if incarnation == session.process.incarnation() {
        return None;
    }
    if let Some(link) = session.net.link(incarnation) {
        return Some(link);
    }
    let net = session.net.clone();
    // There are timers, whoever awaits this; and it goes on if nobody does.
    session.control.spawn(async move { net.link_to(incarnation).await }).await.ok().flatten()
}

/// Permission to send one connection away. It holds room that others wait for.
#[must_use = "send() it, or drop it to keep the connection for now"]
pub struct Departure<'t, S> {
    tracked: &'t mut Tracked<S>,
    flow: Arc<Flow>,
    slot: Slot,
    _trying: Option<Trying>,
}

/// Why one came back.
struct Back {
    reason: String,
    message: String,
    /// Others would, too.
    all: bool,
}

impl<S: Serialize + DeserializeOwned + Send + 'static> Departure<'_, S> {
    /// Offers the parcel and waits until it is decided: `Ok`, and it is theirs; its [`Tracked`] has nothing to track any more.
    /// At most a second.
    ///
    /// Await it to its end: a connection whose sending is dropped half-way, and that was not accepted by then, is closed.
    ///
    /// # Errors
    /// [`Returned`]: it is ours as before; go on serving it.
    pub async fn send(self, parcel: Parcel<S>) -> Result<(), Returned<S>> {
        let Departure { tracked, flow, slot, _trying } = self;
        let Parcel { stream, unread, unsent, state } = parcel;
        let offer = match offer(tracked, &slot, [&unread, &unsent], &state) {
            Ok(offer) => offer,
            Err(error) => {
                tracked.again();
                tracked.refused = Some(known(error.reason()));
                tracked.counted.because(known(error.reason()));
                let (reason, message) = (error.reason().to_owned(), error.to_string());
                return Err(Returned { parcel: Parcel { stream, unread, unsent, state }, reason, message });
            }
        };
        let socket: OwnedFd = match bare(stream) {
            Ok(socket) => socket,
            Err(error) => {
                // The runtime would not let go of it; it has closed it.
                tracing::error!(%error, "a connection was lost on its way out");
                return Ok(());
            }
        };
        let Err(back) = go(&tracked.parcels.session, &slot, offer, &socket).await else {
            flow.taken();
            step("send-decided");
            return Ok(());
        };
        let reason = known(&back.reason);
        tracked.refused = Some(reason);
        tracked.counted.because(reason);
        match back.all {
            true if flow.refused(reason) => {
                let (protocol, reason, message) = (&tracked.parcels.hall.protocol, &back.reason, &back.message);
                tracing::warn!(protocol, reason, message, "connections stay here: the owner takes none now");
            }
            true => {}
            false => tracked.again(),
        }
        let runtime = Handle::try_current().unwrap_or_else(|_| tracked.parcels.session.control.clone());
        let _there = runtime.enter();
        match stream_of(socket) {
            Ok(stream) => {
                let parcel = Parcel { stream, unread, unsent, state };
                Err(Returned { parcel, reason: back.reason, message: back.message })
            }
            Err(error) => {
                tracing::error!(%error, reason = back.reason, "a connection that came back is lost");
                Ok(())
            }
        }
    }
}

/// What the packet says, and the file of its bytes if they are many.
fn offer<S: Serialize>(
    tracked: &Tracked<S>,
    slot: &Slot,
    [unread, unsent]: [&Vec<u8>; 2],
    state: &S,
) -> Result<(ParcelOffer, Option<OwnedFd>), Error> {
    use heirloom_region::error::{Full, Misuse};
    let hall = &tracked.parcels.hall;
    let name = || format!("parcel of {}", hall.protocol);
    let state = Codec::Bincode.encode(state).map_err(|why| Misuse::Encode { name: name(), why })?;
    let lens = [unread, unsent, &state].map(|bytes| bytes.len() as u64);
    let all: u64 = lens.iter().sum();
    if all > BYTES_MAX {
        return Err(Full::Value { name: name(), len_bytes: all, limit_bytes: BYTES_MAX }.into());
    }
    let mut offer = ParcelOffer { protocol: hall.protocol.clone(), schema: hall.schema, ..ParcelOffer::default() };
    (offer.slot, offer.ticket) = (slot.index, slot.ticket);
    if all <= INLINE_BYTES_MAX as u64 {
        (offer.unread, offer.unsent, offer.state) = (unread.clone(), unsent.clone(), state);
        return Ok((offer, None));
    }
    [offer.unread_len, offer.unsent_len, offer.state_len] = lens;
    Ok((offer, Some(words::put(&[unread.as_slice(), unsent, &state].concat())?)))
}

/// Offers and waits; an error is why it is ours.
async fn go(
    session: &Arc<Session>,
    slot: &Slot,
    (offer, file): (ParcelOffer, Option<OwnedFd>),
    socket: &OwnedFd,
) -> Result<(), Back> {
    let settled = slot.stand();
    let descriptors: Vec<&OwnedFd> = std::iter::once(socket).chain(&file).collect();
    let decided = async {
        match slot.send(offer, &descriptors).await {
            // A full socket is waited out; this is a full table of the kernel's, or the end of the link.
            Err(error) => {
                Back { reason: "IO".to_owned(), message: format!("it could not be offered: {error}"), all: false }
            }
            Ok(()) => said(settled.await),
        }
    };
    let back = tokio::select! {
        back = decided => back,
        () = &mut Pause::of(session, OFFER) => {
            let message = format!("nobody took it within {OFFER:?}");
            Back { reason: "TARGET_NOT_READY".to_owned(), message, all: true }
        }
    };
    step("send-woken");
    // Whatever woke us, the word decides.
    match slot.decide() {
        Decided::Accepted => Ok(()),
        Decided::Returned => Err(back),
        Decided::TakenBack => {
            slot.withdraw();
            Err(back)
        }
    }
}

fn said(settled: Result<ParcelSettled, oneshot::error::RecvError>) -> Back {
    match settled {
        Ok(it) => Back { reason: it.reason, message: it.message, all: it.all },
        Err(_) => {
            let message = "the link to the owner ended before it had taken it".to_owned();
            Back { reason: "UNREACHABLE".to_owned(), message, all: false }
        }
    }
}

/// A pause on the control runtime, which has timers; its timer goes with it.
struct Pause(tokio::task::JoinHandle<()>);

impl Pause {
    fn of(session: &Session, time: Duration) -> Self {
        Pause(session.control.spawn(tokio::time::sleep(time)))
    }
}

impl Future for Pause {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Out of its event queue.
fn bare(stream: Stream) -> std::io::Result<OwnedFd> {
    Ok(match stream {
        Stream::Tcp(stream) => stream.into_std()?.into(),
        Stream::Unix(stream) => stream.into_std()?.into(),
    })
}

/// A parcel that came back.
pub struct Returned<S> {
    /// As it was.
    pub parcel: Parcel<S>,
    /// Why, as a word of `ErrorReason`: `TABLE_FULL` the receiver has no room for more descriptors, `SCHEMA_UNREADABLE` it reads
    /// another state, `TARGET_NOT_READY` it took it not in time, `UNREACHABLE` it is gone, `INVALID_FIELD` it knows no such
    /// protocol, or found something else than belongs to it, or dropped it.
    pub reason: String,
    /// Why, in words.
    pub message: String,
}

impl<S> fmt::Debug for Returned<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Returned").field("reason", &self.reason).field("message", &self.message).finish_non_exhaustive()
    }
}

impl<S> fmt::Display for Returned<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection came back: {} ({})", self.message, self.reason)
    }
}

impl<S> std::error::Error for Returned<S> {}

impl<S> fmt::Debug for Departure<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departure").finish_non_exhaustive()
    }
}

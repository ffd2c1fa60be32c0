//! Who owns: roles, and following them.
//!
//! What a watch shows comes from the region (gate and superblock), never from a message: see [`Session::refresh`].
//!
//! [`Session::refresh`]: crate::session::Session::refresh

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use heirloom_region::arbiter::record;
use heirloom_region::error::{Generation, Peer};
use tokio::sync::watch;

/// How a term began.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The region was new.
    First,
    /// The owner had sealed and left; this instance came later and adopted what it left.
    Succession,
    /// A handover to a next version.
    Handover,
    /// A handover back.
    Rollback,
    /// The owner passed on as it left (SIGTERM).
    OwnerLeft,
    /// The owner's death was proved; what it had not written into the region is lost.
    OwnerDied,
}

impl Cause {
    pub(crate) fn from_record(cause: record::Cause) -> Option<Self> {
        Some(match cause {
            record::Cause::First => Cause::First,
            record::Cause::Succession => Cause::Succession,
            record::Cause::Handover => Cause::Handover,
            record::Cause::Rollback => Cause::Rollback,
            record::Cause::OwnerLeft => Cause::OwnerLeft,
            record::Cause::OwnerDied => Cause::OwnerDied,
            _ => return None,
        })
    }
}

/// An instance's role.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Attached; `ready` to own, or not yet.
    Standby {
        /// Whether a handover to it is accepted.
        ready: bool,
    },
    /// Owns this generation.
    Owner(Generation),
    /// Owned this generation, is finishing its work, may be handed back to; when drained it is a ready standby again.
    Draining(Generation),
    /// Has left, or was asked to and is drained; a forked child of an instance.
    Left,
}

/// The link to the sidecar. Independent of the role: a lost link changes no role and stops no data-plane call.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// There.
    Connected,
    /// Gone since then; re-attaching by itself, as the same instance.
    Lost(Instant),
    /// A private region: no sidecar was there at start (`IfAbsent::Local`), or the embedded arbiter.
    Local,
    /// Over since then: this instance has left. [`Left::why`](crate::Left::why) says why, if nobody asked it to.
    Closed(Instant),
}

/// A change of role or generation.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// This instance's role; an [`Observer`](crate::Observer)'s is a standby's that is never ready.
    pub role: Role,
    /// The region's open generation.
    pub generation: Generation,
    /// Who owns; `None` while vacant.
    pub owner: Option<Peer>,
}

/// Follows role and generation; also a `Stream`. It shows the latest, so quick changes coalesce: compare generations.
///
/// ```
/// # use heirloom_client::{embedded::Embedded, wait, Hooks, Role};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let arbiter = Embedded::new("shop")?;
/// let shop = arbiter.attach("v1").wait()?;
/// let mut roles = shop.region().roles();
/// let _serving = wait(shop.ready(Hooks::new()))?;
/// while !matches!(roles.current().role, Role::Owner(_)) {
///     wait(roles.changed());
/// }
/// # Ok(()) }
/// ```
pub struct RoleWatch {
    latest: watch::Receiver<RoleChange>,
    next: Option<Next>,
}

/// A change on its way: it owns a receiver of its own, so that it borrows nothing from the watch.
type Next = Pin<Box<dyn Future<Output = (Option<RoleChange>, watch::Receiver<RoleChange>)> + Send + Sync>>;

impl RoleWatch {
    pub(crate) fn new(latest: watch::Receiver<RoleChange>) -> Self {
        Self { latest, next: None }
    }
    /// The latest, without waiting; not marked as seen.
    pub fn current(&self) -> RoleChange {
        self.latest.borrow().clone()
    }
    /// The next one not yet seen by this watch; `None` once the instance has left. Cancel-safe.
    pub async fn changed(&mut self) -> Option<RoleChange> {
        std::future::poll_fn(|cx| self.poll_changed(cx)).await
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Option<RoleChange>> {
        let latest = &self.latest;
        let next = self.next.get_or_insert_with(|| Box::pin(next_of(latest.clone())));
        let (change, latest) = ready!(next.as_mut().poll(cx));
        (self.latest, self.next) = (latest, None);
        Poll::Ready(change)
    }
}

async fn next_of(mut latest: watch::Receiver<RoleChange>) -> (Option<RoleChange>, watch::Receiver<RoleChange>) {
    // Left is the last word, seen or not: after it there is nothing to wait for.
    let over = latest.borrow().role == Role::Left && !latest.has_changed().unwrap_or(false);
    let change = match over {
        true => None,
        false => latest.changed().await.ok().map(|()| latest.borrow_and_update().clone()),
    };
    (change, latest)
}

impl Clone for RoleWatch {
    fn clone(&self) -> Self {
        Self { latest: self.latest.clone(), next: None }
    }
}

impl fmt::Debug for RoleWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleWatch").field("current", &self.current()).finish()
    }
}

impl futures_core::Stream for RoleWatch {
    type Item = RoleChange;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RoleChange>> {
        self.get_mut().poll_changed(cx)
    }
}

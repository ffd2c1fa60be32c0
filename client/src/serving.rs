//! Readiness, terms and leaving: the linear steps that only this process takes.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use heirloom_region::error::{Error, Peer};
use tokio::runtime::Handle;

use crate::hooks::Hooks;
use crate::region::Region;
use crate::session::Session;
use crate::term::Term;
use crate::work::InFlight;

/// How long a drain goes on that this process began itself, before what is left is reported and the instance leaves.
const DRAIN: Duration = Duration::from_secs(30);

/// Attached and not yet ready: open what you need, then [`ready`](Self::ready).
///
/// Objects opened here are what a handover's verdict on schemas and kinds is about.
/// ```compile_fail,E0382
/// # async fn f(shop: heirloom_client::Attachment) {
/// shop.ready(heirloom_client::Hooks::new()).await;
/// shop.ready(heirloom_client::Hooks::new()).await; // use of moved value
/// # }
/// ```
#[must_use = "dropping it leaves the region"]
#[derive(Debug)]
pub struct Attachment {
    region: Region,
    _leaves: LeavesOnDrop,
}

impl Attachment {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { region: Region { session: session.clone() }, _leaves: LeavesOnDrop(session) }
    }
    /// The data plane. Clone it into whatever needs it.
    pub fn region(&self) -> &Region {
        &self.region
    }
    /// Declares this instance able to own, with what it does during a handover. Returns when the sidecar knows; while the
    /// sidecar is not there, when it is back.
    /// If nobody owns the region, this instance is promoted, and the first [`Serving::next_term`] returns at once.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when an object opened here cannot be read or written as this build wants it;
    /// [`Error::Misuse`] in a forked child. The instance leaves then.
    pub async fn ready(self, hooks: Hooks) -> Result<Serving, Error> {
        let session = &self.region.session;
        session.refuse_a_fork()?;
        session.registry.check()?;
        let runtime = Handle::try_current().ok();
        session.change(|state| {
            state.hooks = hooks;
            state.runtime = runtime;
            state.ready = true;
        });
        session.told_ready().await;
        Ok(Serving { region: self.region, _leaves: self._leaves })
    }
}

/// Ready, owning, draining: from here on a service is what it does in each of its terms of ownership.
///
/// ```compile_fail,E0599
/// # async fn f(mut shop: heirloom_client::Attachment) {
/// shop.next_term().await; // not before ready()
/// # }
/// ```
#[must_use = "dropping it leaves the region"]
#[derive(Debug)]
pub struct Serving {
    region: Region,
    _leaves: LeavesOnDrop,
}

impl Serving {
    /// The data plane.
    pub fn region(&self) -> &Region {
        &self.region
    }
    /// Calls `on_term` for each term of ownership and polls what it returns, several at once where a new term begins
    /// while an old one still drains (a rollback). Ends when the instance has left and is drained, or with the first `Err`.
    /// The call of `on_term` *is* the takeover hook.
    ///
    /// What `on_term` returned counts as work in flight (`terms`) until it is done, so that a drain waits for it: end it
    /// some time after [`Term::ended`].
    ///
    /// ```
    /// # use heirloom_client::{embedded::Embedded, wait, Hooks};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let arbiter = Embedded::new("shop")?;
    /// let shop = arbiter.attach("v1").wait()?;
    /// let sales = shop.region().gauge("open_sales").open()?;
    /// let serving = wait(shop.ready(Hooks::new()))?;
    /// # let sold_out = std::sync::Arc::new(tokio::sync::Notify::new());
    /// serving.leave_when(sold_out.clone().notified_owned()); // SIGTERM, say
    /// let left = wait(serving.run(|term| {
    ///     let sales = sales.clone();
    /// #   let sold_out = sold_out.clone();
    ///     async move {
    ///         sales.set(&term, 1.0)?;
    /// #       sold_out.notify_one();
    ///         term.ended().await;
    ///         Ok::<_, heirloom_client::Error>(())
    ///     }
    /// }))?;
    /// assert_eq!((left.owner, left.undrained), (None, 0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The first of `on_term`'s; the instance leaves in the background then.
    pub async fn run<F, Fut, E>(mut self, mut on_term: F) -> Result<Left, E>
    where
        F: FnMut(Term) -> Fut,
        Fut: IntoFuture<Output = Result<(), E>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(done) = running.next(), if !running.is_empty() => done?,
                term = self.next_term() => match term {
                    Some(term) => {
                        let counts = InFlight::new(&self.region.session, "terms");
                        let work = on_term(term).into_future();
                        running.push(async move {
                            let result = work.await;
                            drop(counts);
                            result
                        });
                    }
                    None => break,
                },
            }
        }
        // Past the drain's deadline: reported as late, never cut.
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(self.region.session.left().await)
    }
    /// What [`run`](Self::run) is made of: waits until this instance owns the region. `None`: it has left and is drained.
    /// Do not finish one term's drain before asking for the next: after a rollback nobody would serve. Cancel-safe.
    pub async fn next_term(&mut self) -> Option<Term> {
        self.region.session.next_term().await
    }
    /// Withdraws or renews readiness; a handover to an instance that is not ready is refused. An owner goes on owning, and is
    /// not for new traffic ([`Region::takes_traffic`]).
    pub fn set_ready(&self, ready: bool) {
        self.region.session.set_ready(ready);
    }
    /// Leaves as soon as `signal` completes (SIGTERM, say): terms end, drains run, then `next_term` gives `None`.
    ///
    /// The signal is awaited on the calling tokio runtime, if there is one, else on the control thread.
    pub fn leave_when(&self, signal: impl Future<Output = ()> + Send + 'static) {
        let session = Arc::downgrade(&self.region.session);
        let runtime = Handle::try_current().unwrap_or_else(|_| self.region.session.control.clone());
        runtime.spawn(async move {
            signal.await;
            if let Some(session) = session.upgrade() {
                session.leave(DRAIN);
            }
        });
    }
    /// As [`leave_when`](Self::leave_when), for instances behind a load balancer that has an address for each: when `signal`
    /// completes, this instance says that it is not for new traffic ([`Region::takes_traffic`], 503 of the probe), goes on
    /// serving for `notice`, and then leaves. The notice is longer than the balancer's checks need to see it.
    ///
    /// Not with a kept [`listener`](Region::listener) alone: its address is the next owner's at once, and needs no notice.
    pub fn leave_when_noticed(&self, signal: impl Future<Output = ()> + Send + 'static, notice: Duration) {
        let (session, control) = (Arc::downgrade(&self.region.session), self.region.session.control.clone());
        self.leave_when(async move {
            signal.await;
            if let Some(session) = session.upgrade() {
                session.set_ready(false);
            }
            // There are timers, wherever the signal is awaited. An error: that runtime has ended, and with it the instance.
            let _ = control.spawn(tokio::time::sleep(notice)).await;
        });
    }
    /// A leaving instance waits at most so long for work of this kind, and no longer than for the rest. What is left then is
    /// counted in [`Left::undrained`]; it is not cut before the process ends.
    pub fn drain_within(&self, kind: &'static str, limit: Duration) {
        self.region.session.change(|state| state.drain_within.insert(kind, limit));
    }
    /// Leaves in order: an owner flushes, seals and passes to the ready standby, or leaves the sealed region vacant.
    /// Waits for the drain, 30 s at most. Dropping `Serving` starts the same in the background.
    ///
    /// A handover to this instance that is under way is decided first: aborted if it may, else this instance owns for a
    /// moment and passes on. Without a sidecar an owner flushes and goes; its proved death then makes the vacancy.
    ///
    /// # Errors
    /// [`Error::Misuse`] in a forked child.
    pub async fn leave(self) -> Result<Left, Error> {
        let session = &self.region.session;
        session.refuse_a_fork()?;
        session.leave(DRAIN);
        Ok(session.left().await)
    }
}

/// How an instance left.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Left {
    /// Who owns now; `None` if the region was left vacant, or that is not known.
    pub owner: Option<Peer>,
    /// In-flight work that was still there at the drain's deadline.
    pub undrained: u64,
    /// Why, if nobody asked for it: the region was created anew, or this instance was taken for dead.
    pub why: Option<String>,
}

/// Starts to leave when the linear value that holds it is dropped.
#[derive(Debug)]
struct LeavesOnDrop(Arc<Session>);

impl Drop for LeavesOnDrop {
    fn drop(&mut self) {
        self.0.leave(DRAIN);
    }
}

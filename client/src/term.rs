//! Terms: the proof that owned writes take.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use heirloom_region::error::{Fenced, Generation, Misuse, Peer, WriteError};

use crate::role::{Cause, Role};
use crate::session::Session;

/// Proof that this instance owned generation g when asked; every owned write checks it again, in about a nanosecond.
///
/// A term belongs to a unit of work: take one per request, before its first read. When ownership left and came back (a
/// rollback), an old term stays fenced, since what its holder read may have been overwritten in between. Clones are the
/// same unit of work. Holding one delays nothing.
///
/// ```
/// # use heirloom_client::{embedded::Embedded, wait, Hooks, WriteError};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let arbiter = Embedded::new("shop")?;
/// let shop = arbiter.attach("v1").wait()?;
/// let open = shop.region().gauge("open_baskets").open()?;
/// let mut serving = wait(shop.ready(Hooks::new()))?;
/// let term = wait(serving.next_term()).expect("nobody asked it to leave");
/// match open.set(&term, 3.0) {
///     Ok(()) => {}
///     Err(WriteError::Fenced(e)) if e.owns_again => { /* read again under a new term */ }
///     Err(e) => return Err(e.into()),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Term {
    unit: Arc<Unit>,
}

/// One unit of work.
struct Unit {
    session: Arc<Session>,
    generation: Generation,
    /// A write was made with this term or a clone: the unit of work is not safe to do again elsewhere.
    wrote: AtomicBool,
}

impl Term {
    pub(crate) fn new(session: Arc<Session>, generation: Generation) -> Self {
        Self { unit: Arc::new(Unit { session, generation, wrote: AtomicBool::new(false) }) }
    }

    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.unit.generation
    }
    /// Whether the generation is still open. Advice, not proof: only the write itself knows.
    pub fn is_current(&self) -> bool {
        self.unit.session.owns(self.unit.generation)
    }
    /// Completes when the term is over: stop accepting, finish what is in flight, let clients close. `Send + 'static`.
    pub fn ended(&self) -> Ended {
        let (mut roles, generation) = (self.unit.session.roles(), self.unit.generation);
        Ended {
            generation,
            over: Box::pin(async move {
                // A closed channel means that the session is gone, and the term with it.
                let _ = roles.wait_for(|now| now.role != Role::Owner(generation)).await;
            }),
        }
    }
    /// How it began; after [`Cause::OwnerDied`] no flush hook has run.
    pub fn cause(&self) -> Cause {
        self.unit.session.facts(self.unit.generation).cause
    }
    /// Who owned before.
    pub fn previous(&self) -> Option<Peer> {
        self.unit.session.facts(self.unit.generation).previous
    }
    /// How long no instance could make an owned write at the switch into this term, as a writer measured it; `None` if
    /// nobody tried to write, or it is not known yet.
    pub fn blackout(&self) -> Option<Duration> {
        self.unit.session.facts(self.unit.generation).blackout
    }

    #[cfg(feature = "axum")]
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.unit.session
    }

    /// Makes one owned write on an object of `home`: checks whose term it is, and says in the error what the caller may do.
    #[inline]
    pub(crate) fn write(
        &self,
        home: &Arc<Session>,
        write: impl FnOnce(Generation) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        self.write_if(home, |generation| write(generation).map(Some)).map(drop)
    }

    /// As [`write`](Self::write), for one that compares first: `Ok(None)` has written nothing.
    #[inline]
    pub(crate) fn write_if<R>(
        &self,
        home: &Arc<Session>,
        write: impl FnOnce(Generation) -> Result<Option<R>, WriteError>,
    ) -> Result<Option<R>, WriteError> {
        self.write_some(home, |generation, wrote| {
            let done = write(generation)?;
            *wrote = done.is_some();
            Ok(done)
        })
    }

    /// As [`write`](Self::write), where a success may have written nothing and an error a part: `write` says so.
    #[inline]
    pub(crate) fn write_some<R>(
        &self,
        home: &Arc<Session>,
        write: impl FnOnce(Generation, &mut bool) -> Result<R, WriteError>,
    ) -> Result<R, WriteError> {
        let unit = &*self.unit;
        if !Arc::ptr_eq(&unit.session, home) {
            return Err(self.foreign(home));
        }
        if unit.session.is_over(unit.generation) {
            return Err(self.explain(Fenced {
                term: unit.generation,
                current: unit.session.generation(),
                owns_again: false,
                nothing_written: false,
            }));
        }
        let mut wrote = false;
        let result = write(unit.generation, &mut wrote);
        if wrote && !unit.wrote.load(Ordering::Relaxed) {
            unit.wrote.store(true, Ordering::Relaxed);
        }
        match result {
            Err(WriteError::Fenced(fenced)) => Err(self.explain(fenced)),
            other => other,
        }
    }

    /// The error of a write that found this term's end by other means than the gate; none while it goes on.
    #[cold]
    pub(crate) fn over(&self) -> Option<WriteError> {
        let session = &self.unit.session;
        session.refresh();
        let (term, current) = (self.unit.generation, session.generation());
        let fenced = Fenced { term, current, owns_again: false, nothing_written: false };
        (current != term).then(|| self.explain(fenced))
    }

    #[cold]
    fn explain(&self, mut fenced: Fenced) -> WriteError {
        let session = &self.unit.session;
        session.refresh();
        let current = session.generation();
        fenced.owns_again = current != self.unit.generation && session.owns(current);
        fenced.nothing_written = !self.unit.wrote.load(Ordering::Relaxed);
        WriteError::Fenced(fenced)
    }

    #[cold]
    fn foreign(&self, home: &Session) -> WriteError {
        let name = |s: &Session| format!("{} ({})", s.region(), s.me().instance);
        WriteError::Misuse(Misuse::ForeignTerm { expected: name(home), found: name(&self.unit.session) })
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term")
            .field("region", &self.unit.session.region())
            .field("generation", &self.unit.generation.get())
            .finish()
    }
}

/// See [`Term::ended`].
#[must_use = "futures do nothing unless awaited"]
pub struct Ended {
    generation: Generation,
    over: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Future for Ended {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.over.as_mut().poll(cx)
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("generation", &self.generation.get()).finish()
    }
}

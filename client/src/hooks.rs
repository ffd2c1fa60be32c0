//! What an instance does during a handover, and running it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use heirloom_region::arbiter::HookSet;
use heirloom_region::error::Peer;

use crate::term::Term;

type Fallible = Pin<Box<dyn Future<Output = Result<(), Veto>> + Send>>;
type Infallible = Pin<Box<dyn Future<Output = ()> + Send>>;
type Hook<A, F> = Option<Arc<dyn Fn(A) -> F + Send + Sync>>;

/// What this instance does during a handover; every hook is optional.
///
/// Hooks run where [`Attachment::ready`](crate::Attachment::ready) was awaited, if that was a tokio runtime, else on the
/// control thread (where a hook that blocks keeps the control plane waiting, never the data plane). A hook that outlives
/// its deadline aborts the handover, and nothing else happens to it. A hook that panics is a veto. An owner without a flush
/// hook is not asked before the freeze: a handover goes past one that is stopped, unless it is stopped within a write.
///
/// ```
/// use heirloom_client::{Hooks, Veto};
///
/// let hooks = Hooks::new()
///     .prepare(|_| async { Ok(()) })
///     .flush(|flush| async move {
///         match flush.target {
///             Some(next) if next.version == "0.9.0" => Err(Veto("0.9.0 loses baskets".into())),
///             _ => Ok(()),
///         }
///     })
///     .resume(|resume| async move { eprintln!("goes on: {}", resume.reason) });
/// # let _ = hooks;
/// ```
#[must_use]
#[derive(Clone, Default)]
pub struct Hooks {
    prepare: Hook<Prepare, Fallible>,
    flush: Hook<Flush, Fallible>,
    resume: Hook<Resume, Infallible>,
}

impl Hooks {
    /// No hooks.
    pub fn new() -> Self {
        Self::default()
    }
    /// On the target, before anything changes: warm up, check. `Err` refuses the handover with its reason.
    pub fn prepare<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Prepare) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Veto>> + Send + 'static,
    {
        self.prepare = Some(Arc::new(move |p| Box::pin(hook(p))));
        self
    }
    /// On the owner, still owning: write what only private memory holds. `Err` aborts the handover with its reason.
    /// Not called when the owner dies; see [`Term::cause`].
    pub fn flush<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Flush) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Veto>> + Send + 'static,
    {
        self.flush = Some(Arc::new(move |f| Box::pin(hook(f))));
        self
    }
    /// On the owner, when a handover aborted after its flush began: undo what the flush stopped.
    pub fn resume<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Resume) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.resume = Some(Arc::new(move |r| Box::pin(hook(r))));
        self
    }

    /// Which are there.
    pub(crate) fn declared(&self) -> HookSet {
        HookSet { prepare: self.prepare.is_some(), flush: self.flush.is_some(), resume: self.resume.is_some() }
    }

    /// Runs the hook for `call`; one that is not there has nothing against it.
    pub(crate) async fn run(self, call: Call) -> Result<(), Veto> {
        match call {
            Call::Prepare(p) => match self.prepare {
                Some(hook) => hook(p).await,
                None => Ok(()),
            },
            Call::Flush(f) => match self.flush {
                Some(hook) => hook(f).await,
                None => Ok(()),
            },
            Call::Resume(r) => {
                if let Some(hook) = self.resume {
                    hook(r).await;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("prepare", &self.prepare.is_some())
            .field("flush", &self.flush.is_some())
            .field("resume", &self.resume.is_some())
            .finish()
    }
}

/// Which hook, with what it is given.
pub(crate) enum Call {
    Prepare(Prepare),
    Flush(Flush),
    Resume(Resume),
}

/// Given to the target before a handover.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Prepare {
    /// Who owns now.
    pub owner: Option<Peer>,
    /// When the handover aborts if this hook has not returned.
    pub deadline: Instant,
}

/// Given to the owner before the freeze.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Flush {
    /// The term that is about to end; owned writes are still made with it.
    pub term: Term,
    /// Who will own; `None` when this instance leaves and nobody takes over yet.
    pub target: Option<Peer>,
    /// When the handover aborts if this hook has not returned.
    pub deadline: Instant,
}

/// Given to the owner after an aborted handover.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Resume {
    /// The term, which goes on.
    pub term: Term,
    /// Why the handover ended.
    pub reason: String,
}

/// A hook's refusal, in words for the person who deploys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veto(pub String);

impl<E: std::error::Error> From<E> for Veto {
    fn from(error: E) -> Self {
        Veto(error.to_string())
    }
}

//! A region and its arbiter in this process: the same types, the same switch, no sidecar, no socket.
//!
//! For tests of your own hooks and terms, and for services of one process. The region lies on the heap, or in a file.
//!
//! ```
//! use heirloom_client::embedded::Embedded;
//! use heirloom_client::{Hooks, wait};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let arbiter = Embedded::new("shop")?;
//! let mut v1 = wait(arbiter.attach("v1").wait()?.ready(Hooks::new()))?;
//! let mut v2 = wait(arbiter.attach("v2").wait()?.ready(Hooks::new()))?;
//! let first = wait(v1.next_term()).expect("not asked to leave");
//! let done = wait(arbiter.handover("v2"))?;
//! assert_eq!(wait(v2.next_term()).map(|term| term.generation()), Some(done.generation));
//! assert!(done.generation > first.generation());
//! # Ok(()) }
//! ```

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use heirloom_region::arbiter::{
    Observer as OnEvent, Outcome, Phase, Record, Refusal, Reply, RollbackRequest, SwitchRequest, Target,
};
use heirloom_region::error::{Error, Generation, Peer};
use heirloom_region::mapping::Mapping;
use tokio::sync::oneshot;

use crate::attach::{self, Attach};
use crate::build;
use crate::facts::peer;
use crate::in_process::InProcess;
use crate::observe::Observer;

/// The arbiter. Dropping the last clone is a sidecar's crash: data planes go on.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<InProcess>,
    file: Option<Arc<Path>>,
}

impl Embedded {
    /// On the heap.
    ///
    /// # Errors
    /// [`Error::Misuse`] name; [`Error::Io`].
    pub fn new(region: &str) -> Result<Self, Error> {
        Ok(Self { inner: InProcess::on_the_heap(region, None)?, file: None })
    }
    /// In the file `dir/region`, as a sidecar would keep it; recovers what is there.
    ///
    /// # Errors
    /// [`Error::NotReady`] while another arbiter keeps it; [`Error::Corrupt`], [`Error::Incompatible`] for a file that is not
    /// a whole region of this format; [`Error::Misuse`] name; [`Error::Io`].
    pub fn open(region: &str, dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        Ok(Self { inner: InProcess::in_a_file(region, dir)?, file: Some(dir.join(region).into()) })
    }
    /// Attaches an instance of this version; takes the same settings as [`attach`](crate::attach()), of which those that
    /// name a sidecar or a region have no effect.
    pub fn attach(&self, version: &str) -> Attach {
        let service = self.inner.mapping().name().to_owned();
        Attach::new(service, attach::Target::Embedded(self.inner.clone())).version(version)
    }
    /// Reads the region from outside; in a file by a read-only mapping of its own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn observe(&self) -> Result<Observer, Error> {
        let mapping = match &self.file {
            None => self.inner.mapping().clone(),
            Some(file) => Mapping::open_file(file, true)?,
        };
        Observer::new(mapping)
    }
    /// Hands over to the ready instance of this version, with the same phases, hooks and verdicts as a sidecar.
    ///
    /// # Errors
    /// [`NotDone`]; the old owner owns.
    pub async fn handover(&self, to_version: &str) -> Result<Done, NotDone> {
        let request = SwitchRequest { target: Target::Version(to_version.to_owned()), ..SwitchRequest::default() };
        let arbiter = self.inner.arbiter();
        decided(|observer, reply| arbiter.handover(request, caller(), observer, reply)).await
    }
    /// Undoes the last handover.
    ///
    /// # Errors
    /// As [`handover`](Self::handover).
    pub async fn rollback(&self) -> Result<Done, NotDone> {
        let (request, arbiter) = (RollbackRequest::default(), self.inner.arbiter());
        decided(|observer, reply| arbiter.rollback(request, caller(), observer, reply)).await
    }
    /// As if the kernel had killed the instances of this version now: their terms are fenced, their shares gone, the region
    /// vacant or promoted. Their handles must not be used for counting any more: a lane may be another's by then.
    pub fn kill(&self, version: &str) {
        for session in self.inner.of_version(version) {
            session.cut("killed".to_owned());
            session.process.abandon();
            self.inner.arbiter().proved_dead(session.process.incarnation());
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("region", &self.inner.mapping().name()).finish()
    }
}

fn caller() -> String {
    format!("uid:{}", build::uid())
}

/// Asks for a switch and waits for its outcome.
async fn decided(ask: impl FnOnce(OnEvent, Reply<Result<Record, Refusal>>)) -> Result<Done, NotDone> {
    let (answer, outcome) = oneshot::channel();
    ask(Box::new(|_| false), Box::new(move |outcome| drop(answer.send(outcome))));
    let record = match outcome.await {
        Ok(Ok(record)) => record,
        Ok(Err(refusal)) => {
            return Err(NotDone::Refused { reason: refusal.reason.as_str(), message: refusal.message });
        }
        Err(_) => {
            let message = "the arbiter is gone".to_owned();
            return Err(NotDone::Refused { reason: "SHUTTING_DOWN", message });
        }
    };
    let figures = &record.figures;
    let blackout = figures.writer_blackout_us.unwrap_or(figures.gate_closed_us);
    match (record.outcome, &record.target) {
        (Outcome::Committed | Outcome::Already, Some(target)) => Ok(Done {
            generation: Generation::new(record.generation),
            owner: peer(target),
            blackout: Duration::from_micros(blackout),
            already: record.outcome == Outcome::Already,
        }),
        _ => {
            let reason = record.reason.unwrap_or_default();
            let (message, phase) = (record.message, record.phase);
            Err(match reason.is_refusal(Some(phase)) {
                true => NotDone::Refused { reason: reason.as_str(), message },
                false => NotDone::Aborted { phase: word(phase), reason: reason.as_str(), message },
            })
        }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Precopy => "pre-copy",
        other => other.as_str(),
    }
}

/// A committed handover.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The new generation.
    pub generation: Generation,
    /// Who owns now.
    pub owner: Peer,
    /// How long nobody could make an owned write: as a writer measured it, else from freeze to open.
    pub blackout: Duration,
    /// The target owned already; nothing was done.
    pub already: bool,
}

/// A handover that did not happen.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// Before anything changed.
    #[error("refused: {reason}: {message}")]
    Refused {
        /// From `heirloom.v1.ErrorReason`.
        reason: &'static str,
        /// In words; a veto's own.
        message: String,
    },
    /// Taken back: the old owner owns under its old generation.
    #[error("aborted in {phase}: {reason}: {message}")]
    Aborted {
        /// prepare, pre-copy, flush, freeze.
        phase: &'static str,
        /// From `heirloom.v1.ErrorReason`.
        reason: &'static str,
        /// In words.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use heirloom_region::arbiter::{Arbiter, Role};

    use super::*;
    use crate::hooks::Hooks;
    use crate::wait::wait;

    /// Who drains a second time says so a second time, though it has as little in flight as before.
    #[test]
    fn every_drain_ends() -> Result<(), Box<dyn std::error::Error>> {
        let arbiter = Embedded::new("shop")?;
        let mut v1 = wait(arbiter.attach("v1").wait()?.ready(Hooks::new()))?;
        wait(v1.next_term());
        let _v2 = wait(arbiter.attach("v2").wait()?.ready(Hooks::new()))?;
        for _ in 0..2 {
            for to in ["v2", "v1"] {
                wait(arbiter.handover(to))?;
                let begin = std::time::Instant::now();
                let draining = || {
                    let soon = Duration::from_secs(10);
                    let status = Arbiter::ask(soon, |reply| arbiter.inner.arbiter().status(reply)).expect("it answers");
                    status.instances.iter().any(|i| i.role == Role::Draining)
                };
                while draining() {
                    assert!(begin.elapsed() < Duration::from_secs(10), "the one before {to} still drains");
                    std::thread::yield_now();
                }
            }
        }
        Ok(())
    }
}

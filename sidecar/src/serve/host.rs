//! One region in this sidecar: its mapping, its arbiter, and who is linked to it.
//!
//! The arbiter decides and runs on its own thread; a host only carries questions to it and its news away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{Failure, names};
use heirloom_region::arbiter::{self, Arbiter, Policy, Record, RegionEvent, RegionStatus, Reply};
use heirloom_region::digest::Keeper;
use heirloom_region::error::Error;
use heirloom_region::inspect::Catalog;
use heirloom_region::mapping::Mapping;
use tokio::sync::{mpsc, oneshot, watch};

use super::convert;
use super::journal::Journal;
use super::own_metrics::HandoverMetrics;
use super::remote_write;
use super::sockets::{Given, Sockets};
use crate::config::{RegionPolicy, Vacancy};
use crate::output;

/// How long the newest record may take to be read at the start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// One region that is served.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) arbiter: Arbiter,
    pub(crate) sockets: Arc<Sockets>,
    /// Once its samples are sent somewhere.
    pub(crate) shipping: OnceLock<Arc<remote_write::Progress>>,
    metrics: Arc<Mutex<HandoverMetrics>>,
    catalog: Mutex<Catalog>,
    links: Mutex<Links>,
    /// Why the region is no longer served, once it is not.
    aside: watch::Sender<Option<Failure>>,
}

/// Which stream speaks for an instance now: a resumed one replaces another that has not noticed yet that it is dead.
#[derive(Default)]
struct Links {
    last: u64,
    current: HashMap<String, u64>,
}

/// That a stream speaks for an instance.
pub(crate) struct LinkMark {
    instance: String,
    pub(crate) number: u64,
    before: Option<u64>,
}

impl Host {
    /// Recovers the region and starts its arbiter. Blocks, inside a runtime; what recovery found is logged.
    ///
    /// # Errors
    /// `Held` if another sidecar has it; `Corrupt` and others if it cannot be served.
    pub(crate) fn start(
        mapping: Arc<Mapping>,
        policy: &RegionPolicy,
        journal: Arc<Journal>,
    ) -> Result<Arc<Host>, Error> {
        let name = mapping.name().to_owned();
        let (keeper, recovery) = Keeper::open(Arc::clone(&mapping))?;
        tracing::info!(region = name, ?recovery, "region opened");
        let arbiter = Arbiter::spawn(keeper, arbiter_policy(policy), Box::new(|_| ()))?;
        let metrics = Arc::new(Mutex::new(HandoverMetrics::default()));
        let newest = Arbiter::ask(START_TIMEOUT, |reply| arbiter.history(1, None, reply)).unwrap_or_default();
        let (decided, records) = mpsc::unbounded_channel();
        tokio::spawn(log(name.clone(), records));
        let mut news =
            News { journal, metrics: Arc::clone(&metrics), decided, last: newest.into_iter().next(), logged: 0 };
        news.logged = news.last.as_ref().filter(|r| r.is_decided()).map_or(0, |r| r.number);
        arbiter.watch(None, Box::new(move |event| news.hear(event)), Box::new(|_| ()));
        let sockets = Sockets::new(&name, Given::here());
        Ok(Arc::new(Host {
            name,
            sockets,
            mapping,
            arbiter,
            shipping: OnceLock::new(),
            metrics,
            catalog: Mutex::default(),
            links: Mutex::default(),
            aside: watch::Sender::new(None),
        }))
    }

    /// Asks the arbiter and waits for its answer.
    ///
    /// # Errors
    /// `SHUTTING_DOWN` if it is gone.
    pub(crate) async fn ask<T: Send + 'static>(&self, call: impl FnOnce(&Arbiter, Reply<T>)) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        call(&self.arbiter, Box::new(move |answer| drop(sender.send(answer))));
        receiver.await.map_err(|_| self.gone())
    }

    /// As [`Host::ask`], for questions that can be refused.
    pub(crate) async fn ask_for<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Arbiter, Reply<Result<T, arbiter::Refusal>>),
    ) -> Result<T, Failure> {
        self.ask(call).await?.map_err(|refusal| convert::refusal(&self.name, refusal))
    }

    /// What a caller is told whose question the arbiter dropped.
    pub(crate) fn gone(&self) -> Failure {
        Failure::new(ErrorReason::ShuttingDown, "the sidecar stops serving this region").region(&*self.name)
    }

    /// The region as it is now.
    pub(crate) async fn status(&self) -> Result<RegionStatus, Failure> {
        self.ask(|arbiter, reply| arbiter.status(reply)).await
    }

    /// The region as the protocol has it.
    pub(crate) async fn region(&self) -> Result<v1::Region, Failure> {
        let status = self.status().await?;
        let last = match status.last_handover {
            Some(number) => self.ask_for(|arbiter, reply| arbiter.record(number, reply)).await.ok(),
            None => None,
        };
        Ok(convert::region(&status, last.as_ref()))
    }

    /// Tells every stream of the region that it is no longer served, and why.
    pub(crate) fn end_streams(&self, why: Failure) {
        self.aside.send_replace(Some(why));
    }

    /// Completes when the region is no longer served.
    pub(crate) async fn set_aside(&self) -> Failure {
        let mut aside = self.aside.subscribe();
        match aside.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_else(|| self.gone()),
            // The sender is this host's.
            Err(_) => self.gone(),
        }
    }

    /// A new stream speaks for `instance` from now on.
    pub(crate) fn link(&self, instance: &str) -> LinkMark {
        let mut links = self.links();
        links.last += 1;
        let number = links.last;
        let before = links.current.insert(instance.to_owned(), number);
        LinkMark { instance: instance.to_owned(), number, before }
    }

    /// The new stream was refused: the one before speaks again.
    pub(crate) fn unlink_refused(&self, mark: &LinkMark) {
        let mut links = self.links();
        if links.current.get(&mark.instance) == Some(&mark.number) {
            match mark.before {
                Some(before) => links.current.insert(mark.instance.clone(), before),
                None => links.current.remove(&mark.instance),
            };
        }
    }

    /// The stream is gone. Only the stream that speaks for the instance tells the arbiter.
    pub(crate) fn unlink(&self, instance: &str, link: u64, incarnation: u64) {
        let mut links = self.links();
        if links.current.get(instance) == Some(&link) {
            links.current.remove(instance);
            self.arbiter.disconnected(incarnation);
        }
    }

    /// Counts an answer that the arbiter's events do not show: refused, already so, only validated.
    pub(crate) fn count(&self, answer: &Result<Record, arbiter::Refusal>) {
        let (outcome, reason) = match answer {
            Ok(record) if record.number == 0 => (record.outcome.as_str(), ""),
            Ok(_) => return,
            Err(refusal) => {
                tracing::info!(region = self.name, %refusal, "handover refused");
                ("refused", refusal.reason.as_str())
            }
        };
        self.metrics().answered(outcome, reason);
    }

    pub(crate) fn metrics(&self) -> MutexGuard<'_, HandoverMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What earlier scrapes have decoded.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the arbiter's events become: journal, metrics, and one log record per handover. Runs on the arbiter's thread.
struct News {
    journal: Arc<Journal>,
    metrics: Arc<Mutex<HandoverMetrics>>,
    decided: mpsc::UnboundedSender<Record>,
    last: Option<Record>,
    logged: u64,
}

impl News {
    fn hear(&mut self, event: RegionEvent) -> bool {
        let RegionEvent { unix_ms, status, record, drained, .. } = event;
        if let Some(record) = &record {
            if record.is_decided() && record.number > self.logged {
                self.logged = record.number;
                self.metrics.lock().unwrap_or_else(PoisonError::into_inner).decided(record);
                let _ = self.decided.send(record.clone());
            }
            if record.is_decided() && self.last.as_ref().is_none_or(|l| l.number <= record.number) {
                self.last = Some(record.clone());
            }
        }
        let region = convert::region(&status, self.last.as_ref());
        let drained = drained.map_or_else(String::new, |who| names::instance(&status.region, &who));
        self.journal.push(region, record.map(|r| convert::record(&status.region, &r)), drained, unix_ms);
        true
    }
}

/// Writes log records elsewhere than on the arbiter's thread: whoever reads our stderr must not hold up a switch.
async fn log(region: String, mut records: mpsc::UnboundedReceiver<Record>) {
    while let Some(record) = records.recv().await {
        let json = output::Handover::from(&convert::record(&region, &record));
        let text = serde_json::to_string(&json).unwrap_or_default();
        tracing::info!(
            target: "heirloom::handover",
            region,
            number = record.number,
            outcome = record.outcome.as_str(),
            reason = record.reason.map(|r| r.as_str()),
            generation = record.generation,
            caller = record.caller,
            record = text,
            "handover decided"
        );
    }
}

/// A region that is not served, as `status` lists it.
pub(crate) fn quarantined(name: &str, error: &Error) -> v1::Region {
    let reason = ErrorReason::from_str_name(error.reason()).unwrap_or(ErrorReason::RegionCorrupt);
    let fault = v1::Fault {
        structure: "region file".into(),
        expected: "a region that can be served".into(),
        found: error.to_string(),
        reason: reason.into(),
        ..v1::Fault::default()
    };
    v1::Region {
        name: names::region(name),
        state: v1::region::State::Quarantined.into(),
        quarantine_fault: Some(fault),
        ..v1::Region::default()
    }
}

fn arbiter_policy(it: &RegionPolicy) -> Policy {
    Policy {
        vacancy: match it.vacancy {
            Vacancy::Promote => arbiter::Vacancy::Promote,
            Vacancy::Hold => arbiter::Vacancy::Hold,
        },
        ready_timeout: it.ready_timeout,
        prepare_timeout: it.prepare_timeout,
        precopy_timeout: it.precopy_timeout,
        flush_timeout: it.flush_timeout,
        freeze_timeout: it.freeze_timeout,
        drain_timeout: it.drain_timeout,
        drain_timeouts: it.drain_timeouts.iter().map(|(kind, within)| (kind.clone(), within.0)).collect(),
        quarantine_deaths: it.quarantine_deaths,
        quarantine_within: it.quarantine_within,
        ..Policy::default()
    }
}

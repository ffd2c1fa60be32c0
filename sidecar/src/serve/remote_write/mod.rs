//! Remote write: the samples of all series go to a Prometheus-compatible store, by the specification 1.0.
//!
//! ```text
//! region ── scan ── one batch ── snappy, POST ── store        a task a shard, `shards` of them a region
//!             ▲                       │
//!             └────── cursors ◄───────┘ taken, or refused for good
//! ```
//!
//! The region is the queue. A shard reads one batch of what is new, sends it until it is settled, and only then reads on. So a
//! store that is slow or away costs no memory; what it misses waits in the region for as long as the retention keeps it, and
//! what the retention took before it was sent is counted and told.
//!
//! **Who is touched: nobody.** Everything is read as an observer reads it, without locks, on threads of its own. Neither the owner
//! nor the arbiter knows of it, and a handover is no event here: the series go on, whoever appends.
//!
//! **Crash.** See `cursors`: a restart makes again what nobody knows about, one batch of each shard, and loses nothing. Of the
//! samples of one series the order is kept.

mod cursors;
mod message;
mod progress;
mod scan;
mod send;
mod shard;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heirloom_region::error::Error;
use heirloom_region::process::Process;
use heirloom_region::series::{SeriesId, SeriesStore};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use progress::Progress;

use super::ServeError;
use super::host::Host;
use super::hosts::Hosts;
use crate::config::{Config, RemoteWrite};
use cursors::Cursors;
use message::Labels;
use scan::Scan;
use send::Store;
use shard::{Shipping, Stopped};

/// How often it is looked for new regions.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What `serve` keeps of it, if it is on.
pub(crate) struct RemoteWriter {
    config: Config,
    store: Arc<Store>,
}

impl RemoteWriter {
    /// `None` if it is off.
    ///
    /// # Errors
    /// [`ServeError::Ended`] for certificates or headers that cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, ServeError> {
        if !config.remote_write.is_on() {
            return Ok(None);
        }
        let store = Store::new(&config.remote_write);
        let store = store.map_err(|message| ServeError::Ended { what: "remote write", message })?;
        Ok(Some(RemoteWriter { config: config.clone(), store: Arc::new(store) }))
    }

    /// Ships every region that is wanted, also those that come later, until `stop`.
    pub(crate) async fn run(self, hosts: Arc<Hosts>, stop: watch::Receiver<bool>) {
        let (mut known, mut regions) = (HashSet::new(), JoinSet::new());
        let mut stopping = stop.clone();
        while !*stop.borrow() {
            for host in hosts.serving() {
                if self.config.remote_write.wants(&host.name) && known.insert(host.mapping.uuid()) {
                    regions.spawn(ship(host, self.config.clone(), Arc::clone(&self.store), stop.clone()));
                }
            }
            // Nobody waits for it to come back, and its error was logged.
            while regions.try_join_next().is_some() {}
            let _ = tokio::time::timeout(LOOK_PERIOD, stopping.wait_for(|stop| *stop)).await;
        }
        while regions.join_next().await.is_some() {}
    }
}

/// Ships one region until the stop, or until it is no longer served.
async fn ship(host: Arc<Host>, config: Config, store: Arc<Store>, stop: watch::Receiver<bool>) {
    let name = host.name.clone();
    let aside = Arc::clone(&host);
    let shipped = async {
        match start(&host, &config, store, stop).await {
            Ok((shipping, series, unsettled)) => run(shipping, series, unsettled).await,
            Err(error) => tracing::error!(region = name, error, "the region's samples are not sent"),
        }
    };
    tokio::select! {
        () = shipped => {}
        _ = aside.set_aside() => tracing::warn!(region = name, "the region is set aside: its samples are sent no longer"),
    }
}

type Started = (Arc<Shipping>, SeriesStore, Vec<Vec<cursors::Part>>);

async fn start(
    host: &Arc<Host>,
    config: &Config,
    store: Arc<Store>,
    stop: watch::Receiver<bool>,
) -> Result<Started, String> {
    let remote = config.remote_write.clone();
    let path = config.server.region_dir.join(format!(".{}.remote-write", host.name));
    let (mapping, uuid) = (Arc::clone(&host.mapping), host.mapping.uuid());
    let (url, shards) = (remote.url.clone(), remote.shards as usize);
    let opened = tokio::task::spawn_blocking(move || {
        let series = Process::observer(mapping).and_then(|process| SeriesStore::open(&process));
        let cursors = Cursors::open(&path, uuid, &url, shards).map_err(|e| format!("{}: {e}", path.display()));
        Ok::<_, String>((series.map_err(|e: Error| e.to_string())?, cursors?))
    });
    let (series, (cursors, unsettled)) = opened.await.map_err(|e| e.to_string())??;
    let progress = Arc::clone(host.shipping.get_or_init(|| Arc::new(Progress::new(remote.shards))));
    tracing::info!(region = host.name, url = remote.url, unsettled = unsettled.len(), "samples are sent");
    let shipping =
        Shipping { region: host.name.clone(), config: remote, store, cursors: Mutex::new(cursors), progress, stop };
    Ok((Arc::new(shipping), series, unsettled))
}

async fn run(shipping: Arc<Shipping>, series: SeriesStore, unsettled: Vec<Vec<cursors::Part>>) {
    if send_again(&shipping, &series, unsettled).await.is_err() {
        return;
    }
    let (shards, mut tasks) = (shipping.config.shards, JoinSet::new());
    for shard in 0..shards {
        let labels = Labels::new(external_labels(&shipping.config, &shipping.region));
        let after = |id: SeriesId| shipping.cursors().of(id);
        match Scan::new(series.clone(), (shard, shards), labels, after) {
            Ok(scan) => drop(tasks.spawn(Arc::clone(&shipping).run(shard, scan))),
            Err(error) => {
                tracing::error!(region = shipping.region, %error, "the series cannot be read: nothing is sent")
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Sends what an earlier run had begun to send, before anything that comes after it.
async fn send_again(
    shipping: &Arc<Shipping>,
    series: &SeriesStore,
    unsettled: Vec<Vec<cursors::Part>>,
) -> Result<(), Stopped> {
    for (slot, parts) in unsettled.into_iter().enumerate() {
        let (shipping, series) = (Arc::clone(shipping), series.clone());
        let reader = Arc::clone(&shipping);
        let read = tokio::task::spawn_blocking(move || {
            let mut labels = Labels::new(external_labels(&reader.config, &reader.region));
            let parts: Vec<_> = parts.into_iter().map(|part| (part, reader.cursors().of(part.0))).collect();
            Scan::again(&series, &mut labels, &parts)
        });
        let Ok(batch) = read.await else { return Err(Stopped) };
        shipping.tell(&batch);
        shipping.settle(slot, &batch).await?;
    }
    Ok(())
}

fn external_labels(config: &RemoteWrite, region: &str) -> BTreeMap<String, String> {
    let mut labels = config.external_labels.clone();
    if !config.region_label.is_empty() {
        labels.insert(config.region_label.clone(), region.to_owned());
    }
    labels
}

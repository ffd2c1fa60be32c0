//! One shard of one region: reads, sends, and goes on only when that is settled.
//!
//! So there is never more than one request in memory, and none behind it: a slow store makes the cursors fall behind, nothing
//! else. At a stop a request under way is waited for; one that waits to be repeated is left to the next start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cursors::Cursors;
use super::message::Body;
use super::progress::Progress;
use super::scan::{Batch, Scan};
use super::send::{Answer, Store};
use crate::config::RemoteWrite;

/// How often a request that fails for long is logged.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// How long a request under way may take after the stop: longer than it does if the store answers at all.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the shards of one region share.
pub(super) struct Shipping {
    pub(super) region: String,
    pub(super) config: RemoteWrite,
    pub(super) store: Arc<Store>,
    pub(super) cursors: Mutex<Cursors>,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: watch::Receiver<bool>,
}

/// The sidecar, or the serving of this region, ends.
#[derive(Debug)]
pub(super) struct Stopped;

impl Shipping {
    /// Ships what is there and what comes, until the stop.
    pub(super) async fn run(self: Arc<Self>, shard: u32, scan: Scan) -> Result<(), Stopped> {
        let samples_max = self.config.batch_samples as usize;
        let mut scan = Some(scan);
        loop {
            let (began, mut is_full) = (Instant::now(), false);
            loop {
                let Some(mut now) = scan.take() else { return Err(Stopped) };
                let stop = self.stop.clone();
                // Reads the region: not on the threads that answer others.
                let read = tokio::task::spawn_blocking(move || {
                    let batch = now.next(samples_max, &|| *stop.borrow());
                    (now, batch)
                });
                let Ok((mut now, batch)) = read.await else { return Err(Stopped) };
                let batch = match batch {
                    Ok(batch) => batch,
                    Err(error) => {
                        tracing::error!(region = self.region, %error, "the series cannot be read: nothing more is sent");
                        return Err(Stopped);
                    }
                };
                self.tell(&batch);
                is_full |= batch.samples >= samples_max as u64;
                self.deliver(shard as usize, &batch).await?;
                now.settled(&batch);
                scan = Some(now);
                if *self.stop.borrow() {
                    return Err(Stopped);
                }
                if batch.ends_pass {
                    break;
                }
            }
            // After a full request some series may have more.
            if !is_full {
                self.progress.caught_up(shard, began);
                self.sleep(self.config.interval).await?;
            }
        }
    }

    /// Sends a batch until it is settled.
    pub(super) async fn deliver(&self, shard: usize, batch: &Batch) -> Result<(), Stopped> {
        if batch.parts.is_empty() {
            return Ok(());
        }
        self.settle(shard, batch).await
    }

    /// As [`deliver`](Self::deliver); a batch of nothing takes the place of what the shard was sending.
    pub(super) async fn settle(&self, shard: usize, batch: &Batch) -> Result<(), Stopped> {
        self.note(self.cursors().sending(shard, batch.parts.clone()));
        if batch.samples > 0 {
            self.send(&batch.body, batch.samples).await?;
        }
        self.note(self.cursors().settled(shard));
        Ok(())
    }

    async fn send(&self, body: &Body, samples: u64) -> Result<(), Stopped> {
        let Ok(body) = snap::raw::Encoder::new().compress_vec(&body.0) else {
            // Snappy takes less than 4 GiB, and a batch has some megabytes.
            self.progress.failed("too_large", samples);
            return Ok(());
        };
        let body = axum::body::Bytes::from(body);
        let (mut backoff, mut told) = (self.config.backoff_min, None::<Instant>);
        loop {
            let answer = tokio::select! {
                answer = self.store.post(body.clone()) => answer,
                () = self.stopped_for(STOP_GRACE) => return Err(Stopped),
            };
            match answer {
                Answer::Taken => {
                    Progress::add(&self.progress.samples, samples);
                    if told.is_some() {
                        tracing::info!(region = self.region, "the store takes samples again");
                    }
                    return Ok(());
                }
                Answer::Refused { reason, message } => {
                    tracing::warn!(
                        region = self.region,
                        samples,
                        reason,
                        message,
                        "the store refused samples: they are not sent again"
                    );
                    self.progress.failed(&reason, samples);
                    return Ok(());
                }
                Answer::Again { message, after } => {
                    let wait = after.unwrap_or_default().max(jittered(backoff));
                    if told.is_none_or(|told| told.elapsed() > LOG_PERIOD) {
                        tracing::warn!(
                            region = self.region,
                            message,
                            ?wait,
                            "the store takes no samples now: they wait in the region"
                        );
                        told = Some(Instant::now());
                    }
                    self.sleep(wait).await?;
                    Progress::add(&self.progress.retries, 1);
                    backoff = (backoff * 2).min(self.config.backoff_max);
                }
            }
        }
    }

    pub(super) fn tell(&self, batch: &Batch) {
        let region = &self.region;
        if batch.gaps > 0 {
            tracing::warn!(region, series = batch.gaps, "samples had expired before they were sent");
            Progress::add(&self.progress.gaps, batch.gaps);
        }
        if let Some(fault) = &batch.fault {
            tracing::error!(
                region,
                series = batch.unreadable,
                fault,
                "series that cannot be read are not sent until they change"
            );
            Progress::add(&self.progress.unreadable, batch.unreadable);
        }
        if batch.skipped > 0 {
            tracing::warn!(
                region,
                chunks = batch.skipped,
                "chunks of an encoding that this build does not know are not sent"
            );
            Progress::add(&self.progress.skipped_chunks, batch.skipped);
        }
    }

    async fn sleep(&self, time: Duration) -> Result<(), Stopped> {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            _ = stop.wait_for(|stop| *stop) => Err(Stopped),
        }
    }

    /// Completes some time after the stop.
    async fn stopped_for(&self, grace: Duration) {
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
        tokio::time::sleep(grace).await;
    }

    pub(super) fn cursors(&self) -> std::sync::MutexGuard<'_, Cursors> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without the file samples are sent all the same: a restart then sends more of them again.
    fn note(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            tracing::error!(region = self.region, %error, "the cursors cannot be written: a restart would send samples again");
        }
    }
}

/// Between three quarters of a time and the whole, so that shards do not come all at once.
fn jittered(time: Duration) -> Duration {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    time * 3 / 4 + time / 4 * u32::from(byte[0]) / 255
}

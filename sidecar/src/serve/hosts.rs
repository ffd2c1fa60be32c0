//! All regions of this sidecar: found at the start, made at the first attach, set aside when corrupt.
//!
//! A region's file is its existence. At the start every file is recovered before anyone is served; one that cannot be is
//! listed with its fault while the others serve, and is never written. Where a new instance goes is decided and acted on
//! under one lock, so two instances that come at once neither create a region twice nor take the same vacancy.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{Failure, names};
use heirloom_region::arbiter::{Assignment, Replica, Role, State, assign};
use heirloom_region::error::{Error, NotReady};
use heirloom_region::mapping::{Mapping, RegionSpec};
use heirloom_region::name;
use tokio::sync::{Mutex, MutexGuard};

use super::host::{Host, quarantined};
use super::journal::Journal;
use super::region_files::{region_files, same_name};
use super::{ServeError, convert, socket};
use crate::config::Config;

/// Names that an answer lists.
const NAMES_TOLD_MAX: usize = 8;
/// Where `HEIRLOOM_REPLICA` leaves the choice to the sidecar.
const AUTO: &str = "auto";

#[derive(Clone)]
pub(crate) enum Slot {
    Serving(Arc<Host>),
    Quarantined(Arc<v1::Region>),
}

pub(crate) struct Hosts {
    config: Config,
    pub(crate) journal: Arc<Journal>,
    slots: RwLock<BTreeMap<String, Slot>>,
    placing: Mutex<()>,
    pub(crate) quarantined_total: AtomicU64,
}

/// Who wants in, and where.
pub(crate) struct Wish<'a> {
    pub(crate) service: &'a str,
    pub(crate) replica: &'a str,
    pub(crate) version: &'a str,
    pub(crate) read_only: bool,
    pub(crate) limit_bytes: u64,
}

/// Where an instance goes. While an automatic choice is not acted on, no other is made.
pub(crate) struct Place<'a> {
    pub(crate) host: Arc<Host>,
    pub(crate) chosen: Option<MutexGuard<'a, ()>>,
}

impl Hosts {
    /// Opens every region of the directory. Blocks.
    ///
    /// # Errors
    /// [`ServeError::Busy`] if another sidecar holds one; [`ServeError::Io`] if the directory cannot be read.
    pub(crate) fn open(config: &Config, journal: Arc<Journal>) -> Result<Self, ServeError> {
        let dir = &config.server.region_dir;
        socket::make_directory(dir)?;
        let hosts = Hosts {
            config: config.clone(),
            journal,
            slots: RwLock::default(),
            placing: Mutex::default(),
            quarantined_total: AtomicU64::new(0),
        };
        for (name, path) in region_files(dir)? {
            let opened = Mapping::open_file(&path, false)
                .and_then(|mapping| same_name(&name, mapping))
                .and_then(|m| hosts.open_host(m));
            match opened {
                Ok(host) => hosts.set(&name, Slot::Serving(host)),
                Err(Error::NotReady(NotReady::Held { .. })) => {
                    let holder = "the holder of the region's lock".into();
                    return Err(ServeError::Busy { what: format!("region {name} in {}", dir.display()), holder });
                }
                Err(error) => hosts.set_aside(&name, &error),
            }
        }
        Ok(hosts)
    }

    /// Every region, by name.
    pub(crate) fn all(&self) -> Vec<(String, Slot)> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(n, s)| (n.clone(), s.clone())).collect()
    }

    /// The regions that are served.
    pub(crate) fn serving(&self) -> Vec<Arc<Host>> {
        self.all()
            .into_iter()
            .filter_map(|(_, slot)| if let Slot::Serving(host) = slot { Some(host) } else { None })
            .collect()
    }

    /// A region by its bare name, also one in quarantine.
    ///
    /// # Errors
    /// `INVALID_NAME`, `REGION_NOT_FOUND`.
    pub(crate) fn slot(&self, name: &str) -> Result<Slot, Failure> {
        name::region(name).map_err(|e| convert::misuse(&e))?;
        self.get(name).ok_or_else(|| {
            let all = self.all();
            let mut known: Vec<_> = all.iter().map(|(name, _)| name.as_str()).take(NAMES_TOLD_MAX).collect();
            if all.len() > NAMES_TOLD_MAX {
                known.push("…");
            }
            let expected = match known.as_slice() {
                [] => "the name of a region; there is none yet".to_owned(),
                known => format!("one of {}", known.join(", ")),
            };
            Failure::new(ErrorReason::RegionNotFound, format!("there is no region {name}"))
                .expected(expected)
                .found(name)
                .region(name)
        })
    }

    /// A served region by its bare name.
    ///
    /// # Errors
    /// `INVALID_NAME`, `REGION_NOT_FOUND`, `REGION_QUARANTINED`.
    pub(crate) fn host(&self, name: &str) -> Result<Arc<Host>, Failure> {
        match self.slot(name)? {
            Slot::Serving(host) => Ok(host),
            Slot::Quarantined(region) => Err(in_quarantine(name, &region)),
        }
    }

    /// A served region by its resource name.
    ///
    /// # Errors
    /// As [`Hosts::host`].
    pub(crate) fn named(&self, resource: &str) -> Result<Arc<Host>, Failure> {
        let name = names::parse_region(resource).ok_or_else(|| bad_name(resource, "regions/{region}"))?;
        self.host(name)
    }

    /// The region for a new instance; made if it is missing and may be.
    ///
    /// # Errors
    /// `INVALID_NAME`, `REGION_NOT_FOUND` for an observer of a missing one, `REGION_QUARANTINED`, `REGION_FULL`,
    /// `TABLE_FULL` if the service has all its replicas.
    pub(crate) async fn place(&self, wish: &Wish<'_>) -> Result<Place<'_>, Failure> {
        name::service(wish.service).map_err(|e| convert::misuse(&e))?;
        name::version(wish.version).map_err(|e| convert::misuse(&e))?;
        let guard = self.placing.lock().await;
        let auto = wish.replica == AUTO;
        let replica = if auto { self.choose(wish).await? } else { wish.replica.to_owned() };
        let name = if replica.is_empty() { wish.service.to_owned() } else { format!("{}.{replica}", wish.service) };
        let host = match self.host(&name) {
            Err(missing) if missing.reason == ErrorReason::RegionNotFound && !wish.read_only => {
                self.create(&name, wish.limit_bytes).await?
            }
            found => found?,
        };
        Ok(Place { host, chosen: auto.then_some(guard) })
    }

    async fn choose(&self, wish: &Wish<'_>) -> Result<String, Failure> {
        let mut regions = Vec::new();
        for (region, slot) in self.all() {
            let Ok(parts) = name::region(&region) else { continue };
            if parts.service != wish.service {
                continue;
            }
            let replica = parts.replica.unwrap_or_default().to_owned();
            let Slot::Serving(host) = slot else {
                regions.push(Replica { replica, closed: true, ..Replica::default() });
                continue;
            };
            let status = host.status().await?;
            let waits = |i: &&heirloom_region::arbiter::InstanceStatus| {
                i.role == Role::Standby && i.generation == 0 && !i.leaving
            };
            regions.push(Replica {
                replica,
                created: host.mapping.header().created_unix_ms,
                owner_version: status.owner.map(|o| o.version),
                standbys: status.instances.iter().filter(waits).count(),
                closed: status.state == State::Quarantined,
            });
        }
        let replicas_max = self.config.policy(wish.service).replicas_max;
        match assign(&regions, wish.version, replicas_max as usize) {
            Assignment::Join(replica) | Assignment::Create(replica) => Ok(replica),
            Assignment::Full { replicas_max } => {
                let failure =
                    Failure::new(ErrorReason::TableFull, format!("every replica of {} is taken", wish.service));
                Err(failure.expected(format!("at most {replicas_max} replicas")).found(regions.len()))
            }
        }
    }

    async fn create(&self, name: &str, limit_bytes: u64) -> Result<Arc<Host>, Failure> {
        let policy = self.config.policy(name);
        let spec = RegionSpec {
            name: name.to_owned(),
            limit_bytes: if limit_bytes == 0 { policy.limit.0 } else { limit_bytes },
            instances_max: policy.instances_max,
            lanes_max: policy.lanes_max,
            slots_max: policy.slots_max,
            series_max: policy.series_max,
            history_max: policy.history_max,
        };
        let (dir, journal) = (self.config.server.region_dir.clone(), Arc::clone(&self.journal));
        let made = tokio::task::spawn_blocking(move || {
            let path = dir.join(&spec.name);
            // A file that appeared since the start is no reason to lose what is in it.
            let mapping =
                if path.exists() { Mapping::open_file(&path, false)? } else { Mapping::create_file(&dir, &spec)? };
            Host::start(same_name(&spec.name, mapping)?, &policy, journal)
        });
        let host = made
            .await
            .map_err(|_| Failure::new(ErrorReason::Unspecified, "creating the region failed").region(name))?;
        let host = host.map_err(|e| convert::error(name, &e))?;
        tracing::info!(region = name, "region created");
        self.set(name, Slot::Serving(Arc::clone(&host)));
        Ok(host)
    }

    /// Takes regions out of service whose memory failed under them.
    pub(crate) async fn set_aside_the_poisoned(&self) {
        for host in self.serving() {
            if let Some(fault) = host.mapping.poisoned() {
                let error = Error::Corrupt(fault);
                self.set_aside(&host.name, &error);
                host.end_streams(in_quarantine(&host.name, &quarantined(&host.name, &error)));
                let arbiter = host.arbiter.clone();
                let _ = tokio::task::spawn_blocking(move || arbiter.shutdown()).await;
            }
        }
    }

    /// Ends every arbiter; data planes go on.
    pub(crate) async fn shutdown(&self) {
        let slots = std::mem::take(&mut *self.slots.write().unwrap_or_else(PoisonError::into_inner));
        let arbiters: Vec<_> = slots
            .into_values()
            .filter_map(|slot| if let Slot::Serving(host) = slot { Some(host.arbiter.clone()) } else { None })
            .map(|arbiter| tokio::task::spawn_blocking(move || arbiter.shutdown()))
            .collect();
        for arbiter in arbiters {
            let _ = arbiter.await;
        }
    }

    fn open_host(&self, mapping: Arc<Mapping>) -> Result<Arc<Host>, Error> {
        let policy = self.config.policy(mapping.name());
        Host::start(mapping, &policy, Arc::clone(&self.journal))
    }

    fn set_aside(&self, name: &str, error: &Error) {
        tracing::error!(region = name, %error, "region in quarantine");
        self.quarantined_total.fetch_add(1, Ordering::Relaxed);
        let region = quarantined(name, error);
        self.journal.push(region.clone(), None, String::new(), super::unix_ms());
        self.set(name, Slot::Quarantined(Arc::new(region)));
    }

    fn get(&self, name: &str) -> Option<Slot> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn set(&self, name: &str, slot: Slot) {
        self.slots.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), slot);
    }
}

/// What is told of a region that was set aside.
fn in_quarantine(name: &str, region: &v1::Region) -> Failure {
    let fault = region.quarantine_fault.clone().unwrap_or_default();
    let failure = Failure::new(ErrorReason::RegionQuarantined, format!("{name} is in quarantine: {}", fault.found));
    failure.expected(fault.expected).found(fault.found).region(name)
}

/// A resource name of the wrong shape.
pub(crate) fn bad_name(found: &str, expected: &str) -> Failure {
    Failure::new(ErrorReason::InvalidName, "this is not the name that is wanted here").expected(expected).found(found)
}

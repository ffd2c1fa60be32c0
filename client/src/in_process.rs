//! A region and its arbiter in this process: what [`crate::embedded`] and [`IfAbsent::Local`](crate::IfAbsent::Local) run on.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use heirloom_region::arbiter::{Arbiter, Policy, Reason, Refusal};
use heirloom_region::digest::Keeper;
use heirloom_region::error::{Corrupt, Denied, Error, Full, Misuse, NotReady};
use heirloom_region::mapping::{Mapping, RegionSpec};

use crate::build;
use crate::net::Shared;
use crate::session::Session;

/// Limit of a region that nobody gave one.
const LIMIT_BYTES: u64 = 256 << 20;

pub(crate) struct InProcess {
    mapping: Arc<Mapping>,
    arbiter: Arbiter,
    attached: Mutex<Vec<Weak<Session>>>,
    /// Kept for as long as this region: one table for all instances, since they are of one process.
    pub(crate) sockets: Shared,
}

impl InProcess {
    pub(crate) fn on_the_heap(region: &str, limit_bytes: Option<u64>) -> Result<Arc<Self>, Error> {
        heirloom_region::name::region(region)?;
        Self::keep(Mapping::heap(&RegionSpec::new(region, limit_bytes.unwrap_or(LIMIT_BYTES)))?)
    }

    /// In `dir/region`: what is there, else a new one.
    #[cfg(feature = "embedded")]
    pub(crate) fn in_a_file(region: &str, dir: &std::path::Path) -> Result<Arc<Self>, Error> {
        heirloom_region::name::region(region)?;
        let file = dir.join(region);
        let mapping = match file.exists() {
            true => Mapping::open_file(&file, false)?,
            false => Mapping::create_file(dir, &RegionSpec::new(region, LIMIT_BYTES))?,
        };
        if mapping.name() != region {
            let (what, expected, found) = ("region name", region.to_owned(), mapping.name().to_owned());
            return Err(Corrupt::Identity { what, expected, found }.into());
        }
        Self::keep(mapping)
    }

    fn keep(mapping: Arc<Mapping>) -> Result<Arc<Self>, Error> {
        let (keeper, _recovery) = Keeper::open(mapping.clone())?;
        let arbiter = Arbiter::spawn(keeper, Policy::default(), Box::new(|_| ()))?;
        Ok(Arc::new(Self { mapping, arbiter, attached: Mutex::default(), sockets: Shared::default() }))
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
    pub(crate) fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }
    /// Remembers who attached, so that it can be found again.
    pub(crate) fn register(&self, session: &Arc<Session>) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.retain(|session| session.strong_count() > 0);
        attached.push(Arc::downgrade(session));
    }
    /// Those of this version that have not left.
    #[cfg(feature = "embedded")]
    pub(crate) fn of_version(&self, version: &str) -> Vec<Arc<Session>> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let living = attached.iter().filter_map(Weak::upgrade);
        living.filter(|session| session.me().version == version && !session.has_left()).collect()
    }

    /// The error that a refused attach stands for.
    pub(crate) fn error(refusal: &Refusal) -> Error {
        let (message, region) = (refusal.message.clone(), String::new());
        match refusal.reason {
            Reason::InvalidName | Reason::InvalidField => Misuse::Argument { what: "attach", found: message }.into(),
            Reason::CallerDenied => Denied { uid: build::uid(), what: message }.into(),
            Reason::TableFull => {
                let limit = refusal.expected.as_deref().and_then(|n| n.parse().ok()).unwrap_or_default();
                Full::Table { table: "instances", limit }.into()
            }
            Reason::RegionCorrupt | Reason::RegionQuarantined => Corrupt::Quarantined { why: message }.into(),
            Reason::ShuttingDown => NotReady::Held { region }.into(),
            _ => Error::io("attach", None, std::io::Error::other(refusal.to_string())),
        }
    }
}

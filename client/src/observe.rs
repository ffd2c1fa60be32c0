//! Reading a region without being part of it: a read-only mapping, so a type of its own without any write.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use heirloom_proto::v1::attach_request::Hello;
use heirloom_region::error::{Error, NotReady};
use heirloom_region::mapping::Mapping;
use heirloom_region::objects::{self, CellSpec};
use heirloom_region::process::Process;
use heirloom_region::series::SeriesStore;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{oneshot, watch};

use crate::attach::SOCKET;
use crate::cell::Format;
use crate::control::spawn;
use crate::dial::{self, DialError};
use crate::exposition::{self, Exposition};
use crate::open::FORMAT_MAJORS;
use crate::role::{Role, RoleChange, RoleWatch};
use crate::series::Reader;
use crate::session::owner_peer;

/// Longest that the watcher sleeps: it looks whether the observer is still there.
const WATCH: Duration = Duration::from_millis(500);

/// Attaches read-only. The kernel, not this crate, keeps an observer from writing. `HEIRLOOM_SOCKET` says where the sidecar
/// listens.
///
/// ```no_run
/// # async fn f() -> Result<(), heirloom_client::Error> {
/// let shop = heirloom_client::observe("shop").await?;
/// let basket: Option<Vec<String>> = shop.cell("basket", 1)?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// As for [`attach`](crate::attach()); [`Error::NotReady`] if no sidecar answers at once; [`Error::NotFound`] if there is no
/// such region: none is created.
pub async fn observe(region: &str) -> Result<Observer, Error> {
    heirloom_region::name::region(region)?;
    let socket = std::env::var_os("HEIRLOOM_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from);
    let (service, replica) = region.split_once('.').unwrap_or((region, ""));
    let hello = Hello {
        service: service.to_owned(),
        replica: replica.to_owned(),
        version: "observer".to_owned(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        region_format_majors: FORMAT_MAJORS.to_vec(),
        read_only: true,
        pid: std::process::id(),
        ..Hello::default()
    };
    let (answer, opened) = oneshot::channel();
    // The network part needs a runtime, and the caller need not have one.
    spawn("heirloom-observe", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(look(socket, hello)),
            Err(e) => Err(Error::io("start the control runtime", None, e)),
        };
        drop(answer.send(result));
    })?;
    let gone = || Error::io("observe", None, std::io::Error::other("the control thread ended"));
    Observer::new(opened.await.map_err(|_| gone())??)
}

/// The stream ends once the descriptor is here: an observer is no part of the region.
async fn look(socket: PathBuf, hello: Hello) -> Result<Arc<Mapping>, Error> {
    let dialled = dial::dial(&socket, hello).await.map_err(|e| match e {
        DialError::Refused(error) => error,
        DialError::Absent(_) | DialError::Unknown(_) => {
            NotReady::Unreachable { socket: socket.clone(), waited: Duration::ZERO }.into()
        }
    })?;
    let (uuid, descriptors) = dial::descriptors(&dialled.welcome).await?;
    let no_region = || dial::protocol(&socket, "no descriptor of the region");
    let mapping = Mapping::from_fd(descriptors.into_iter().next().ok_or_else(no_region)?, Some(uuid))?;
    dialled.live.close(Duration::from_secs(1)).await;
    Ok(mapping)
}

/// A region seen from outside.
///
/// ```
/// # use heirloom_client::embedded::Embedded;
/// # fn main() -> Result<(), heirloom_client::Error> {
/// let shop = Embedded::new("shop")?.observe()?;
/// assert_eq!(shop.cell::<Vec<String>>("basket", 1)?, None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Observer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Arc<Process>,
    roles: watch::Sender<RoleChange>,
    /// All handles to the series share one index.
    series: OnceLock<Reader>,
}

impl Observer {
    pub(crate) fn new(mapping: Arc<Mapping>) -> Result<Self, Error> {
        let process = Process::observer(mapping)?;
        let roles = watch::Sender::new(now(&process));
        let inner = Arc::new(Inner { process: process.clone(), roles, series: OnceLock::new() });
        let weak = Arc::downgrade(&inner);
        spawn("heirloom-gate", move || follow(&process, &weak))?;
        Ok(Self { inner })
    }
    /// The value of a cell without labels, if the cell is there and was written; in this schema.
    ///
    /// # Errors
    /// [`Error::Incompatible`] another schema or kind; [`Error::Corrupt`]; [`Error::NotReady`] when writers were faster
    /// 16 times over; [`Error::Misuse`] name.
    pub fn cell<T: Serialize + DeserializeOwned + Send + Sync + 'static>(
        &self,
        name: &str,
        schema: u32,
    ) -> Result<Option<T>, Error> {
        let cell = objects::open_cell(&self.inner.process, &CellSpec { name, labels: &[], bytes_max: 0 })?;
        cell.read()?.map(|found| Format::new(schema).decode(name, &found.parts)).transpose()
    }
    /// Time series, as Prometheus keeps them; see [`series`](crate::series).
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn series(&self) -> Result<Reader, Error> {
        let inner = &*self.inner;
        Ok(match inner.series.get() {
            Some(reader) => reader.clone(),
            None => {
                let reader = Reader::new(SeriesStore::open(&inner.process)?);
                inner.series.get_or_init(|| reader).clone()
            }
        })
    }
    /// Follows generation and owner.
    pub fn roles(&self) -> RoleWatch {
        RoleWatch::new(self.inner.roles.subscribe())
    }
    /// Writes all metrics.
    ///
    /// # Errors
    /// None of its own; what cannot be read is left out.
    pub fn encode_metrics(&self, out: &mut String, format: Exposition) -> Result<(), Error> {
        exposition::encode(self.inner.process.mapping(), out, format);
        Ok(())
    }
}

fn now(process: &Process) -> RoleChange {
    let (generation, owner) = (process.gate().generation(), owner_peer(process));
    RoleChange { role: Role::Standby { ready: false }, generation, owner }
}

fn follow(process: &Process, inner: &Weak<Inner>) {
    let mut last = process.gate();
    while let Some(inner) = inner.upgrade() {
        let now = now(process);
        inner.roles.send_if_modified(|shown| {
            let changed = *shown != now;
            *shown = now;
            changed
        });
        drop(inner);
        last = process.watch(last, WATCH);
    }
}

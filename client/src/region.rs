//! The data plane of an attached region.

use std::fmt;
use std::sync::Arc;

use heirloom_region::error::{Error, Generation, Misuse, NotOwner, Peer};
use heirloom_region::series::SeriesStore;
use serde::{Serialize, de::DeserializeOwned};

use crate::cell::OpenCell;
use crate::exposition::{self, Exposition};
use crate::net::{OpenListener, Parcels};
use crate::object::{Counter, FloatCounter, Gauge, Histogram, Open, UpDownGauge};
use crate::role::{Link, Role, RoleWatch};
use crate::series::{Reader, Store};
use crate::session::Session;
use crate::term::Term;
use crate::view::{self, View};
use crate::work::InFlight;

/// The data plane of an attached region: cheap to clone, usable from any thread, needs no sidecar.
///
/// Opening is open-or-create, lock-free across processes, and idempotent: the same name, labels and kind give the same
/// object. Do it once and keep the handle. A forked child's handles fail with [`Error::Misuse`]; it must attach anew.
///
/// ```
/// # use heirloom_client::embedded::Embedded;
/// # fn main() -> Result<(), heirloom_client::Error> {
/// # let attachment = Embedded::new("shop")?.attach("v1").wait()?;
/// let shop = attachment.region();
/// let requests = shop.counter("shop_requests_total").help("Requests served.").open()?;
/// requests.inc();
/// assert_eq!((shop.name(), requests.total()), ("shop", 1));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Region {
    pub(crate) session: Arc<Session>,
}

impl Region {
    /// The region's name.
    pub fn name(&self) -> &str {
        self.session.region()
    }
    /// This instance.
    pub fn me(&self) -> &Peer {
        self.session.me()
    }
    /// This instance's role now.
    pub fn role(&self) -> Role {
        self.session.role()
    }
    /// The region's open generation now. Wait-free.
    pub fn generation(&self) -> Generation {
        self.session.generation()
    }
    /// Follows role and generation.
    pub fn roles(&self) -> RoleWatch {
        RoleWatch::new(self.session.roles())
    }
    /// Whether the sidecar is there; no data-plane call depends on it.
    pub fn link(&self) -> Link {
        self.session.link()
    }
    /// The proof that this instance owns now; take one per unit of work, before its first read. Wait-free for an owner.
    ///
    /// # Errors
    /// [`NotOwner`], with who does.
    pub fn term(&self) -> Result<Term, NotOwner> {
        self.session.term()
    }

    /// A counter of `u64`, written by every instance.
    pub fn counter(&self, name: &str) -> Open<'_, Counter> {
        Open::new(&self.session, name)
    }
    /// A counter of `f64`, written by every instance.
    pub fn float_counter(&self, name: &str) -> Open<'_, FloatCounter> {
        Open::new(&self.session, name)
    }
    /// A histogram with fixed buckets, written by every instance.
    pub fn histogram(&self, name: &str) -> Open<'_, Histogram> {
        Open::new(&self.session, name)
    }
    /// A gauge that is the sum of the living instances' shares: open connections.
    pub fn up_down_gauge(&self, name: &str) -> Open<'_, UpDownGauge> {
        Open::new(&self.session, name)
    }
    /// A gauge with one value, set by the owner: queue length, configured limit.
    pub fn gauge(&self, name: &str) -> Open<'_, Gauge> {
        Open::new(&self.session, name)
    }
    /// One `serde` value.
    pub fn cell<T: Serialize + DeserializeOwned + Send + Sync + 'static>(&self, name: &str) -> OpenCell<'_, T> {
        OpenCell::new(&self.session, name)
    }

    /// Time series, as Prometheus keeps them; see [`series`](crate::series).
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Misuse`] in a forked child.
    pub fn series(&self) -> Result<Store, Error> {
        let process = self.session.opens()?;
        let reader = match self.session.series.get() {
            Some(reader) => reader,
            None => {
                let reader = Reader::new(SeriesStore::open(process)?);
                self.session.series.get_or_init(|| reader)
            }
        };
        Ok(Store::new(reader.clone(), self.session.clone()))
    }

    /// The socket kept under `name`, or a new one at `address` that is then kept: `127.0.0.1:80`, `[::1]:80`,
    /// `/run/shop.sock`, `@abstract`. Port 0 is whatever port is kept, or any.
    ///
    /// ```
    /// # use heirloom_client::{embedded::Embedded, wait, Hooks};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let arbiter = Embedded::new("shop")?;
    /// let shop = arbiter.attach("v1").wait()?;
    /// let http = wait(shop.region().listener("http", "127.0.0.1:0").open())?;
    /// let mut serving = wait(shop.ready(Hooks::new()))?;
    /// # let client = std::net::TcpStream::connect(http.local_addr()?.expect("TCP"))?;
    /// while let Some(term) = wait(serving.next_term()) {
    ///     while let Some(conn) = wait(http.accept(&term))? {
    ///         println!("from {:?}", conn.from());
    /// #       return Ok(());
    ///     }
    /// }
    /// # drop(client);
    /// # Ok(()) }
    /// ```
    pub fn listener(&self, name: &str, address: impl fmt::Display) -> OpenListener<'_> {
        OpenListener::new(&self.session, name, address.to_string())
    }

    /// Where live connections of `protocol` depart when another instance owns, and arrive when this one does. `schema` is the
    /// number of the state's type: an instance that opened another one takes none of ours, and they drain here.
    ///
    /// ```
    /// use heirloom_client::{Parcel, Parcels, Tracked};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// /// Counts a connection's bytes, wherever it is.
    /// async fn serve(mut tracked: Tracked<u64>, mut conn: Parcel<u64>) -> std::io::Result<()> {
    ///     loop {
    ///         let departure = tokio::select! {
    ///             byte = conn.stream.read_u8() => {
    ///                 byte?;
    ///                 conn.state += 1;
    ///                 continue;
    ///             }
    ///             departure = tracked.departure() => departure, // a boundary: nothing is half done here
    ///         };
    ///         match departure.send(conn).await {
    ///             Ok(()) => return Ok(()), // the next owner has it
    ///             Err(back) => conn = back.parcel,
    ///         }
    ///     }
    /// }
    /// # use heirloom_client::embedded::Embedded;
    /// # fn main() -> Result<(), heirloom_client::Error> {
    /// # let attachment = Embedded::new("shop")?.attach("v1").wait()?;
    /// let parcels: Parcels<u64> = attachment.region().parcels("bytes", 1)?;
    /// # let _ = parcels;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Misuse`] for a name that is none, or one that was opened here with another schema.
    pub fn parcels<S>(&self, protocol: &str, schema: u32) -> Result<Parcels<S>, Error>
    where
        S: Serialize + DeserializeOwned + Send + 'static,
    {
        Parcels::new(&self.session, protocol, schema)
    }

    /// Reads several owned objects as they were at one moment: notes each one's stamp, runs `read`, checks the stamps.
    ///
    /// `read` may run several times. Counters and histograms never stop and are not part of the moment.
    ///
    /// ```
    /// # use heirloom_client::embedded::Embedded;
    /// # fn main() -> Result<(), heirloom_client::Error> {
    /// # let attachment = Embedded::new("shop")?.attach("v1").wait()?;
    /// # let shop = attachment.region();
    /// let basket = shop.cell::<Vec<String>>("basket").open()?;
    /// let size = shop.gauge("basket_items").open()?;
    /// let (items, size) = shop.read(|at| Ok((at.cell(&basket)?, at.gauge(&size))))?;
    /// assert_eq!((items.len(), size), (0, 0.0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReady`] if writers were faster 16 times over; what `read` returned otherwise.
    pub fn read<R>(&self, read: impl FnMut(&View) -> Result<R, Error>) -> Result<R, Error> {
        view::read(&self.session, read)
    }
    /// Counts a piece of work of `kind` until dropped; a drain waits for it and `status` names it. Kinds are few: a word of
    /// the code, not of the data. See [`InFlight::because`], and [`Serving::drain_within`](crate::Serving::drain_within).
    pub fn in_flight(&self, kind: &'static str) -> InFlight {
        InFlight::new(&self.session, kind)
    }
    /// Whether a load balancer should send new traffic here: this instance owns, is ready, and does not leave. Needs no sidecar.
    /// The axum adapter's `probe` answers it over HTTP.
    pub fn takes_traffic(&self) -> bool {
        self.session.no_traffic().is_none()
    }
    /// Writes the metrics of a private region ([`Link::Local`]). A shared one is exposed by the sidecar alone, or two scraped
    /// instances would double every sum.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a shared region.
    pub fn encode_local_metrics(&self, out: &mut String, format: Exposition) -> Result<(), Error> {
        if !self.session.is_local() {
            let found = format!("{} is shared: its sidecar exposes it", self.name());
            return Err(Misuse::Argument { what: "region", found }.into());
        }
        exposition::encode(self.session.process.mapping(), out, format);
        Ok(())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("name", &self.name()).field("me", &self.me().instance).finish()
    }
}

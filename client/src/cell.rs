//! Cells: one `serde` value each, written by the owner, read by all.
//!
//! A value is a list of parts, one per schema that its writer wrote: `.schema(2).writes(1, down)` writes both beside each
//! other, so that the version before can be rolled back to, and promoted. Encoding, decoding and users' closures run
//! outside the gate; only the copy of bytes is inside.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use heirloom_region::error::{Error, Generation, Incompatible, Misuse, NotReady, WriteError};
use heirloom_region::objects::{self, CellSpec, CellValue, Part};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::Codec;
use crate::registry::Turn;
use crate::session::Session;
use crate::term::Term;

mod format;

pub(crate) use format::Format;
use format::verdict;

/// Largest encoded value, if nothing else is said.
const BYTES_MAX: u64 = 64 << 10;

type Initial<T> = Arc<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// How to open a cell. The codec is not self-describing: a type that changed is a new schema number.
///
/// ```
/// # use heirloom_client::embedded::Embedded;
/// use serde::{Deserialize, Serialize};
///
/// type BasketV1 = Vec<String>;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Basket {
///     items: Vec<String>,
///     voucher: Option<String>, // new
/// }
///
/// # fn main() -> Result<(), heirloom_client::Error> {
/// # let shop = Embedded::new("shop")?.attach("v2").wait()?;
/// let basket = shop
///     .region()
///     .cell::<Basket>("basket")
///     .schema(2)
///     .reads(1, |items: BasketV1| Basket { items, voucher: None })
///     .writes(1, |b: &Basket| b.items.clone())
///     .open()?;
/// assert!(basket.load()?.items.is_empty());
/// # Ok(()) }
/// ```
#[must_use = "call open() or open_or()"]
pub struct OpenCell<'r, T> {
    session: &'r Arc<Session>,
    name: String,
    labels: Vec<(String, String)>,
    bytes_max: u64,
    format: Format<T>,
}

impl<'r, T: Serialize + DeserializeOwned + Send + Sync + 'static> OpenCell<'r, T> {
    pub(crate) fn new(session: &'r Arc<Session>, name: &str) -> Self {
        let format = Format::new(1);
        Self { session, name: name.to_owned(), labels: Vec::new(), bytes_max: BYTES_MAX, format }
    }
    /// Number of `T`'s schema. Default 1.
    pub fn schema(mut self, number: u32) -> Self {
        self.format.schema = number;
        self
    }
    /// How values are encoded. Default [`Codec::Bincode`].
    pub fn codec(mut self, codec: Codec) -> Self {
        self.format.codec = codec;
        self
    }
    /// Also reads `number`, an older schema: what an upgrade needs. Where a value is there in several schemas, `T`'s own
    /// comes first, then those named here in order.
    pub fn reads<Old: DeserializeOwned + 'static>(mut self, number: u32, upgrade: fn(Old) -> T) -> Self {
        self.format.upgrades.push((number, Arc::new(move |bytes, codec| codec.decode(bytes).map(upgrade))));
        self
    }
    /// Also writes `number`, an older schema, beside each value until the upgrade is finalized: what a rollback needs, and
    /// a promotion after a death. A region with a value that an instance cannot read is never given to it: `status` says
    /// so, a handover is refused.
    pub fn writes<Old: Serialize + 'static>(mut self, number: u32, downgrade: fn(&T) -> Old) -> Self {
        self.format.downgrades.push((number, Arc::new(move |value, codec| codec.encode(&downgrade(value)))));
        self
    }
    /// A label, for many cells under one name.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }
    /// Largest encoded value, all its schemas together. Default 64 KiB.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }
    /// Opens or creates it; `T::default()` is read until something is written.
    ///
    /// # Errors
    /// [`Error::Incompatible`] kind or schema; [`Error::Full`]; [`Error::Misuse`] name, a schema named twice, a forked child.
    pub fn open(self) -> Result<Cell<T>, Error>
    where
        T: Default,
    {
        self.open_with(Arc::new(|| Ok(T::default())))
    }
    /// Opens or creates it; `initial` is read until something is written.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Misuse`] if `initial` does not encode.
    pub fn open_or(self, initial: T) -> Result<Cell<T>, Error> {
        // `T` need not be `Clone`: what is read each time is a copy through the codec, as of any other value.
        let (codec, name, schema) = (self.format.codec, self.name.clone(), self.format.schema);
        let bytes = codec.encode(&initial).map_err(|why| Misuse::Encode { name: name.clone(), why })?;
        self.open_with(Arc::new(move || {
            codec.decode(&bytes).map_err(|why| Incompatible::Decode { name: name.clone(), schema, why }.into())
        }))
    }

    fn open_with(mut self, initial: Initial<T>) -> Result<Cell<T>, Error> {
        let process = self.session.opens()?;
        self.format.check(&self.name)?;
        self.labels.sort();
        let labels: Vec<_> = self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let spec = CellSpec { name: &self.name, labels: &labels, bytes_max: self.bytes_max };
        let raw = objects::open_cell(process, &spec)?;

        let readable = self.format.readable();
        let (check_raw, check_name, check_for) = (raw.clone(), self.name.clone(), readable.clone());
        let check = move || verdict(&check_name, &check_for, &read(&check_raw)?);
        check()?;
        let turn = self.session.registry.add(
            (self.name.clone(), self.labels),
            &readable,
            &self.format.written(),
            Arc::new(check),
        );
        let session = self.session.clone();
        Ok(Cell { inner: Arc::new(Inner { session, raw, name: self.name, format: self.format, initial, turn }) })
    }
}

impl<T> fmt::Debug for OpenCell<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCell").field("name", &self.name).field("schema", &self.format.schema).finish()
    }
}

pub(crate) fn read(raw: &objects::Cell) -> Result<Option<CellValue>, Error> {
    raw.read()
}

/// One value, written by the owner, read by all, never torn.
///
/// ```compile_fail,E0061
/// # fn f(cart: heirloom_client::Cell<Vec<String>>) {
/// cart.set(&vec![]); // whose term?
/// # }
/// ```
pub struct Cell<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    session: Arc<Session>,
    raw: objects::Cell,
    name: String,
    format: Format<T>,
    initial: Initial<T>,
    turn: Arc<Turn>,
}

impl<T> Clone for Cell<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T> fmt::Debug for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (inner, kind) = (&self.inner, PhantomData::<T>);
        f.debug_struct("Cell")
            .field("name", &inner.name)
            .field("schema", &inner.format.schema)
            .field("of", &kind)
            .finish()
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Cell<T> {
    /// A copy of the value. Lock-free; any role.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Incompatible`]; [`Error::NotReady`] when writers were faster 16 times over.
    pub fn load(&self) -> Result<T, Error> {
        self.load_versioned().map(|versioned| versioned.value)
    }
    /// The same, with the stamp that [`compare_set`](Self::compare_set) wants.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_versioned(&self) -> Result<Versioned<T>, Error> {
        let inner = &*self.inner;
        match read(&inner.raw)? {
            Some(found) => Ok(Versioned {
                value: inner.format.decode(&inner.name, &found.parts)?,
                stamp: found.stamp.into(),
                generation: Some(found.generation),
            }),
            None => Ok(Versioned { value: (inner.initial)()?, stamp: objects::Stamp::UNBORN.into(), generation: None }),
        }
    }
    /// Replaces the value.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing is written then.
    pub fn set(&self, term: &Term, value: &T) -> Result<(), WriteError> {
        let parts = self.inner.format.encode(&self.inner.name, value)?;
        let _turn = self.inner.turn.take(&self.inner.name)?;
        self.write(term, &parts, None).map(drop)
    }
    /// Changes a copy and writes it back, one caller in this process at a time, `change` runs once and outside the gate.
    /// If it panics nothing is written.
    ///
    /// ```
    /// # use heirloom_client::{embedded::Embedded, wait, Hooks};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let arbiter = Embedded::new("shop")?;
    /// # let shop = arbiter.attach("v1").wait()?;
    /// let basket = shop.region().cell::<Vec<String>>("basket").open()?;
    /// # let mut serving = wait(shop.ready(Hooks::new()))?;
    /// # let term = wait(serving.next_term()).expect("owner");
    /// let items = basket.update(&term, |b| {
    ///     b.push("tea".into());
    ///     b.len()
    /// })?;
    /// assert_eq!((items, basket.load()?), (1, vec!["tea".to_owned()]));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load), and see [`WriteError`]; the old value stays. [`Error::Misuse`] if `change` writes this cell.
    pub fn update<R>(&self, term: &Term, change: impl FnOnce(&mut T) -> R) -> Result<R, Error> {
        let inner = &*self.inner;
        let _turn = inner.turn.take(&inner.name)?;
        let mut old = self.load_versioned()?;
        let result = change(&mut old.value);
        let parts = inner.format.encode(&inner.name, &old.value)?;
        match self.write(term, &parts, Some(old.stamp))? {
            true => Ok(result),
            // The next owner came between: the stamp was compared before the gate could say that this term is over. Only a
            // writer of this generation and outside this process's turns could have done so otherwise; there is none.
            false => Err(term.over().map_or_else(|| NotReady::Contended { attempts: 1 }.into(), Error::from)),
        }
    }
    /// Replaces the value if it still has this stamp; `Ok(false)` if not.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn compare_set(&self, term: &Term, stamp: Stamp, value: &T) -> Result<bool, WriteError> {
        let parts = self.inner.format.encode(&self.inner.name, value)?;
        let _turn = self.inner.turn.take(&self.inner.name)?;
        self.write(term, &parts, Some(stamp))
    }

    fn write(&self, term: &Term, parts: &[Part], expect: Option<Stamp>) -> Result<bool, WriteError> {
        let inner = &*self.inner;
        let expect = expect.map(|stamp| stamp.0);
        let written = term.write_if(&inner.session, |generation| inner.raw.write(generation, parts, expect))?;
        Ok(written.is_some())
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.inner.session
    }
    pub(crate) fn raw(&self) -> &objects::Cell {
        &self.inner.raw
    }
}

/// Identifies one write of one object; equal only for the same write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp(objects::Stamp);

impl From<objects::Stamp> for Stamp {
    fn from(stamp: objects::Stamp) -> Self {
        // A cell that exists and was never written is the same as one that does not exist.
        Self(if stamp.1 == 0 { objects::Stamp::UNBORN } else { stamp })
    }
}

/// A value with its stamp.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// Of the write that made it.
    pub stamp: Stamp,
    /// Generation that wrote it; `None` if never written.
    pub generation: Option<Generation>,
}

//! Families: one metric per combination of label values.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use heirloom_region::error::Error;

use crate::object::{Asked, Metric, Spec};
use crate::session::Session;

/// So many locks that threads rarely meet at one.
const SHARDS: usize = 16;

/// One metric per combination of label values. Keep the member on hot paths: a look-up hashes, some 30 ns.
///
/// ```
/// # use heirloom_client::embedded::Embedded;
/// # fn main() -> Result<(), heirloom_client::Error> {
/// # let shop = Embedded::new("shop")?.attach("v1").wait()?;
/// let requests = shop.region().counter("shop_requests_total").help("Requests served.").family(["path", "code"])?;
/// requests.get(["/basket", "200"])?.inc();
/// assert_eq!(requests.get(["/basket", "200"])?.total(), 1);
/// # Ok(()) }
/// ```
pub struct Family<M, const N: usize> {
    inner: Arc<Inner<M, N>>,
}

struct Inner<M, const N: usize> {
    session: Arc<Session>,
    spec: Spec,
    labels: [String; N],
    hasher: RandomState,
    shards: [RwLock<Shard<M, N>>; SHARDS],
}

/// By the hash that the look-up has made already; a bucket of members whose hashes collide is searched by value.
type Shard<M, const N: usize> = HashMap<u64, Vec<([Box<str>; N], M)>, AsIs>;

impl<M: Metric, const N: usize> Family<M, N> {
    pub(crate) fn new(session: Arc<Session>, spec: Spec, labels: [&str; N]) -> Self {
        let labels = labels.map(str::to_owned);
        let shards = std::array::from_fn(|_| RwLock::default());
        Self { inner: Arc::new(Inner { session, spec, labels, hasher: RandomState::new(), shards }) }
    }

    /// The member with these label values.
    ///
    /// # Errors
    /// [`Error::Full`] region or directory; [`Error::Misuse`] value, or a forked child.
    pub fn get(&self, values: [&str; N]) -> Result<M, Error> {
        let hash = self.inner.hash(&values);
        let shard = &self.inner.shards[(hash >> 60) as usize % SHARDS];
        if let Some(found) = find(&shard.read().unwrap_or_else(PoisonError::into_inner), hash, &values) {
            return Ok(found);
        }
        // Opened outside the lock: opening is idempotent, so a race opens the same member twice and keeps one handle.
        let member = self.inner.open(&values)?;
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = find(&shard, hash, &values) {
            return Ok(found);
        }
        shard.entry(hash).or_default().push((values.map(Box::from), member.clone()));
        Ok(member)
    }
}

fn find<M: Clone, const N: usize>(shard: &Shard<M, N>, hash: u64, values: &[&str; N]) -> Option<M> {
    let same = |key: &[Box<str>; N]| key.iter().zip(values).all(|(a, b)| **a == **b);
    shard.get(&hash)?.iter().find(|(key, _)| same(key)).map(|(_, member)| member.clone())
}

impl<M: Metric, const N: usize> Inner<M, N> {
    fn hash(&self, values: &[&str; N]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for value in values {
            hasher.write(value.as_bytes());
            hasher.write_u8(0xff); // no UTF-8 byte, so ("ab", "c") and ("a", "bc") differ
        }
        hasher.finish()
    }
    fn open(&self, values: &[&str; N]) -> Result<M, Error> {
        let mut spec = self.spec.clone();
        spec.labels.extend(self.labels.iter().cloned().zip(values.iter().map(|v| (*v).to_owned())));
        M::open(Asked { session: &self.session, spec: &spec })
    }
}

impl<M, const N: usize> Clone for Family<M, N> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<M, const N: usize> fmt::Debug for Family<M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("name", &self.inner.spec.name).field("labels", &self.inner.labels).finish()
    }
}

/// The key is a hash already.
#[derive(Clone, Copy, Default)]
struct AsIs;

#[derive(Default)]
struct Given(u64);

impl BuildHasher for AsIs {
    type Hasher = Given;
    fn build_hasher(&self) -> Given {
        Given::default()
    }
}

impl Hasher for Given {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |n, b| (n << 8) | u64::from(*b));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

//! Counters, histograms and gauges: resolved once, then written without a system call.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heirloom_region::error::{Error, WriteError};
use heirloom_region::name;
use heirloom_region::objects::{self, MetricDesc};

use crate::family::Family;
use crate::session::Session;
use crate::term::Term;

/// Upper bounds of Prometheus' client libraries, in seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub(crate) mod sealed {
    use super::*;

    /// How a kind is opened.
    pub trait Sealed: Sized {
        /// Its family is named without `_total`.
        const COUNTER: bool;
        /// The label `le` is its own.
        const HISTOGRAM: bool;
        /// Opens or creates it.
        fn open(asked: Asked<'_>) -> Result<Self, Error>;
    }

    /// Where, and what.
    #[derive(Debug)]
    pub struct Asked<'a> {
        pub(crate) session: &'a Arc<Session>,
        pub(crate) spec: &'a Spec,
    }

    /// A metric as it was asked for.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Spec {
        pub(crate) name: String,
        pub(crate) help: String,
        pub(crate) unit: String,
        pub(crate) labels: Vec<(String, String)>,
        pub(crate) buckets: Vec<f64>,
    }
}
pub(crate) use sealed::{Asked, Spec};

/// The kinds that [`Open`] opens.
pub trait Metric: sealed::Sealed + Clone + Send + Sync + 'static {}

macro_rules! metric {
    ($($kind:ident ($counter:literal, $histogram:literal) = |$process:ident, $desc:ident, $spec:ident, $session:ident| $open:expr;)*) => { $(
        impl sealed::Sealed for $kind {
            const COUNTER: bool = $counter;
            const HISTOGRAM: bool = $histogram;
            fn open(asked: Asked<'_>) -> Result<Self, Error> {
                let ($session, $spec) = (asked.session, asked.spec);
                let $process = $session.opens()?;
                let labels: Vec<_> = $spec.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let $desc = &MetricDesc { name: &$spec.name, help: &$spec.help, unit: &$spec.unit, labels: &labels };
                Ok($open)
            }
        }
        impl Metric for $kind {}
    )* };
}
metric! {
    Counter (true, false) = |process, desc, spec, session| Counter(objects::open_counter(process, desc)?);
    FloatCounter (true, false) = |process, desc, spec, session| FloatCounter(objects::open_float_counter(process, desc)?);
    Histogram (false, true) = |process, desc, spec, session| Histogram(objects::open_histogram(process, desc, &spec.buckets)?);
    UpDownGauge (false, false) = |process, desc, spec, session| UpDownGauge(objects::open_updown(process, desc)?);
    Gauge (false, false) = |process, desc, spec, session| Gauge {
        raw: objects::open_gauge(process, desc)?,
        session: session.clone(),
    };
}

/// How to open a metric. Names and labels follow Prometheus' data model.
///
/// ```
/// # use heirloom_client::embedded::Embedded;
/// # fn main() -> Result<(), heirloom_client::Error> {
/// # let shop = Embedded::new("shop")?.attach("v1").wait()?;
/// let seconds = shop.region().histogram("shop_request_seconds").unit("seconds").buckets(&[0.01, 0.1, 1.0]).open()?;
/// seconds.observe(0.02);
/// # Ok(()) }
/// ```
#[must_use = "call open() or family()"]
pub struct Open<'r, M> {
    session: &'r Arc<Session>,
    spec: Spec,
    _kind: PhantomData<M>,
}

impl<'r, M: Metric> Open<'r, M> {
    pub(crate) fn new(session: &'r Arc<Session>, name: &str) -> Self {
        let spec = Spec { name: name.to_owned(), buckets: BUCKETS.to_vec(), ..Spec::default() };
        Self { session, spec, _kind: PhantomData }
    }
    /// Text for `# HELP`. The first writer's stays.
    pub fn help(mut self, text: &str) -> Self {
        self.spec.help = text.to_owned();
        self
    }
    /// Unit for OpenMetrics; the name must end in it.
    pub fn unit(mut self, unit: &str) -> Self {
        self.spec.unit = unit.to_owned();
        self
    }
    /// A constant label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.spec.labels.push((name.to_owned(), value.to_owned()));
        self
    }
    /// Opens or creates it.
    ///
    /// # Errors
    /// [`Error::Misuse`] name, or a forked child; [`Error::Incompatible`] kind or buckets; [`Error::Full`].
    pub fn open(self) -> Result<M, Error> {
        M::open(Asked { session: self.session, spec: &self.spec })
    }
    /// A family over the values of `labels`; members are opened when first asked for.
    ///
    /// # Errors
    /// [`Error::Misuse`] name of the metric or of a label.
    pub fn family<const N: usize>(self, labels: [&str; N]) -> Result<Family<M, N>, Error> {
        name::family(&self.spec.name, M::COUNTER)?;
        // Values are checked with each member; the names once, here, with values that any label may have.
        let constant = self.spec.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let all: Vec<_> = constant.chain(labels.map(|label| (label, ""))).collect();
        name::labels(&all, M::HISTOGRAM)?;
        Ok(Family::new(self.session.clone(), self.spec, labels))
    }
}

impl Open<'_, Histogram> {
    /// Upper bounds, ascending, finite; `+Inf` is added. Default: Prometheus' 5 ms to 10 s.
    pub fn buckets(mut self, upper: &[f64]) -> Self {
        self.spec.buckets = upper.to_vec();
        self
    }
}

impl<M> fmt::Debug for Open<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(&self.spec).finish()
    }
}

/// Counts up. Infallible, never blocks, works in every role and without a sidecar.
#[derive(Clone, Debug)]
pub struct Counter(objects::Counter);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.0.inc();
    }
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.add(n);
    }
    /// The total over all instances and generations. O(lanes).
    pub fn total(&self) -> u64 {
        self.0.total()
    }
}

/// Counts up in `f64`.
#[derive(Clone, Debug)]
pub struct FloatCounter(objects::FloatCounter);

impl FloatCounter {
    /// Adds `v`; a negative, infinite or NaN `v` is ignored and counted in `heirloom_ignored_updates_total`.
    #[inline]
    pub fn add(&self, v: f64) {
        self.0.add(v);
    }
    /// The total over all instances and generations.
    pub fn total(&self) -> f64 {
        self.0.total()
    }
}

/// Observations in fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram(objects::Histogram);

impl Histogram {
    /// Records `v`; NaN is ignored and counted.
    #[inline]
    pub fn observe(&self, v: f64) {
        self.0.observe(v);
    }
    /// Records seconds.
    #[inline]
    pub fn observe_duration(&self, d: Duration) {
        self.0.observe(d.as_secs_f64());
    }
    /// Records the seconds until the timer is dropped.
    pub fn start_timer(&self) -> Timer {
        Timer { histogram: Some(self.clone()), start: Instant::now() }
    }
}

/// See [`Histogram::start_timer`].
#[must_use = "it records when dropped"]
#[derive(Debug)]
pub struct Timer {
    histogram: Option<Histogram>,
    start: Instant,
}

impl Timer {
    /// Records now.
    pub fn stop(mut self) -> Duration {
        let took = self.start.elapsed();
        if let Some(histogram) = self.histogram.take() {
            histogram.observe_duration(took);
        }
        took
    }
    /// Records nothing.
    pub fn discard(mut self) {
        self.histogram = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(histogram) = &self.histogram {
            histogram.observe_duration(self.start.elapsed());
        }
    }
}

/// The sum of the living instances' shares; a share leaves with its instance.
#[derive(Clone, Debug)]
pub struct UpDownGauge(objects::UpDownGauge);

impl UpDownGauge {
    /// Adds one to this instance's share.
    #[inline]
    pub fn inc(&self) {
        self.0.add(1);
    }
    /// Takes one from it.
    #[inline]
    pub fn dec(&self) {
        self.0.add(-1);
    }
    /// Adds `n`, or takes away.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.add(n);
    }
    /// One, until dropped.
    pub fn share(&self) -> Share {
        self.inc();
        Share(self.clone())
    }
    /// The sum over the living.
    pub fn total(&self) -> i64 {
        self.0.total()
    }
}

/// See [`UpDownGauge::share`].
#[must_use = "it counts until dropped"]
#[derive(Debug)]
pub struct Share(UpDownGauge);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A gauge with one value, set by the owner.
#[derive(Clone, Debug)]
pub struct Gauge {
    raw: objects::Gauge,
    session: Arc<Session>,
}

impl Gauge {
    /// Sets it.
    ///
    /// # Errors
    /// [`WriteError::Fenced`], [`WriteError::Frozen`], [`WriteError::Misuse`].
    #[inline]
    pub fn set(&self, term: &Term, v: f64) -> Result<(), WriteError> {
        term.write(&self.session, |generation| self.raw.set(generation, v))
    }
    /// Adds to it.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    #[inline]
    pub fn add(&self, term: &Term, v: f64) -> Result<(), WriteError> {
        term.write(&self.session, |generation| self.raw.add(generation, v))
    }
    /// The last value set; 0 if never.
    pub fn value(&self) -> f64 {
        self.raw.value()
    }
    pub(crate) fn raw(&self) -> &objects::Gauge {
        &self.raw
    }
}

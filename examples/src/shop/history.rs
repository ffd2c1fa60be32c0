//! When each customer came: a time series for each customer, with a sample for each visit.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use heirloom_client::axum::Refused;
use heirloom_client::error::Misuse;
use heirloom_client::series::{AppendError, Labels, Matcher, Rejected, Sample, Store};
use heirloom_client::{Error, Region, Term};

use super::App;

const NAME: &str = "shop_visits";
/// One customer's visits may fall into the same millisecond, so few tries find a free one.
const TRIES: u32 = 8;

/// The same for both versions: series have no schema, and what one appended the other goes on with.
#[derive(Clone)]
pub struct History {
    series: Store,
}

impl History {
    /// The history in this region.
    ///
    /// # Errors
    /// If the region is corrupt.
    pub fn open(region: &Region) -> Result<Self, Error> {
        Ok(History { series: region.series()? })
    }

    /// Appends that the customer has come for this many times.
    ///
    /// # Errors
    /// If the term is over, or the region is full.
    pub fn came(&self, term: &Term, customer: &str, visits: u64) -> Result<(), Error> {
        let series = self.series.open(term, &Labels::new([("__name__", NAME), ("customer", customer)])?)?;
        let mut sample = Sample { timestamp_ms: now_ms(), value: visits as f64 };
        for _ in 0..TRIES {
            sample.timestamp_ms = match self.series.append(term, series, sample) {
                Ok(_) => return Ok(()),
                Err(AppendError::Write(error)) => return Err(error.into()),
                // A clock that was set back, or another visit in this very millisecond.
                Err(AppendError::Rejected(Rejected::OutOfOrder { last_ms, .. })) => last_ms + 1,
                Err(AppendError::Rejected(Rejected::Conflict { timestamp_ms, .. })) => timestamp_ms + 1,
                Err(AppendError::Rejected(other)) => return Err(refused(&other.to_string())),
            };
        }
        Err(refused("no free millisecond"))
    }

    /// Whether the customer's visit of this number is there.
    ///
    /// # Errors
    /// If the region is corrupt.
    pub fn holds(&self, customer: &str, visits: u64) -> Result<bool, Error> {
        let of = [Matcher::equal("__name__", NAME), Matcher::equal("customer", customer)];
        for series in self.series.select(&of, i64::MIN..=i64::MAX)? {
            for sample in series?.samples() {
                if sample?.value == visits as f64 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Every sample's value, in order of time, by customer.
    fn all(&self) -> Result<BTreeMap<String, Vec<f64>>, Error> {
        let mut all = BTreeMap::new();
        for series in self.series.select(&[Matcher::equal("__name__", NAME)], i64::MIN..=i64::MAX)? {
            let series = series?;
            let customer = series.labels().get("customer").unwrap_or_default().to_owned();
            let values: Result<_, Error> = series.samples().map(|sample| Ok(sample?.value)).collect();
            all.insert(customer, values?);
        }
        Ok(all)
    }
}

/// Only reads: any instance answers, at any moment.
pub(crate) async fn history<T>(State(app): State<App<T>>) -> Result<Json<BTreeMap<String, Vec<f64>>>, Refused> {
    Ok(Json(app.history.all()?))
}

fn refused(why: &str) -> Error {
    Misuse::Argument { what: "sample", found: why.to_owned() }.into()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

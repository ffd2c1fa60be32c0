//! A write request in the making: protobuf now, snappy when it is sent.
//!
//! A series' labels are encoded once and kept; a request's entry for it is these bytes and those of its samples, one after the
//! other, which is how protobuf joins the two halves of one message.

use std::collections::BTreeMap;

use heirloom_proto::prometheus::{Label, Sample, TimeSeries};
use heirloom_region::error::Corrupt;
use heirloom_region::series::{self, SeriesId, SeriesStore};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Bytes of labels that are kept for one shard; what is beyond is encoded each time.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// Field of `WriteRequest`.
const TIMESERIES: u32 = 1;

/// The encoded labels of one shard's series.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Those of the configuration and of the region.
    external: BTreeMap<String, String>,
    kept: Vec<Option<Box<[u8]>>>,
    kept_bytes: usize,
}

impl Labels {
    pub(super) fn new(external: BTreeMap<String, String>) -> Self {
        Labels { external, ..Labels::default() }
    }

    /// The labels of a series as a request has them; `place` is the series' among those of the shard.
    fn get(&mut self, store: &SeriesStore, id: SeriesId, place: usize) -> Result<std::borrow::Cow<'_, [u8]>, Corrupt> {
        if self.kept.len() <= place {
            self.kept.resize(place + 1, None);
        }
        if self.kept[place].is_none() {
            let mut labels = self.external.clone();
            // A series' own label wins.
            labels.extend(store.labels(id)?);
            let labels = labels.into_iter().map(|(name, value)| Label { name, value }).collect();
            let bytes = TimeSeries { labels, ..TimeSeries::default() }.encode_to_vec();
            if self.kept_bytes + bytes.len() > KEPT_BYTES_MAX {
                return Ok(bytes.into());
            }
            self.kept_bytes += bytes.len();
            self.kept[place] = Some(bytes.into());
        }
        Ok(self.kept[place].as_deref().unwrap_or_default().into())
    }
}

/// A request's bytes so far.
#[derive(Debug, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    /// Adds samples of one series.
    ///
    /// # Errors
    /// [`Corrupt`] if the labels cannot be read; nothing is added then.
    pub(super) fn add(
        &mut self,
        labels: &mut Labels,
        store: &SeriesStore,
        (id, place): (SeriesId, usize),
        samples: &[series::Sample],
    ) -> Result<(), Corrupt> {
        let sample = |it: &series::Sample| Sample { value: Some(it.value), timestamp: it.timestamp_ms };
        let samples = TimeSeries { samples: samples.iter().map(sample).collect(), ..TimeSeries::default() };
        let samples = samples.encode_to_vec();
        let labels = labels.get(store, id, place)?;
        encode_key(TIMESERIES, WireType::LengthDelimited, &mut self.0);
        encode_varint((labels.len() + samples.len()) as u64, &mut self.0);
        self.0.extend_from_slice(&labels);
        self.0.extend_from_slice(&samples);
        Ok(())
    }
}

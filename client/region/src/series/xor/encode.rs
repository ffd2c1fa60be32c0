//! Samples to bits.

use super::bits::{Count, Sink, Writer};
use super::{COUNT_BYTES, Sample};

/// Says that no window was written yet.
const NO_WINDOW: u8 = 0xff;

/// What the next sample is encoded against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Timestamp of the last sample.
    pub(crate) timestamp_ms: i64,
    /// Its difference from the one before.
    pub(super) delta: u64,
    /// The last value's bits.
    pub(crate) value: u64,
    pub(super) leading: u8,
    pub(super) trailing: u8,
}

impl State {
    /// Before the first sample.
    pub(crate) const EMPTY: State = State { timestamp_ms: 0, delta: 0, value: 0, leading: NO_WINDOW, trailing: 0 };

    /// Of an empty chunk in a series whose last sample was this.
    pub(crate) fn after(timestamp_ms: i64, value: u64) -> Self {
        Self { timestamp_ms, value, ..Self::EMPTY }
    }

    pub(super) fn has_window(&self) -> bool {
        self.leading != NO_WINDOW
    }

    /// Appends a sample to a chunk that has `count` and whose last this state is of.
    #[inline(always)]
    pub(crate) fn encode(&mut self, count: u32, timestamp_ms: i64, value: u64, sink: &mut impl Sink) {
        if count < 2 {
            return self.encode_first(count, timestamp_ms, value, sink);
        }
        let delta = timestamp_ms.wrapping_sub(self.timestamp_ms) as u64;
        let change = delta.wrapping_sub(self.delta) as i64;
        if change == 0 {
            sink.put(0, 1);
        } else {
            put_change(change, sink);
        }
        self.put_value(value, sink);
        self.delta = delta;
        self.timestamp_ms = timestamp_ms;
        self.value = value;
    }

    #[cold]
    fn encode_first(&mut self, count: u32, timestamp_ms: i64, value: u64, sink: &mut impl Sink) {
        let delta = timestamp_ms.wrapping_sub(self.timestamp_ms) as u64;
        if count == 0 {
            *self = Self::EMPTY;
            put_uvarint(((timestamp_ms << 1) ^ (timestamp_ms >> 63)) as u64, sink);
            sink.put(value, 64);
        } else {
            put_uvarint(delta, sink);
            self.put_value(value, sink);
            self.delta = delta;
        }
        self.timestamp_ms = timestamp_ms;
        self.value = value;
    }

    /// Bits that [`encode`](Self::encode) would append.
    pub(crate) fn measure(mut self, count: u32, timestamp_ms: i64, value: u64) -> u32 {
        let mut bits = Count::default();
        self.encode(count, timestamp_ms, value, &mut bits);
        bits.0
    }

    #[inline(always)]
    fn put_value(&mut self, value: u64, sink: &mut impl Sink) {
        let changed = value ^ self.value;
        if changed == 0 {
            return sink.put(0, 1);
        }
        let (leading, trailing) = ((changed.leading_zeros() as u8).min(31), changed.trailing_zeros() as u8);
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            let width = 64 - u32::from(self.leading) - u32::from(self.trailing);
            put_prefixed(0b10, 2, changed >> self.trailing, width, sink);
            return;
        }
        let width = 64 - u32::from(leading) - u32::from(trailing);
        let head = 0b11 << 11 | u64::from(leading) << 6 | u64::from(width & 63);
        put_prefixed(head, 13, changed >> trailing, width, sink);
        (self.leading, self.trailing) = (leading, trailing);
    }
}

/// Both in one go where they fit a word.
#[inline(always)]
fn put_prefixed(head: u64, head_n: u32, value: u64, n: u32, sink: &mut impl Sink) {
    if head_n + n <= 64 {
        sink.put(head << n | value, head_n + n);
    } else {
        sink.put(head, head_n);
        sink.put(value, n);
    }
}

#[inline(never)]
fn put_change(change: i64, sink: &mut impl Sink) {
    let fits = |n: u32| -((1 << (n - 1)) - 1) <= change && change <= 1 << (n - 1);
    let low = |n: u32| change as u64 & ((1 << n) - 1);
    if fits(14) {
        sink.put(0b10 << 14 | low(14), 16);
    } else if fits(17) {
        sink.put(0b110 << 17 | low(17), 20);
    } else if fits(20) {
        sink.put(0b1110 << 20 | low(20), 24);
    } else {
        sink.put(0b1111, 4);
        sink.put(change as u64, 64);
    }
}

fn put_uvarint(mut value: u64, sink: &mut impl Sink) {
    while value >= 0x80 {
        sink.put(value & 0x7f | 0x80, 8);
        value >>= 7;
    }
    sink.put(value, 8);
}

/// Makes a chunk of samples, in private memory.
#[derive(Clone, Debug)]
pub struct Encoder {
    bits: Writer<Vec<u64>>,
    state: State,
    count: u16,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { bits: Writer::resume(Vec::new(), 0, 0), state: State::EMPTY, count: 0 }
    }
}

impl Encoder {
    /// An empty chunk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a sample; `false` if the chunk's count can go no higher. Whether timestamps ascend is the caller's business.
    #[must_use]
    pub fn push(&mut self, sample: Sample) -> bool {
        let Some(count) = self.count.checked_add(1) else { return false };
        let (timestamp_ms, value) = (sample.timestamp_ms, sample.value.to_bits());
        self.state.encode(self.count.into(), timestamp_ms, value, &mut self.bits);
        self.count = count;
        true
    }

    /// Samples in it.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The chunk as Prometheus has it: the count, and the bits to the next whole byte.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.count.to_be_bytes().to_vec();
        let len = COUNT_BYTES + self.bits.bits().div_ceil(8) as usize;
        out.extend(self.bits.words_and_last().flat_map(u64::to_be_bytes));
        out.truncate(len);
        out
    }
}

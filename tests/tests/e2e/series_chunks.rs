//! Chunks that a real Prometheus encoded, captured through its own remote read, decode here to what it says they hold, and encode
//! here to the same bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use heirloom_examples::metric_store::wire::{Sample, TimeSeries, WriteRequest, chunk::Encoding};
use heirloom_region::series::xor::{Decoder, Encoder};
use heirloom_tests::prometheus::Prometheus;
use heirloom_tests::random::Random;
use heirloom_tests::remote::{self, Labels, Samples, compare};

/// Several of Prometheus' chunks of 120.
const SAMPLES: usize = 700;
const STALE: u64 = 0x7ff0_0000_0000_0002;
const KINDS: [&str; 9] =
    ["constant", "counter", "float_counter", "gauge", "random_bits", "nan", "infinite", "stale", "zeros"];

fn next(kind: &str, last: f64, random: &mut Random) -> f64 {
    let now_and_then = |random: &mut Random, value: f64| if random.below(4) == 0 { value } else { last + 1.0 };
    match kind {
        "constant" => 42.5,
        "counter" => last + random.below(50) as f64,
        "float_counter" => last + random.below(1000) as f64 / 997.0,
        "gauge" => random.below(1 << 20) as f64 / 1024.0 - 512.0,
        "random_bits" => f64::from_bits(random.number()),
        "nan" => now_and_then(random, f64::NAN),
        "infinite" => [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE][random.below(4) as usize],
        "stale" => now_and_then(random, f64::from_bits(STALE)),
        _ => [0.0, -0.0][random.below(2) as usize],
    }
}

/// Steps between timestamps: as scrapes come, with and without jitter, and with holes that need every width of the encoding.
fn step(spacing: &str, random: &mut Random) -> i64 {
    match spacing {
        "even" => 1000,
        "jitter" => 995 + random.below(10) as i64,
        _ => {
            let width = random.below(14);
            1 + random.below(1 << width) as i64
        }
    }
}

/// A chunk without the byte that Prometheus appends in advance where its last write ended on a whole one: not a bit of it is used.
fn used(data: &[u8], length: usize) -> &[u8] {
    data.strip_suffix(&[0]).filter(|used| used.len() == length).unwrap_or(data)
}

/// As Prometheus tells samples: its protobuf encoder leaves out -0 with 0. Its chunks keep it.
fn without_signs_of_zero(samples: &Samples) -> Samples {
    let unsigned = |bits: u64| if bits == (-0.0f64).to_bits() { 0 } else { bits };
    let all = samples.iter().map(|(labels, s)| (labels.clone(), s.iter().map(|(at, v)| (*at, unsigned(*v))).collect()));
    all.collect()
}

#[test]
fn chunks_of_prometheus_decode_and_encode_to_the_same_bits() {
    let mut random = Random::announced("series_chunks");
    let address = heirloom_examples::process::free_address().expect("a free port");
    let prometheus = Prometheus::configured(address, "", &["--web.enable-remote-write-receiver"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let mut sent = Samples::new();
    for kind in KINDS {
        for spacing in ["even", "jitter", "holes"] {
            let labels: Labels =
                [("__name__", kind), ("spacing", spacing)].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            let (mut at, mut value) = (now - 2 * 3600 * 1000, 0.0);
            let samples = (0..SAMPLES).map(|_| {
                at += step(spacing, &mut random);
                value = next(kind, if f64::is_finite(value) { value } else { 0.0 }, &mut random);
                (at, value.to_bits())
            });
            sent.insert(labels, samples.collect());
        }
    }
    // Every series gets its first sample first, so that no series is too old for the head that another has begun.
    for part in 0..SAMPLES / 100 {
        let of = |samples: &[(i64, u64)]| {
            samples[part * 100..][..100].iter().map(|(at, bits)| Sample::exact(*at, f64::from_bits(*bits))).collect()
        };
        let series = sent.iter().map(|(labels, samples)| TimeSeries {
            labels: remote::labels(labels),
            samples: of(samples),
            ..Default::default()
        });
        let request = WriteRequest { timeseries: series.collect(), metadata: Vec::new() };
        let (status, text) = remote::write(address, &request).expect("an answer");
        assert!((200..300).contains(&status), "{status} {text}");
    }

    let range = (now - 4 * 3600 * 1000, now + 3600 * 1000);
    let told = remote::samples(prometheus.address(), remote::all(), range).expect("SAMPLES");
    let first = compare(&without_signs_of_zero(&sent), &told);
    assert_eq!((first.missing, first.more), (0, 0), "what was sent: {:?}", first.first);
    let (mut chunks, mut bytes, mut decoded) = (0, 0, Samples::new());
    for (labels, captured) in remote::chunks(prometheus.address(), remote::all(), range).expect("STREAMED_XOR_CHUNKS") {
        for chunk in captured {
            assert_eq!(chunk.r#type(), Encoding::Xor);
            let samples: Vec<_> = Decoder::new(&chunk.data).collect::<Result<_, _>>().expect("a whole chunk");
            let mut encoder = Encoder::new();
            samples.iter().for_each(|sample| assert!(encoder.push(*sample)));
            let encoded = encoder.to_bytes();
            assert_eq!(encoded, used(&chunk.data, encoded.len()), "{labels:?}: {} samples", samples.len());
            let ends = (samples.first().map(|s| s.timestamp_ms), samples.last().map(|s| s.timestamp_ms));
            assert_eq!(ends, (Some(chunk.min_time_ms), Some(chunk.max_time_ms)), "{labels:?}");
            (chunks, bytes) = (chunks + 1, bytes + chunk.data.len());
            let series = decoded.entry(labels.clone()).or_default();
            series.extend(samples.iter().map(|s| (s.timestamp_ms, s.value.to_bits())));
        }
    }
    let all = compare(&told, &without_signs_of_zero(&decoded));
    assert_eq!((all.missing, all.more), (0, 0), "SAMPLES: {:?}", all.first);
    let all = compare(&sent, &decoded);
    println!(
        "series_chunks: {chunks} chunks of {bytes} bytes, {} samples compared, missing {}",
        all.expected, all.missing
    );
    assert_eq!((all.missing, all.more), (0, 0), "{:?}", all.first);
    assert_eq!(all.expected, KINDS.len() * 3 * SAMPLES);
    assert!(chunks >= KINDS.len() * 3 * SAMPLES / 130, "{chunks} chunks");
}

//! A reader of both formats, as strict as promtool where it matters, and what the encoder must survive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;

fn sample(labels: &[(&str, &str)], value: Value) -> Sample {
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Sample { labels, value, created_unix_ms: 1_700_000_000_042 }
}

fn family(name: &str, kind: Kind, samples: Vec<Sample>) -> Family {
    Family { samples, help: "Some \"help\"\nwith \\ all".into(), ..Family::new(name, "", kind) }
}

fn encode(families: Vec<Family>, format: Format) -> (String, u64) {
    let mut exposition = Exposition::default();
    families.into_iter().for_each(|f| exposition.add(f));
    (exposition.encode(format), exposition.conflicts)
}

type Read = Vec<(String, String)>;

/// Reads a text back: series and value; fails on what a scraper refuses.
fn read(text: &str, format: Format) -> BTreeMap<(String, Read), String> {
    let (mut out, mut family, mut done, mut ended) = (BTreeMap::new(), String::new(), BTreeSet::new(), false);
    for line in text.lines() {
        assert!(!ended, "after # EOF: {line}");
        if line == "# EOF" {
            assert_eq!(format, Format::OpenMetrics);
            ended = true;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(done.insert(family.clone()), "{family} has two types or is interrupted");
        } else if let Some(rest) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# UNIT ")) {
            assert!(rest.starts_with(&family), "{line}");
        } else {
            let (name, labels, value) = read_sample(line);
            assert!(name.starts_with(family.trim_end_matches("_total")), "{name} stands in {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(out.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    assert_eq!(ended, format == Format::OpenMetrics);
    out
}

fn read_sample(line: &str) -> (String, Read, String) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    let mut labels = Read::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let close = loop {
                match chars.next().expect(line) {
                    (_, '\\') => value.push(match chars.next().expect(line).1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} in {line}"),
                    }),
                    (at, '"') => break at,
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[close + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect(line);
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').expect(line).to_owned())
}

#[test]
fn the_series_are_the_same_in_both_formats_but_for_start_timestamps() {
    let families = || {
        vec![
            family("requests_total", Kind::Counter, vec![sample(&[("region", "shop")], Value::Integer(7))]),
            family("errors", Kind::Counter, vec![sample(&[], Value::Float(0.5))]),
            family("temperature", Kind::Gauge, vec![sample(&[], Value::Float(f64::NEG_INFINITY))]),
            family(
                "latency_seconds",
                Kind::Histogram,
                vec![sample(
                    &[("a", "b")],
                    Value::Histogram { bounds: Arc::new([0.1, 1.0]), counts: vec![1, 2, 3], sum: 9.5 },
                )],
            ),
            family("build_info", Kind::Info, vec![sample(&[("version", "1")], Value::Integer(1))]),
        ]
    };
    let text = read(&encode(families(), Format::Text).0, Format::Text);
    let mut open = read(&encode(families(), Format::OpenMetrics).0, Format::OpenMetrics);
    assert_eq!(open[&("requests_created".into(), vec![("region".into(), "shop".into())])], "1700000000.042");
    open.retain(|(name, _), _| !name.ends_with("_created"));
    assert_eq!(open, text);
    let le = |le: &str| {
        ("latency_seconds_bucket".to_owned(), vec![("a".to_owned(), "b".to_owned()), ("le".to_owned(), le.to_owned())])
    };
    assert_eq!([&text[&le("0.1")], &text[&le("1.0")], &text[&le("+Inf")]], ["1", "3", "6"]);
    assert_eq!(text[&("errors_total".into(), vec![])], "0.5");
}

#[test]
fn hostile_labels_and_help_survive_the_way() {
    let hostile = "a\\b\"c\nd{e},f=\"g\" # EOF ünïcode";
    for format in [Format::Text, Format::OpenMetrics] {
        let (text, _) =
            encode(vec![family("x", Kind::Gauge, vec![sample(&[("l", hostile)], Value::Integer(1))])], format);
        assert_eq!(read(&text, format).keys().next().unwrap().1, [("l".to_owned(), hostile.to_owned())], "{text}");
    }
}

#[test]
fn regions_join_in_one_family_and_contradictions_are_left_out() {
    let of = |region: &str, kind| Family {
        region: region.into(),
        ..family("load", kind, vec![sample(&[("a", "b"), ("region", "eu")], Value::Signed(-1))])
    };
    let (text, conflicts) =
        encode(vec![of("shop", Kind::Gauge), of("cart", Kind::Gauge), of("bank", Kind::Counter)], Format::Text);
    assert_eq!((read(&text, Format::Text).len(), conflicts), (2, 1));
    assert!(text.contains("load{region=\"cart\",a=\"b\",exported_region=\"eu\"} -1\n"), "{text}");
    // A gauge that is called as a part of a histogram.
    let histogram = family(
        "h",
        Kind::Histogram,
        vec![sample(&[], Value::Histogram { bounds: Arc::new([]), counts: vec![2], sum: 1.0 })],
    );
    let (text, conflicts) =
        encode(vec![histogram, family("h_count", Kind::Gauge, vec![sample(&[], Value::Integer(1))])], Format::Text);
    assert_eq!((read(&text, Format::Text).len(), conflicts), (3, 1));
}

#[test]
fn a_unit_is_said_only_where_the_name_ends_with_it() {
    let with = |name: &str| Family { unit: "seconds".into(), ..family(name, Kind::Gauge, vec![]) };
    assert!(encode(vec![with("a_seconds")], Format::OpenMetrics).0.contains("# UNIT a_seconds seconds\n"));
    assert!(!encode(vec![with("a")], Format::OpenMetrics).0.contains("# UNIT"));
}

#[test]
fn what_prometheus_asks_for_is_what_it_gets() {
    let v3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,/;q=0.1";
    assert_eq!(negotiate(v3), Format::OpenMetrics);
    for (accept, format) in [
        ("", Format::Text),
        ("*/*", Format::Text),
        ("text/plain;version=0.0.4", Format::Text),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("text/plain;version=0.0.4;q=0.6, application/openmetrics-text;version=1.0.0;q=0.5", Format::Text),
        ("application/openmetrics-text; version=\"1.0.0\"", Format::OpenMetrics),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format::Text),
        ("application/vnd.google.protobuf;q=1,;;=,q=", Format::Text),
    ] {
        assert_eq!(negotiate(accept), format, "{accept}");
    }
}

#[test]
fn a_hundred_thousand_series_are_written_in_linear_time() {
    let samples =
        (0..100_000).map(|i| sample(&[("region", "shop"), ("n", &i.to_string())], Value::Integer(i))).collect();
    let begun = std::time::Instant::now();
    let (text, _) = encode(vec![family("many_total", Kind::Counter, samples)], Format::OpenMetrics);
    assert_eq!(text.lines().count(), 200_000 + 3);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

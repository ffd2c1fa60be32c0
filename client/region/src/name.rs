//! Names: what a region, a version, a metric, a label and an object may be called.
//!
//! Metrics and labels follow Prometheus' data model (<https://prometheus.io/docs/concepts/data_model/>), with the
//! suffixes that OpenMetrics gives to samples kept free, so that no two families can expose the same sample name:
//! a counter's samples end in `_total` (it is appended if the caller left it out, as Prometheus' own client libraries do),
//! a histogram's in `_bucket`, `_sum` and `_count`, and `_created` belongs to start timestamps. A family is known by its
//! name without `_total`, so a gauge `x` beside a counter `x_total` is refused as another kind.
//!
//! Everything here is pure, and every length is bounded: names are copied into the region, where space is shared.

use crate::error::Misuse;

/// Longest metric, label or object name in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest label value in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 1024;
/// Most labels of one series.
pub const LABELS_MAX: usize = 32;
/// Most labels of one time series.
pub const SERIES_LABELS_MAX: usize = 256;
/// Longest name or value of a time series' label in bytes; all of them together are bounded by the entry's 16 KiB.
pub const SERIES_TEXT_BYTES_MAX: usize = 12 * 1024;
/// Longest text of a family's help in bytes.
pub const HELP_BYTES_MAX: usize = 2048;
/// Longest version label in bytes.
pub const VERSION_BYTES_MAX: usize = 63;

const METRIC_RULE: &str = "[a-zA-Z_:][a-zA-Z0-9_:]*, at most 255 bytes, not starting with __";
const SUFFIX_RULE: &str =
    "the suffixes _bucket, _sum, _count and _created, and _total of all but counters, belong to samples";
const LABEL_RULE: &str = "[a-zA-Z_][a-zA-Z0-9_]*, at most 255 bytes, not starting with __";
const OBJECT_RULE: &str = "[a-zA-Z_][a-zA-Z0-9_.:/-]*, at most 255 bytes";
const SERVICE_RULE: &str = "[a-z][a-z0-9-]{0,62}, or that with .replica, where replica is [a-z0-9][a-z0-9-]{0,62}";
const VERSION_RULE: &str = "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,62}";

/// A checked region name, in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionName<'a> {
    /// The service, `shop`.
    pub service: &'a str,
    /// The replica, `0` in `shop.0`.
    pub replica: Option<&'a str>,
}

/// Checks a region's name: `service` or `service.replica`.
///
/// # Errors
/// [`Misuse::Name`].
pub fn region(name: &str) -> Result<RegionName<'_>, Misuse> {
    let parts = match name.split_once('.') {
        Some((service, replica)) => RegionName { service, replica: Some(replica) },
        None => RegionName { service: name, replica: None },
    };
    let label = |s: &str| s.len() <= 63 && all(s, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let ok = label(parts.service)
        && first(parts.service, |c| c.is_ascii_lowercase())
        && parts.replica.is_none_or(|r| label(r) && first(r, |c| c != b'-'));
    if ok { Ok(parts) } else { Err(refuse("region name", name, SERVICE_RULE)) }
}

/// Checks a service's name: a region's without replica.
///
/// # Errors
/// [`Misuse::Name`].
pub fn service(name: &str) -> Result<(), Misuse> {
    match region(name)? {
        RegionName { replica: None, .. } => Ok(()),
        RegionName { .. } => Err(refuse("service name", name, "[a-z][a-z0-9-]{0,62}")),
    }
}

/// Checks a replica's name.
///
/// # Errors
/// [`Misuse::Name`].
pub fn replica(name: &str) -> Result<(), Misuse> {
    match region(&format!("s.{name}")) {
        Ok(_) => Ok(()),
        Err(_) => Err(refuse("replica name", name, "[a-z0-9][a-z0-9-]{0,62}")),
    }
}

/// Checks the label of a build's version.
///
/// # Errors
/// [`Misuse::Name`].
pub fn version(label: &str) -> Result<(), Misuse> {
    let ok = label.len() <= VERSION_BYTES_MAX
        && first(label, |c| c.is_ascii_alphanumeric())
        && all(label, |c| c.is_ascii_alphanumeric() || b"._+-".contains(&c));
    if ok { Ok(()) } else { Err(refuse("version", label, VERSION_RULE)) }
}

/// Checks a metric's name and gives its family's: a counter's without `_total`.
///
/// # Errors
/// [`Misuse::Name`].
pub fn family(name: &str, counter: bool) -> Result<&str, Misuse> {
    let family = if counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
    let ok = name.len() <= NAME_BYTES_MAX - "_total".len()
        && !name.starts_with("__")
        && first(family, |c| c.is_ascii_alphabetic() || c == b'_' || c == b':')
        && all(family, |c| c.is_ascii_alphanumeric() || c == b'_' || c == b':');
    if !ok {
        return Err(refuse("metric name", name, METRIC_RULE));
    }
    if ["_bucket", "_sum", "_count", "_created", "_total"].iter().any(|s| family.ends_with(s)) {
        return Err(refuse("metric name", name, SUFFIX_RULE));
    }
    Ok(family)
}

/// Checks a unit against its family's name: OpenMetrics wants the name to end in it.
///
/// # Errors
/// [`Misuse::Name`].
pub fn unit(unit: &str, family: &str) -> Result<(), Misuse> {
    let ok = unit.is_empty()
        || (all(unit, |c| c.is_ascii_alphanumeric() || c == b'_')
            && family.strip_suffix(unit).is_some_and(|rest| rest.len() > 1 && rest.ends_with('_')));
    if ok {
        Ok(())
    } else {
        Err(refuse("unit", unit, "[a-zA-Z0-9_]*, and the metric's name (before _total) ends in _unit"))
    }
}

/// Checks the help text's length.
///
/// # Errors
/// [`Misuse::Argument`].
pub fn help(text: &str) -> Result<(), Misuse> {
    if text.len() <= HELP_BYTES_MAX {
        return Ok(());
    }
    let found = format!("{} bytes, at most {HELP_BYTES_MAX}", text.len());
    Err(Misuse::Argument { what: "help", found })
}

/// Checks an owned object's name (a cell's).
///
/// # Errors
/// [`Misuse::Name`].
pub fn object(name: &str) -> Result<(), Misuse> {
    let ok = name.len() <= NAME_BYTES_MAX
        && first(name, |c| c.is_ascii_alphabetic() || c == b'_')
        && all(name, |c| c.is_ascii_alphanumeric() || b"_.:/-".contains(&c));
    if ok { Ok(()) } else { Err(refuse("object name", name, OBJECT_RULE)) }
}

/// Checks labels and sorts them by name: their order is no part of a series' identity.
/// A label with an empty value is left out, as in Prometheus it equals no label.
///
/// # Errors
/// [`Misuse::Name`] for a name that is not allowed (`le` on histograms, twice the same); [`Misuse::Argument`] for a value
/// that is too long, or too many labels.
pub fn labels<'a>(labels: &[(&'a str, &'a str)], histogram: bool) -> Result<Vec<(&'a str, &'a str)>, Misuse> {
    if labels.len() > LABELS_MAX {
        let found = format!("{}, at most {LABELS_MAX}", labels.len());
        return Err(Misuse::Argument { what: "number of labels", found });
    }
    let mut sorted = labels.to_vec();
    sorted.sort_unstable();
    for (i, (name, value)) in sorted.iter().enumerate() {
        label(name)?;
        if histogram && *name == "le" {
            return Err(refuse("label name", name, "le is the bucket's own label on histograms"));
        }
        if i > 0 && sorted[i - 1].0 == *name {
            return Err(refuse("label name", name, "each label once"));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            let found = format!("{} bytes for {name}, at most {LABEL_VALUE_BYTES_MAX}", value.len());
            return Err(Misuse::Argument { what: "label value", found });
        }
    }
    sorted.retain(|(_, value)| !value.is_empty());
    Ok(sorted)
}

/// Checks a time series' labels, `__name__` among them: sorted by name, each once, none empty. Prometheus takes any UTF-8,
/// and so do series.
///
/// # Errors
/// [`Misuse::Name`], [`Misuse::Argument`].
pub fn series_labels(labels: &[(&str, &str)]) -> Result<(), Misuse> {
    if labels.is_empty() || labels.len() > SERIES_LABELS_MAX {
        let found = format!("{}, expected 1 to {SERIES_LABELS_MAX}", labels.len());
        return Err(Misuse::Argument { what: "number of labels", found });
    }
    for (i, (name, value)) in labels.iter().enumerate() {
        if name.is_empty() || value.is_empty() {
            return Err(refuse("series label", &format!("{name}={value}"), "neither name nor value is empty"));
        }
        if i > 0 && labels[i - 1].0 >= *name {
            return Err(refuse("series label", name, "labels sorted by name, each once"));
        }
        if name.len() > SERIES_TEXT_BYTES_MAX || value.len() > SERIES_TEXT_BYTES_MAX {
            let found = format!("{} and {} bytes, at most {SERIES_TEXT_BYTES_MAX}", name.len(), value.len());
            return Err(Misuse::Argument { what: "series label", found });
        }
    }
    Ok(())
}

/// Checks one label's name.
///
/// # Errors
/// [`Misuse::Name`].
pub fn label(name: &str) -> Result<(), Misuse> {
    let ok = name.len() <= NAME_BYTES_MAX
        && !name.starts_with("__")
        && first(name, |c| c.is_ascii_alphabetic() || c == b'_')
        && all(name, |c| c.is_ascii_alphanumeric() || c == b'_');
    if ok { Ok(()) } else { Err(refuse("label name", name, LABEL_RULE)) }
}

fn first(s: &str, allowed: impl Fn(u8) -> bool) -> bool {
    s.bytes().next().is_some_and(allowed)
}

fn all(s: &str, allowed: impl Fn(u8) -> bool) -> bool {
    s.bytes().all(allowed)
}

fn refuse(what: &'static str, found: &str, rule: &'static str) -> Misuse {
    // A wrong name may be of any length; the error shows enough of it to find it.
    let shown: String = found.chars().take(120).collect();
    Misuse::Name { what, found: shown, rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_names() {
        assert_eq!(region("shop").unwrap(), RegionName { service: "shop", replica: None });
        assert_eq!(region("shop.0").unwrap(), RegionName { service: "shop", replica: Some("0") });
        let long = "a".repeat(64);
        for bad in
            ["", "Shop", "0shop", "shop.", "shop.-a", "shop.A", "a.b.c", "sh op", "../etc", "shop/x", ".0", "-s", &long]
        {
            assert!(matches!(region(bad), Err(Misuse::Name { what: "region name", .. })), "{bad}");
        }
        assert!(service("shop.0").is_err() && service("shop").is_ok());
        assert!(replica("0").is_ok() && replica("a.b").is_err() && replica("").is_err());
    }

    #[test]
    fn versions() {
        for good in ["v1", "1.2.3+build.7", "2026-11-22_a"] {
            version(good).unwrap();
        }
        for bad in ["", ".1", "v 1", "v\n", &"v".repeat(64)] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metric_names() {
        assert_eq!(family("http_requests_total", true).unwrap(), "http_requests");
        assert_eq!(family("http_requests", true).unwrap(), "http_requests");
        assert_eq!(family("ns:http_seconds", false).unwrap(), "ns:http_seconds");
        for bad in ["", "_total", "0a", "a-b", "a b", "ä", "__name__", "a\0"] {
            assert!(family(bad, true).is_err(), "{bad}");
        }
        for bad in ["a_total", "a_bucket", "a_sum", "a_count", "a_created"] {
            assert!(matches!(family(bad, false), Err(Misuse::Name { rule: SUFFIX_RULE, .. })), "{bad}");
        }
        assert!(family("a_count_total", true).is_err(), "its samples would be those of a histogram a_count");
        assert!(family(&"a".repeat(250), false).is_err());
    }

    #[test]
    fn units_end_the_name() {
        unit("seconds", "request_seconds").unwrap();
        unit("", "requests").unwrap();
        assert!(unit("seconds", "requests").is_err());
        assert!(unit("seconds", "seconds").is_err());
        assert!(unit("s\n", "a_s\n").is_err());
    }

    #[test]
    fn labels_are_sorted_and_unique() {
        assert_eq!(labels(&[("b", "2"), ("a", "1"), ("c", "")], false).unwrap(), [("a", "1"), ("b", "2")]);
        assert!(labels(&[("a", "1"), ("a", "2")], false).is_err());
        assert!(labels(&[("le", "1")], true).is_err());
        assert!(labels(&[("le", "1")], false).is_ok());
        assert!(labels(&[("__a", "1")], false).is_err());
        assert!(labels(&[("a:b", "1")], false).is_err());
        assert!(labels(&[("a", &"x".repeat(1025))], false).is_err());
        assert!(labels(&[("a", "x"); 33], false).is_err());
    }

    #[test]
    fn object_names() {
        object("sessions/eu-1.open").unwrap();
        assert!(object("").is_err() && object("1a").is_err() && object("a b").is_err());
    }
}

//! Label sets as remote write demands them: sorted, unique, named, nothing empty.

use std::fmt::Write as _;

use heirloom_client::series::{Labels, NAME};

use super::wire::Label;

/// What is wrong with a label set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadLabels {
    #[error("no {NAME}")]
    Nameless,
    #[error("the metric name {0:?} does not match [a-zA-Z_:][a-zA-Z0-9_:]*")]
    Metric(String),
    #[error("the label name {0:?} does not match [a-zA-Z_][a-zA-Z0-9_]*")]
    Name(String),
    #[error("the label {0} has an empty value")]
    Empty(String),
    #[error("the label {0} is there twice")]
    Twice(String),
    #[error("labels are not sorted: {0} stands before {1}")]
    Unsorted(String, String),
    #[error("{0}")]
    Refused(String),
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |b: u8| b.is_ascii_alphabetic() || b == b'_' || (colons && b == b':');
    name.bytes().next().is_some_and(fits) && name.bytes().all(|b| fits(b) || b.is_ascii_digit())
}

/// The labels, if they are valid.
///
/// # Errors
/// [`BadLabels`], the first fault.
pub(super) fn checked(labels: &[Label]) -> Result<Labels, BadLabels> {
    for label in labels {
        if !is_name(&label.name, false) {
            return Err(BadLabels::Name(label.name.clone()));
        }
        if label.value.is_empty() {
            return Err(BadLabels::Empty(label.name.clone()));
        }
        if label.name == NAME && !is_name(&label.value, true) {
            return Err(BadLabels::Metric(label.value.clone()));
        }
    }
    for pair in labels.windows(2) {
        let (one, next) = (&pair[0].name, &pair[1].name);
        if one == next {
            return Err(BadLabels::Twice(one.clone()));
        }
        if one > next {
            return Err(BadLabels::Unsorted(one.clone(), next.clone()));
        }
    }
    if !labels.iter().any(|label| label.name == NAME) {
        return Err(BadLabels::Nameless);
    }
    let pairs = labels.iter().map(|label| (label.name.as_str(), label.value.as_str()));
    Labels::new(pairs).map_err(|error| BadLabels::Refused(error.to_string()))
}

/// As people write a series: `up{job="node"}`. Shortened, since it comes from outside and goes into answers.
pub(super) fn written(labels: &[Label]) -> String {
    let name = labels.iter().find(|label| label.name == NAME).map(|label| label.value.as_str());
    let mut text = name.unwrap_or_default().to_owned();
    for (i, label) in labels.iter().filter(|label| label.name != NAME).enumerate() {
        // Writing into a String cannot fail.
        let _ = write!(text, "{}{}={:?}", if i == 0 { "{" } else { "," }, label.name, label.value);
    }
    if labels.iter().any(|label| label.name != NAME) {
        text.push('}');
    }
    if text.len() > 400 {
        text = text.chars().take(400).chain("…".chars()).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<Label> {
        pairs.iter().map(|(n, v)| Label { name: (*n).into(), value: (*v).into() }).collect()
    }

    #[test]
    fn each_fault_has_its_name() {
        let name = (NAME, "up");
        let table = [
            (vec![name, ("a", "1"), ("b", "ä\n")], None),
            (vec![("A", "sorts before _"), (NAME, "a:b")], None),
            (vec![], Some(BadLabels::Nameless)),
            (vec![("a", "1")], Some(BadLabels::Nameless)),
            (vec![(NAME, "2up")], Some(BadLabels::Metric("2up".into()))),
            (vec![(NAME, "")], Some(BadLabels::Empty(NAME.into()))),
            (vec![name, ("a", "")], Some(BadLabels::Empty("a".into()))),
            (vec![name, ("", "a")], Some(BadLabels::Name(String::new()))),
            (vec![name, ("a-b", "1")], Some(BadLabels::Name("a-b".into()))),
            (vec![name, ("a:b", "1")], Some(BadLabels::Name("a:b".into()))),
            (vec![name, ("a", "1"), ("a", "2")], Some(BadLabels::Twice("a".into()))),
            (vec![name, ("b", "1"), ("a", "2")], Some(BadLabels::Unsorted("b".into(), "a".into()))),
            (vec![("a", "1"), name], Some(BadLabels::Unsorted("a".into(), NAME.into()))),
        ];
        for (pairs, fault) in table {
            assert_eq!(checked(&labels(&pairs)).err(), fault, "{pairs:?}");
        }
    }

    #[test]
    fn a_series_is_written_as_people_write_it() {
        assert_eq!(written(&labels(&[(NAME, "up"), ("job", "no\"de"), ("x", "y")])), r#"up{job="no\"de",x="y"}"#);
        assert_eq!(written(&labels(&[(NAME, "up")])), "up");
        assert_eq!(written(&labels(&[("job", "x")])), r#"{job="x"}"#);
        assert!(written(&labels(&[("job", &"x".repeat(9999))])).len() < 500);
    }
}

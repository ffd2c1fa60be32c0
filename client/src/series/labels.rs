//! Label sets.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use heirloom_region::error::Misuse;
use heirloom_region::name;

/// The label that holds a series' name.
pub const NAME: &str = "__name__";

/// A series' identity: its name and its labels, sorted, none of them empty. Cheap to clone.
///
/// ```
/// use heirloom_client::series::Labels;
///
/// # fn main() -> Result<(), heirloom_client::Error> {
/// let labels = Labels::new([("__name__", "up"), ("job", "shop"), ("zone", "")])?;
/// assert_eq!((labels.name(), labels.get("job"), labels.get("zone")), ("up", Some("shop"), None));
/// assert_eq!(labels.to_string(), r#"up{job="shop"}"#);
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Names and values one after the other.
    text: Arc<str>,
    /// Where each of them ends in `text`.
    ends: Arc<[u32]>,
}

impl Labels {
    /// Sorts and checks. A label with an empty value is left out: in Prometheus it equals no label.
    ///
    /// # Errors
    /// [`Misuse::Name`] for a name that is not allowed, one that comes twice, or no `__name__`; [`Misuse::Argument`] for a
    /// value that is too long or too many labels.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Misuse> {
        let mut sorted: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        sorted.sort_unstable();
        if !sorted.iter().any(|(name, _)| *name == NAME) {
            let rule = "a series has a name: the label __name__, not empty";
            return Err(Misuse::Name { what: "series", found: Self::of(sorted).to_string(), rule });
        }
        name::series_labels(&sorted)?;
        Ok(Self::of(sorted))
    }

    /// Of pairs that are sorted and checked.
    pub(crate) fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for part in pairs.into_iter().flat_map(|(name, value)| [name, value]) {
            text.push_str(part);
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX)); // names and values are short and few
        }
        Self { text: text.into(), ends: ends.into() }
    }

    /// The value of `__name__`.
    pub fn name(&self) -> &str {
        self.get(NAME).unwrap_or_default()
    }
    /// The value of `name`, if the label is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }
    /// All pairs, sorted by name, `__name__` included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.ends.len() / 2).map(|i| (self.part(2 * i), self.part(2 * i + 1)))
    }

    fn part(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start as usize..self.ends[i] as usize]
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By the first pair that differs, as Prometheus sorts.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

/// As PromQL writes it.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let mut open = "{";
        for (name, value) in self.iter().filter(|(name, _)| *name != NAME) {
            write!(f, "{open}{name}={value:?}")?;
            open = ",";
        }
        if open == "," { f.write_str("}") } else { Ok(()) }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_checked_and_without_empty_ones() -> Result<(), Misuse> {
        let labels = Labels::new([("b", "2"), ("__name__", "up"), ("a", "1"), ("c", "")])?;
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("__name__", "up"), ("a", "1"), ("b", "2")]);
        assert_eq!(labels.to_string(), r#"up{a="1",b="2"}"#);
        assert_eq!(Labels::new([("__name__", "up")])?.to_string(), "up");
        for bad in [&[("a", "1")][..], &[("__name__", "")], &[("__name__", "up"), ("a", "1"), ("a", "2")], &[("", "x")]]
        {
            assert!(matches!(Labels::new(bad.iter().copied()), Err(Misuse::Name { .. })), "{bad:?}");
        }
        Ok(())
    }

    #[test]
    fn order_is_of_pairs() -> Result<(), Misuse> {
        let of = |pairs: &[(&'static str, &'static str)]| Labels::new(pairs.iter().copied());
        // As one text the second would come first: "ab" "c" against "a" "bd".
        assert!(of(&[("__name__", "n"), ("a", "bd")])? < of(&[("__name__", "n"), ("ab", "c")])?);
        assert!(of(&[("__name__", "n")])? < of(&[("__name__", "n"), ("a", "1")])?);
        assert!(of(&[("__name__", "n"), ("a", "2")])? > of(&[("__name__", "n"), ("a", "1"), ("b", "1")])?);
        Ok(())
    }
}

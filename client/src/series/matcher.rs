//! Prometheus' four matchers.

use std::fmt;

/// What a label's value must be. A label that a series does not have is the same as an empty one, so `Equal("zone", "")` wants
/// series without a zone, and `NotEqual("zone", "eu")` takes them too.
///
/// Expressions are Prometheus': anchored at both ends, in RE2's syntax, and a dot matches a newline.
///
/// ```
/// use heirloom_client::series::Matcher;
///
/// let matcher = Matcher::regex("instance", "web-.*");
/// assert_eq!(matcher.to_string(), r#"instance=~"web-.*""#);
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Matcher {
    /// `name="value"`
    Equal(String, String),
    /// `name!="value"`
    NotEqual(String, String),
    /// `name=~"expression"`
    Regex(String, String),
    /// `name!~"expression"`
    NotRegex(String, String),
}

impl Matcher {
    /// `name="value"`
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Matcher::Equal(name.into(), value.into())
    }
    /// `name!="value"`
    pub fn not_equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Matcher::NotEqual(name.into(), value.into())
    }
    /// `name=~"expression"`; compiled, and refused if it is none, where it is used.
    pub fn regex(name: impl Into<String>, expression: impl Into<String>) -> Self {
        Matcher::Regex(name.into(), expression.into())
    }
    /// `name!~"expression"`; as [`regex`](Self::regex).
    pub fn not_regex(name: impl Into<String>, expression: impl Into<String>) -> Self {
        Matcher::NotRegex(name.into(), expression.into())
    }
}

/// As PromQL writes it.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, sign, value) = match self {
            Matcher::Equal(name, value) => (name, "=", value),
            Matcher::NotEqual(name, value) => (name, "!=", value),
            Matcher::Regex(name, value) => (name, "=~", value),
            Matcher::NotRegex(name, value) => (name, "!~", value),
        };
        write!(f, "{name}{sign}{value:?}")
    }
}

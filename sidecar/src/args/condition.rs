//! Conditions of `wait`.

use std::str::FromStr;

/// What `wait` waits for; V is a version's label or an instance's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// V owns.
    Owner(String),
    /// V is eligible, or owns.
    Eligible(String),
    /// No instance of V drains or owns; V is or was attached.
    Drained(String),
    /// No instance of V is attached; one was.
    Left(String),
    /// This generation or a later one is open.
    Generation(u64),
}

impl FromStr for Condition {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let found = match (key, value.is_empty()) {
            ("owner", false) => Some(Condition::Owner(value.into())),
            ("eligible", false) => Some(Condition::Eligible(value.into())),
            ("drained", false) => Some(Condition::Drained(value.into())),
            ("left", false) => Some(Condition::Left(value.into())),
            ("generation", false) => value.parse().ok().map(Condition::Generation),
            _ => None,
        };
        found.ok_or_else(|| "expected one of owner=V, eligible=V, drained=V, left=V, generation=N".into())
    }
}

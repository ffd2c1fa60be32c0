//! Selectors and times, as requests write them.

use heirloom_client::series::{Matcher, NAME};
use promql_parser::label::MatchOp;
use promql_parser::parser::{Expr, parse};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::wire::{LabelMatcher, label_matcher};

/// A series selector, `up{job=~"a|b"}`, as matchers.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn selector(text: &str) -> Result<Vec<Matcher>, String> {
    let bad = |why: &dyn std::fmt::Display| format!("invalid parameter \"match[]\": {text:?}: {why}");
    let Expr::VectorSelector(selector) = parse(text).map_err(|why| bad(&why))? else {
        return Err(bad(&"expected a series selector"));
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err(bad(&"expected a series selector without offset and @"));
    }
    if !selector.matchers.or_matchers.is_empty() {
        return Err(bad(&"expected matchers separated by commas, found \"or\""));
    }
    let named = selector.name.map(|name| Matcher::equal(NAME, name));
    let others = selector.matchers.matchers.into_iter().map(|matcher| match matcher.op {
        MatchOp::Equal => Matcher::Equal(matcher.name, matcher.value),
        MatchOp::NotEqual => Matcher::NotEqual(matcher.name, matcher.value),
        MatchOp::Re(_) => Matcher::Regex(matcher.name, matcher.value),
        MatchOp::NotRe(_) => Matcher::NotRegex(matcher.name, matcher.value),
    });
    Ok(named.into_iter().chain(others).collect())
}

/// Matchers of a remote-read query.
///
/// # Errors
/// What is wrong with one, in words.
pub(super) fn matchers(matchers: Vec<LabelMatcher>) -> Result<Vec<Matcher>, String> {
    let one = |matcher: LabelMatcher| {
        let (kind, name, value) = (matcher.r#type, matcher.name, matcher.value);
        Ok(match label_matcher::Type::try_from(kind).map_err(|e| format!("the matcher of {name}: {e}"))? {
            label_matcher::Type::Eq => Matcher::Equal(name, value),
            label_matcher::Type::Neq => Matcher::NotEqual(name, value),
            label_matcher::Type::Re => Matcher::Regex(name, value),
            label_matcher::Type::Nre => Matcher::NotRegex(name, value),
        })
    };
    matchers.into_iter().map(one).collect()
}

/// Milliseconds since the Unix epoch, from seconds with a fraction or from RFC 3339.
///
/// # Errors
/// What was found.
pub(super) fn time_ms(parameter: &str, text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        // Further away there is no sample, and "infinitely far" is how some clients say "all".
        return if ms.is_nan() { Err(format!("invalid parameter {parameter:?}: {text:?}")) } else { Ok(ms as i64) };
    }
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    let time = parsed.map_err(|_| format!("invalid parameter {parameter:?}: {text:?} is no time"))?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_all_kinds() {
        let equal = |n: &str, v: &str| Matcher::Equal(n.into(), v.into());
        assert_eq!(selector("up").expect("good"), [equal("__name__", "up")]);
        let all = selector(r#"{a="1", b!="2", c=~"3|{x}", d!~"4.*"}"#).expect("good");
        let expected = [
            equal("a", "1"),
            Matcher::NotEqual("b".into(), "2".into()),
            Matcher::Regex("c".into(), "3|{x}".into()),
            Matcher::NotRegex("d".into(), "4.*".into()),
        ];
        assert_eq!(all, expected);
        assert_eq!(selector(r#"a:b{x="\"\n"}"#).expect("good"), [equal("__name__", "a:b"), equal("x", "\"\n")]);
        let bad =
            ["", "{}", "{a=~\".*\"}", "up[5m]", "sum(up)", "up offset 1m", "{a=\"b\" or c=\"d\"}", "{a=~\"(\"}", "{"];
        for text in bad {
            assert!(selector(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_of_both_kinds() {
        let ms = |text| time_ms("start", text).expect("a time");
        assert_eq!(ms("1700000000.1234"), 1_700_000_000_123);
        assert_eq!(ms("-1"), -1000);
        assert_eq!(ms("+Inf"), i64::MAX);
        assert_eq!(ms("2023-11-14T23:13:20.5+01:00"), 1_700_000_000_500);
        assert!(time_ms("start", "yesterday").is_err());
        assert!(time_ms("start", "NaN").is_err());
    }
}

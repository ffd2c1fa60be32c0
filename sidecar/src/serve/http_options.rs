//! What a webhook says: options from the query, from a JSON object, or from the `metadata` of Flagger's payload.
//!
//! Values may be text everywhere, because query and metadata know nothing else. An unknown key is an error: a mistyped
//! `expect_generation` must not become a handover without it.

use std::time::Duration;

use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;
use heirloom_region::arbiter::{SwitchOptions, Target};
use serde_json::{Map, Value};

/// Everything that a verb may be told.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) target: Target,
    pub(crate) handover: Option<u64>,
    pub(crate) switch: SwitchOptions,
}

const KEYS: &str = "version, instance, handover, expect_generation, dry_run, force, note, request_id, wait_ready, \
    prepare_timeout, precopy_timeout, flush_timeout, freeze_timeout, drain_timeout, retire_after";

/// Reads the query's pairs and then the body, which wins.
///
/// # Errors
/// `INVALID_FIELD` names the key.
pub(crate) fn parse(query: &[(String, String)], body: &[u8]) -> Result<Options, Failure> {
    let mut options = Options::default();
    for (key, value) in query {
        set(&mut options, key, &Value::String(value.clone()))?;
    }
    for (key, value) in object(body)? {
        set(&mut options, &key, &value)?;
    }
    Ok(options)
}

/// The object that holds the options: the body itself, or its `metadata` if it is a webhook's of Flagger.
fn object(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let found = |e: &dyn std::fmt::Display| invalid("body", "a JSON object", e);
    match serde_json::from_slice(body).map_err(|e| found(&e))? {
        Value::Object(mut map) if map.contains_key("phase") && map.contains_key("namespace") => {
            match map.remove("metadata") {
                None | Some(Value::Null) => Ok(Map::new()),
                Some(Value::Object(metadata)) => Ok(metadata),
                Some(other) => Err(invalid("metadata", "an object", &other)),
            }
        }
        Value::Object(map) => Ok(map),
        other => Err(found(&other)),
    }
}

fn invalid(key: &str, expected: &str, found: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorReason::InvalidField, format!("{key} cannot be read")).expected(expected).found(found)
}

fn set(options: &mut Options, key: &str, value: &Value) -> Result<(), Failure> {
    let switch = &mut options.switch;
    match key {
        "version" => options.target = Target::Version(text(key, value)?),
        "instance" => options.target = Target::Instance(text(key, value)?),
        "handover" => options.handover = Some(number(key, value)?),
        "expect_generation" => switch.expected_generation = Some(number(key, value)?),
        "dry_run" => switch.validate_only = flag(key, value)?,
        "force" => switch.force = flag(key, value)?,
        "note" => switch.note = text(key, value)?,
        "request_id" => switch.request_id = text(key, value)?,
        "wait_ready" => switch.ready_timeout = Some(duration(key, value)?),
        "prepare_timeout" => switch.prepare_timeout = Some(duration(key, value)?),
        "precopy_timeout" => switch.precopy_timeout = Some(duration(key, value)?),
        "flush_timeout" => switch.flush_timeout = Some(duration(key, value)?),
        "freeze_timeout" => switch.freeze_timeout = Some(duration(key, value)?),
        "drain_timeout" => switch.drain_timeout = Some(duration(key, value)?),
        "retire_after" => switch.retire_after = Some(duration(key, value)?),
        _ => {
            return Err(Failure::new(ErrorReason::InvalidField, format!("{key} is not known"))
                .expected(KEYS)
                .found(key));
        }
    }
    Ok(())
}

fn text(key: &str, value: &Value) -> Result<String, Failure> {
    value.as_str().map(str::to_owned).ok_or_else(|| invalid(key, "text", value))
}

fn number(key: &str, value: &Value) -> Result<u64, Failure> {
    let read = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    read.ok_or_else(|| invalid(key, "a whole number", value))
}

fn flag(key: &str, value: &Value) -> Result<bool, Failure> {
    let read = value.as_bool().or_else(|| value.as_str()?.parse().ok());
    read.ok_or_else(|| invalid(key, "true or false", value))
}

fn duration(key: &str, value: &Value) -> Result<Duration, Failure> {
    let read = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    read.ok_or_else(|| invalid(key, "a duration with its unit, such as \"30s\"", value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_body_and_flaggers_metadata_say_the_same() {
        let pairs = [("version", "2.0.0"), ("expect_generation", "7"), ("dry_run", "true"), ("freeze_timeout", "20ms")];
        let query: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let by_query = parse(&query, b"").unwrap();
        let body = br#"{"version":"2.0.0","expect_generation":7,"dry_run":true,"freeze_timeout":"20ms"}"#;
        assert_eq!(by_query, parse(&[], body).unwrap());
        let flagger = br#"{"name":"shop","namespace":"prod","phase":"Progressing","checksum":"85f","metadata":
            {"version":"2.0.0","expect_generation":"7","dry_run":"true","freeze_timeout":"20ms"}}"#;
        assert_eq!(by_query, parse(&[], flagger).unwrap());
        assert_eq!(by_query.target, Target::Version("2.0.0".into()));
    }

    #[test]
    fn what_cannot_be_read_names_its_key() {
        for (body, named) in [
            (r#"{"expect_genration":7}"#, "expect_genration"),
            (r#"{"expect_generation":-7}"#, "expect_generation"),
            (r#"{"freeze_timeout":20}"#, "freeze_timeout"),
            (r#"{"freeze_timeout":"20"}"#, "freeze_timeout"),
            (r#"{"force":"perhaps"}"#, "force"),
            ("[]", "body"),
            ("{", "body"),
            ("\u{0}", "body"),
        ] {
            let failure = parse(&[], body.as_bytes()).unwrap_err();
            assert!(failure.message.contains(named) && failure.expected.is_some(), "{body}: {failure:?}");
        }
    }
}

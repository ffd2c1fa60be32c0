//! From the flags of a switch to what the protocol takes, and the question that `--force` asks.

use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use heirloom_proto::reason::exit;
use heirloom_proto::v1::SwitchOptions;

use super::failed::Failed;
use super::print::Printer;
use crate::args::Switch;

/// Makes sending again a joining.
pub(crate) fn new_request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The options of the protocol, every time in its unit.
pub(crate) fn options(switch: &Switch, wait_ready: Option<Duration>) -> Result<SwitchOptions, Failed> {
    Ok(SwitchOptions {
        expected_generation: switch.expect_generation,
        request_id: switch.request_id.map_or_else(new_request_id, |id| id.to_string()),
        validate_only: switch.dry_run,
        force: switch.force,
        follow_drain: switch.follow_drain,
        note: switch.note.clone().unwrap_or_default(),
        ready_timeout_ms: millis("--wait-ready", wait_ready)?,
        prepare_timeout_ms: millis("--prepare-timeout", switch.prepare_timeout)?,
        precopy_timeout_ms: millis("--precopy-timeout", switch.precopy_timeout)?,
        flush_timeout_ms: millis("--flush-timeout", switch.flush_timeout)?,
        freeze_timeout_us: in_units("--freeze-timeout", switch.freeze_timeout, Duration::from_micros(1))?,
        drain_timeout_ms: millis("--drain-timeout", switch.drain_timeout)?,
        retire_after_ms: millis("--retire-after", switch.retire_after)?,
    })
}

/// Milliseconds, rounded up so that a short time is not none.
pub(crate) fn millis(flag: &str, time: Option<Duration>) -> Result<Option<u32>, Failed> {
    in_units(flag, time, Duration::from_millis(1))
}

fn in_units(flag: &str, time: Option<Duration>, unit: Duration) -> Result<Option<u32>, Failed> {
    let Some(time) = time else { return Ok(None) };
    match u32::try_from(time.as_nanos().div_ceil(unit.as_nanos())) {
        Ok(n) => Ok(Some(n)),
        Err(_) => {
            let most = humantime::format_duration(Duration::from_secs((unit * u32::MAX).as_secs()));
            let wrong = Failed::usage(format!("{flag} is too long"));
            Err(wrong.expected(format!("at most {most}")).found(humantime::format_duration(time)))
        }
    }
}

/// `--force` may kill a process: a person is asked, a program must have said `--yes`.
pub(crate) fn confirm(switch: &Switch, printer: Printer, region: &str) -> Result<(), Failed> {
    if !switch.force || switch.yes || switch.dry_run {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failed::usage("--force needs --yes where nobody can be asked")
            .expected("--yes")
            .found("no terminal"));
    }
    Printer { quiet: false, ..printer }
        .note(&format!("If the owner of {region} does not quiesce it is killed (SIGKILL). Go on? [y/N]"));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|e| Failed::io("terminal", &e))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        other => {
            let mut refused = Failed::usage("not confirmed").expected("y").found(format!("{other:?}"));
            (refused.exit_code, refused.reason) = (exit::REFUSED, None);
            Err(refused)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_length() {
        let some = |d| Some(d);
        assert_eq!(millis("--x", None), Ok(None));
        assert_eq!(millis("--x", some(Duration::ZERO)), Ok(Some(0)));
        assert_eq!(millis("--x", some(Duration::from_micros(1))), Ok(Some(1)));
        assert_eq!(in_units("--x", some(Duration::from_millis(50)), Duration::from_micros(1)), Ok(Some(50_000)));
        let long = millis("--x", some(Duration::from_secs(1 << 33))).unwrap_err();
        assert_eq!(long.exit_code, exit::USAGE);
        assert!(long.text().contains("expected at most 1month 19days"), "{}", long.text());
    }
}

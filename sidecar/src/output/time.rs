//! Times for people and for JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// The last second of the year 9999: RFC 3339 ends there.
const SECONDS_MAX: i64 = 253_402_300_799;

/// RFC 3339 in UTC with milliseconds; `None` for a time that has no such form.
pub(crate) fn rfc3339(time: &Timestamp) -> Option<String> {
    system_time(time).map(|t| humantime::format_rfc3339_millis(t).to_string())
}

/// The time as the system has it; `None` before 1970 or after 9999.
pub(crate) fn system_time(time: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(time.seconds).ok().filter(|_| time.seconds <= SECONDS_MAX)?;
    let nanos = u32::try_from(time.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    Some(UNIX_EPOCH + Duration::new(seconds, nanos))
}

/// `4s ago`, `3h ago`, `2d ago`: one unit, for a table. `now` is given by the caller.
pub(crate) fn ago(time: &Timestamp, now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(system_time(time)?).unwrap_or_default().as_secs();
    Some(match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        7200..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86400),
    })
}

/// Microseconds with the unit that fits: `63 µs`, `2.3 ms`, `1.20 s`.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        1_000_000..60_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => format!("{}m {}s", us / 60_000_000, us / 1_000_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let at = |seconds, nanos| rfc3339(&Timestamp { seconds, nanos });
        assert_eq!(at(1_778_313_600, 1_000_000).as_deref(), Some("2026-05-09T08:00:00.001Z"));
        assert_eq!(at(SECONDS_MAX, 0).as_deref(), Some("9999-12-31T23:59:59.000Z"));
        for (seconds, nanos) in
            [(-1, 0), (SECONDS_MAX + 1, 0), (i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)]
        {
            assert_eq!(at(seconds, nanos), None, "{seconds} {nanos}");
        }
    }

    #[test]
    fn people_get_one_unit() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |s: i64| ago(&Timestamp { seconds: 1_000_000 - s, nanos: 0 }, now).unwrap();
        assert_eq!(
            [ago(4), ago(-5), ago(600), ago(7200), ago(500_000)],
            ["4s ago", "0s ago", "10m ago", "2h ago", "5d ago"]
        );
        let text: Vec<_> = [63, 2300, 208_114, 1_200_000, 61_000_000].map(micros).into();
        assert_eq!(text, ["63 µs", "2.3 ms", "208 ms", "1.20 s", "1m 1s"]);
    }
}

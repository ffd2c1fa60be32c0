//! Waiting for a state, with an end.

use std::thread;
use std::time::{Duration, Instant};

/// The usual patience: far longer than anything takes that works, on a loaded machine too.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `state` until it gives something, for at most [`PATIENCE`].
///
/// # Panics
/// If the time is over; the message says what was waited for, and what `state` said last.
#[track_caller]
pub fn until<T, E: std::fmt::Display>(what: &str, state: impl FnMut() -> Result<T, E>) -> T {
    until_within(PATIENCE, what, state)
}

/// As [`until`], with another end.
///
/// # Panics
/// As [`until`].
#[track_caller]
pub fn until_within<T, E: std::fmt::Display>(
    patience: Duration,
    what: &str,
    mut state: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match state() {
            Ok(reached) => return reached,
            Err(found) if Instant::now() > deadline => panic!("expected {what} within {patience:?}, found: {found}"),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// `Ok` if it holds, otherwise what was found, for [`until`].
///
/// # Errors
/// If it does not hold.
pub fn holds(condition: bool, found: impl std::fmt::Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(found.to_string()) }
}

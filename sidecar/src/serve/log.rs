//! Where log records go: stderr, as text or one JSON object a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::ServeError;
use crate::config::{ConfigError, Log, LogFormat, Verdict};

/// Installs the process' log subscriber; `RUST_LOG` wins over the configured level. Does nothing if one is installed.
///
/// # Errors
/// [`ServeError::Config`] if the level cannot be read.
pub fn init(log: &Log) -> Result<(), ServeError> {
    let refused = |message: String| ConfigError::Refused(Verdict { key: "log.level".into(), ok: false, message });
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => text,
        _ => log.level.clone(),
    };
    let filter: EnvFilter =
        filter.parse().map_err(|e| refused(format!("expected a level or filter, found \"{filter}\": {e}")))?;
    // Colours are for a terminal; journald and files would keep them as escape sequences.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    Ok(())
}

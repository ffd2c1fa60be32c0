//! `config show` and `config check`.

use heirloom_proto::reason::exit;

use super::failed::Failed;
use super::print::{Printer, table};
use crate::args::{ConfigVerb, Global};
use crate::config::{Config, ConfigError, Overrides, Verdict};
use crate::output::Failure;

pub(crate) fn run(printer: Printer, global: &Global, verb: &ConfigVerb) -> Result<u8, Failed> {
    match verb {
        ConfigVerb::Show { default: true, .. } => show(printer, &Config::default()),
        ConfigVerb::Show { config, .. } => {
            let socket = global.socket.clone().map(Into::into);
            let overrides = Overrides { socket, ..Overrides::default() };
            show(printer, &Config::load(config.as_deref(), overrides).map_err(|e| wrong(&e))?)
        }
        ConfigVerb::Check { file } => {
            let config = Config::load(Some(file), Overrides::default()).map_err(|e| wrong(&e))?;
            Ok(verdicts(printer, &config.check(), None))
        }
    }
}

fn show(printer: Printer, config: &Config) -> Result<u8, Failed> {
    let text = toml::to_string_pretty(config).map_err(|e| Failed::io("configuration", &std::io::Error::other(e)))?;
    printer.result(config, || text);
    Ok(exit::DONE)
}

/// A configuration that is not accepted is wrong usage.
pub(super) fn wrong(error: &ConfigError) -> Failed {
    Failed::usage(error.to_string())
}

/// Prints what was found and gives 0; 2 if the daemon would not start, unless what is bad is not the configuration but `worst`.
pub(super) fn verdicts(printer: Printer, verdicts: &[Verdict], worst: Option<Failed>) -> u8 {
    let rows = verdicts.iter().map(|v| {
        let ok = if v.ok { "good" } else { "WRONG" };
        [v.key.clone(), ok.to_owned(), v.message.clone()]
    });
    let bad: Vec<_> = verdicts.iter().filter(|v| !v.ok).collect();
    if bad.is_empty() {
        printer.result(&verdicts, || table(["KEY", "VERDICT", "FOUND"], &[], rows));
        return exit::DONE;
    }
    let message = bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
    let failed = match worst {
        Some(worst) => Failed { message, ..worst },
        None => Failed::usage(message),
    };
    if printer.is_json() {
        printer.json(&Failure::from(&failed));
    } else {
        printer.text(&table(["KEY", "VERDICT", "FOUND"], &[], rows));
    }
    printer.error(&failed);
    failed.exit_code
}

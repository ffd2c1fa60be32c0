//! Writing to people and programs. With `-o json` standard output holds exactly one object.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::failed::Failed;
use crate::args::{Global, Output, When};
use crate::output;

/// Where and how this run prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    pub(crate) output: Output,
    pub(crate) quiet: bool,
}

impl Printer {
    /// Sets the colours of the whole process, too.
    pub(crate) fn new(global: &Global) -> Self {
        let choice = match global.color {
            When::Auto => anstream::ColorChoice::Auto,
            When::Always => anstream::ColorChoice::Always,
            When::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        Printer { output: global.output, quiet: global.quiet }
    }

    pub(crate) fn is_json(&self) -> bool {
        matches!(self.output, Output::Json | Output::Jsonl)
    }
    pub(crate) fn is_wide(&self) -> bool {
        self.output == Output::Wide
    }
    /// Somebody looks at a terminal and wants to see it move.
    pub(crate) fn is_live(&self) -> bool {
        !self.is_json() && !self.quiet && std::io::stderr().is_terminal() && std::io::stdout().is_terminal()
    }

    /// The object if a program reads, the text if people do.
    pub(crate) fn result<T: Serialize>(&self, object: &T, text: impl FnOnce() -> String) {
        if self.quiet {
        } else if self.is_json() {
            self.json(object);
        } else {
            self.text(&text());
        }
    }
    /// One object: on one line among others, on many alone.
    pub(crate) fn json<T: Serialize>(&self, object: &T) {
        let text = match self.output {
            Output::Jsonl => serde_json::to_string(object),
            _ => serde_json::to_string_pretty(object),
        };
        // The types of `output` hold no maps with keys that are not text, nothing else fails.
        self.out(&text.unwrap_or_else(|e| format!("{{\"outcome\":\"internal\",\"message\":\"{e}\"}}")));
    }
    /// One object on one line, for events.
    pub(crate) fn json_line<T: Serialize>(&self, object: &T) {
        Printer { output: Output::Jsonl, ..*self }.json(object);
    }
    /// A line or more for people.
    pub(crate) fn text(&self, text: &str) {
        if !self.quiet {
            self.out(text);
        }
    }
    /// A reader that has gone is no error of ours. A full disk is said, and the exit code stays: it tells what was done.
    fn out(&self, text: &str) {
        let mut out = anstream::stdout().lock();
        let written = writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush());
        if let Err(error) = written
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            let _ = writeln!(anstream::stderr().lock(), "error: cannot write to standard output: {error}");
        }
    }
    /// A remark beside the result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        }
    }
    /// Why it failed: text on standard error, and with `-o json` the object on standard output.
    pub(crate) fn failed(&self, failed: &Failed) {
        if self.is_json() {
            self.json(&output::Failure::from(failed));
        }
        self.error(failed);
    }
    /// Why there is no handover of this region; a program gets an object of a handover's shape. Gives the exit code.
    pub(crate) fn no_handover(&self, failed: Failed, region: &str) -> u8 {
        let failed = failed.in_region(region);
        if self.is_json() {
            self.json(&failed.to_handover(region));
        }
        self.error(&failed);
        failed.exit_code
    }
    /// The text alone.
    pub(crate) fn error(&self, failed: &Failed) {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        let _ = writeln!(anstream::stderr().lock(), "{red}error:{red:#} {}", failed.text());
    }
}

/// A table without lines; numbers in the columns named stand right.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    let columns = table.column_count();
    for (n, column) in table.column_iter_mut().enumerate() {
        // Two blanks between columns, none at the ends.
        column.set_padding((0, if n + 1 == columns { 0 } else { 2 }));
        if right.contains(&n) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Bytes with the unit that fits, as in `393M`.
pub(crate) fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "");
    for next in ["K", "M", "G", "T"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit.is_empty() || value >= 10.0 || value.fract() < 0.05 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// `12 connection, 4 request`; empty if nothing is left.
pub(crate) fn counts(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let left = counts.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{n} {kind}"));
    left.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_trailing_blanks() {
        let rows = [["shop".to_owned(), "8".to_owned()], ["cart.0".to_owned(), "31".to_owned()]];
        assert_eq!(table(["REGION", "GEN"], &[1], rows), "REGION  GEN\nshop      8\ncart.0   31");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1023, 1024, 1536, 412_090_368, 8 << 30].map(bytes), ["0", "1023", "1K", "1.5K", "393M", "8G"]);
    }
}

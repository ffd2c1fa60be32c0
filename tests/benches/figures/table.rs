//! The table at the end.

use std::fmt;

/// One row, in words.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) ours: String,
    pub(crate) against: String,
    pub(crate) ratio: String,
    pub(crate) asked: String,
    /// Whether it is what was asked; `None` where only a report is.
    pub(crate) met: Option<bool>,
}

/// Rows in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "ours", "against", "ratio", "asked", "met?"].map(String::from);
        let lines: Vec<[String; 6]> = self.rows.iter().map(Row::words).collect();
        let all = || std::iter::once(&head).chain(&lines);
        let widths: Vec<usize> =
            (0..6).map(|column| all().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
        for (i, line) in all().enumerate() {
            for (word, width) in line.iter().zip(&widths) {
                write!(f, "| {word:width$} ")?;
            }
            writeln!(f, "|")?;
            if i == 0 {
                for width in &widths {
                    write!(f, "|{:-<1$}", "", width + 2)?;
                }
                writeln!(f, "|")?;
            }
        }
        let missed = self.rows.iter().filter(|row| row.met == Some(false)).count();
        let asked = self.rows.iter().filter(|row| row.met.is_some()).count();
        write!(f, "{} of {asked} targets met", asked - missed)
    }
}

impl Row {
    fn words(&self) -> [String; 6] {
        let met = match self.met {
            None => "-",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        [&self.what, &self.ours, &self.against, &self.ratio, &self.asked, met].map(|word| word.to_string())
    }
}

/// A time in the unit that suits it.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.2} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

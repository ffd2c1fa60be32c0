//! `verify`: every checksum of a region, asked of the sidecar or read from a file.
//!
//! Invariant: a file is opened to read only and never changed, whether a sidecar is running or not. Pages that their owner
//! has written since the last completed round are not judged, because their checksums are not due yet.

use std::path::Path;

use heirloom_proto::names;
use heirloom_proto::reason::exit;
use heirloom_proto::v1::{ErrorReason, VerifyEvent, VerifyRegionRequest};
use heirloom_region::error::{Corrupt, Error, Incompatible};
use heirloom_region::mapping::Mapping;
use indicatif::{ProgressBar, ProgressStyle};
use tonic::Code;

use super::connect::Sidecar;
use super::failed::{Asked, Failed};
use super::print::{Printer, table};
use crate::output::{ByteRange, Fault, Verify};

/// Faults that are listed; the others are counted.
const FAULTS_MAX: usize = 100;

/// A region that a sidecar serves.
pub(crate) async fn live(sidecar: &Sidecar, printer: Printer, region: &str) -> Result<u8, Failed> {
    let failed = |failed: Failed| failed.in_region(region);
    let mut client = sidecar.client().await?;
    let request = VerifyRegionRequest { name: names::region(region) };
    let answer = sidecar.answer(Asked::ToRead, client.verify_region(request)).await;
    let mut events = answer.map_err(failed)?;
    let bar = progress(printer);
    let mut last = VerifyEvent::default();
    loop {
        match events.message().await {
            Ok(Some(event)) => {
                show(&bar, event.checked_bytes, event.total_bytes);
                bar.set_message(match event.paused_by {
                    0 => String::new(),
                    number => format!("waits for handover {number}"),
                });
                last = event;
            }
            Ok(None) => break,
            // The fault itself came before, in an event.
            Err(status) if status.code() == Code::DataLoss && last.fault_count > 0 => break,
            Err(status) => {
                bar.finish_and_clear();
                return Err(failed(sidecar.failed(&status, Asked::ToRead)));
            }
        }
    }
    bar.finish_and_clear();
    let found = Found {
        checked_bytes: last.checked_bytes,
        total_bytes: last.total_bytes,
        series_checked: last.series_checked,
        fault_count: last.fault_count,
        faults: last.faults.iter().map(Fault::from).collect(),
        unverifiable_bytes: last.unverifiable_bytes,
        unverifiable: last.unverifiable.iter().map(|it| it.offset_bytes..it.offset_bytes + it.len_bytes).collect(),
    };
    Ok(report(printer, Of::Region(region), found))
}

/// A region's file.
pub(crate) fn file(printer: Printer, path: &Path) -> Result<u8, Failed> {
    let region = open(path)?;
    let bar = progress(printer);
    let found = heirloom_region::digest::verify_file(&region, &mut |checked, of| show(&bar, checked, of));
    bar.finish_and_clear();
    if let Some(poison) = region.poisoned() {
        return Err(region_error(path, &Error::Corrupt(poison)));
    }
    let found = Found {
        checked_bytes: found.checked_bytes,
        total_bytes: found.checked_bytes,
        series_checked: crate::serve::verify::series_count(&region),
        fault_count: found.faults.len() as u64,
        faults: found.faults.into_iter().take(FAULTS_MAX).map(fault).collect(),
        unverifiable_bytes: found.unverifiable.iter().map(|it| it.end - it.start).sum(),
        unverifiable: found.unverifiable.into_iter().take(FAULTS_MAX).collect(),
    };
    Ok(report(printer, Of::File(path, other_name(path, &region)), found))
}

/// Its bytes may be whole, and still no sidecar serves it: a copy, a backup.
fn other_name(path: &Path, region: &Mapping) -> Option<String> {
    let (file, name) = (path.file_name().unwrap_or_default(), region.name());
    (file != name).then(|| {
        format!(
            "this is region {name}: a sidecar serves it from a file of that name, and would set it aside as {}",
            file.display()
        )
    })
}

/// Opens a region's file to read only.
pub(super) fn open(path: &Path) -> Result<std::sync::Arc<Mapping>, Failed> {
    Mapping::open_file(path, true).map_err(|e| region_error(path, &e))
}

pub(super) fn fault(it: heirloom_region::digest::Fault) -> Fault {
    let reason = ErrorReason::from_str_name(it.reason()).unwrap_or(ErrorReason::RegionCorrupt);
    Fault {
        structure: it.structure,
        offset_bytes: it.offset_bytes,
        expected: it.expected,
        found: it.found,
        reason: reason.as_str_name().to_owned(),
    }
}

/// What an error of the region crate means for a verb that reads the file at `path`.
pub(super) fn region_error(path: &Path, error: &Error) -> Failed {
    let reason = ErrorReason::from_str_name(error.reason()).unwrap_or(ErrorReason::Unspecified);
    let message = format!("{}: {error}", path.display());
    let mut failed: Failed = heirloom_proto::Failure::new(reason, message).into();
    let (expected, found) = match error {
        Error::Corrupt(corrupt) => match corrupt {
            Corrupt::Checksum { expected, found, .. } => (format!("crc {expected:#010x}"), format!("{found:#010x}")),
            Corrupt::Field { expected, found, .. } => (expected.to_string(), format!("{found:#x}")),
            Corrupt::Foreign { expected, found } => (format!("magic \"{expected}\""), format!("\"{found}\"")),
            Corrupt::Truncated { expected_bytes, found_bytes, .. } => {
                (format!("{expected_bytes} bytes"), found_bytes.to_string())
            }
            Corrupt::Identity { expected, found, .. } => (expected.clone(), found.clone()),
            Corrupt::OutOfBounds { offset, bound, .. } => (format!("bytes below {bound}"), offset.to_string()),
            _ => return failed,
        },
        Error::Incompatible(Incompatible::Format { expected, found }) => {
            (format!("region format {expected}"), found.clone())
        }
        Error::Io { source, .. } => {
            // A path that cannot be opened is the caller's.
            failed.exit_code = exit::USAGE;
            failed.message = format!("{}: cannot be read", path.display());
            ("a region's file that this user may read".to_owned(), source.to_string())
        }
        _ => return failed,
    };
    failed.expected(expected).found(found)
}

enum Of<'a> {
    Region(&'a str),
    File(&'a Path, Option<String>),
}

/// What the sidecar or the file said.
struct Found {
    checked_bytes: u64,
    total_bytes: u64,
    series_checked: u64,
    fault_count: u64,
    faults: Vec<Fault>,
    unverifiable_bytes: u64,
    unverifiable: Vec<std::ops::Range<u64>>,
}

fn report(printer: Printer, of: Of<'_>, found: Found) -> u8 {
    let is_intact = found.fault_count == 0;
    let (region, file, note) = match of {
        Of::Region(name) => (Some(name.to_owned()), None, None),
        Of::File(path, note) => (None, Some(path.display().to_string()), note),
    };
    let what = region.clone().or(file.clone()).unwrap_or_default();
    let object = Verify {
        outcome: if is_intact { "intact" } else { "corrupt" }.to_owned(),
        exit_code: if is_intact { exit::DONE } else { exit::CORRUPT },
        region,
        file,
        note,
        checked_bytes: found.checked_bytes,
        total_bytes: found.total_bytes,
        series_checked: found.series_checked,
        fault_count: found.fault_count,
        faults: found.faults,
        unverifiable_bytes: found.unverifiable_bytes,
        unverifiable: found
            .unverifiable
            .iter()
            .map(|it| ByteRange { offset_bytes: it.start, len_bytes: it.end - it.start })
            .collect(),
    };
    printer.result(&object, || {
        let checked = super::print::bytes(object.checked_bytes);
        let mut text = format!("{what}: {}, {checked} checked, {} faults", object.outcome, object.fault_count);
        if object.series_checked > 0 {
            text.push_str(&format!(", {} series", object.series_checked));
        }
        if object.unverifiable_bytes > 0 {
            let unverifiable = super::print::bytes(object.unverifiable_bytes);
            text.push_str(&format!(", {unverifiable} unverifiable since a reboot"));
        }
        if let Some(note) = &object.note {
            text.push_str(&format!("\nnote: {note}"));
        }
        if !is_intact {
            let rows = object
                .faults
                .iter()
                .map(|f| [f.structure.clone(), format!("{:#x}", f.offset_bytes), f.expected.clone(), f.found.clone()]);
            text.push_str(&format!("\n{}", table(["STRUCTURE", "AT BYTE", "EXPECTED", "FOUND"], &[1], rows)));
        }
        text
    });
    if let Some(first) = object.faults.first().filter(|_| !is_intact) {
        let mut failed = Failed::usage(format!("{what}: {} at byte {}", first.structure, first.offset_bytes));
        failed = failed.expected(&first.expected).found(&first.found);
        (failed.exit_code, failed.reason) = (exit::CORRUPT, ErrorReason::from_str_name(&first.reason));
        failed.region = object.region.clone();
        printer.error(&failed);
    }
    object.exit_code
}

fn progress(printer: Printer) -> ProgressBar {
    if !printer.is_live() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("verify {bar:30.cyan} {bytes} of {total_bytes} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, checked: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(checked);
}

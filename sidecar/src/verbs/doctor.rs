//! `doctor`: what this host allows, and what that means. It changes nothing that outlives it.
//!
//! Each check tries the thing itself rather than a version number, because a container's seccomp profile decides more than
//! the kernel's age. "Missing" is what Heirloom cannot work without; everything else is a warning with advice.

mod kernel;
mod storage;

use std::path::Path;

use heirloom_proto::reason::exit;
use heirloom_proto::v1::GetServerInfoRequest;

use super::connect::Sidecar;
use super::failed::{Asked, Failed};
use super::print::{Printer, table};
use crate::output::{Check, CheckVerdict, Doctor};

pub(crate) async fn run(sidecar: &Sidecar, printer: Printer, region_dir: &Path) -> Result<u8, Failed> {
    let mut checks = kernel::checks();
    checks.extend(storage::checks(region_dir));
    checks.push(server(sidecar, region_dir).await);
    let ok = checks.iter().all(|c| c.verdict != CheckVerdict::Missing);
    let report = Doctor { ok, exit_code: if ok { exit::DONE } else { exit::REFUSED }, checks };
    printer.result(&report, || text(&report));
    if !ok && printer.quiet {
        let missing: Vec<_> =
            report.checks.iter().filter(|c| c.verdict == CheckVerdict::Missing).map(|c| &*c.name).collect();
        let mut failed = Failed::usage(format!("missing: {}", missing.join(", ")));
        (failed.exit_code, failed.reason) = (exit::REFUSED, None);
        printer.error(&failed);
    }
    Ok(report.exit_code)
}

fn good(name: &str, found: impl ToString) -> Check {
    Check { name: name.to_owned(), verdict: CheckVerdict::Good, found: found.to_string(), advice: None }
}
fn warning(name: &str, found: impl ToString, advice: impl ToString) -> Check {
    Check { verdict: CheckVerdict::Warning, advice: Some(advice.to_string()), ..good(name, found) }
}
fn missing(name: &str, found: impl ToString, advice: impl ToString) -> Check {
    Check { verdict: CheckVerdict::Missing, ..warning(name, found, advice) }
}

/// A sidecar that is not there is no fault of the host.
async fn server(sidecar: &Sidecar, region_dir: &Path) -> Check {
    let name = "sidecar";
    let info = match sidecar.client().await {
        Ok(mut client) => sidecar.answer(Asked::ToRead, client.get_server_info(GetServerInfoRequest {})).await,
        Err(failed) => Err(failed),
    };
    let info = match info {
        Ok(info) => info,
        Err(failed) => {
            let why = failed.found.map_or_else(String::new, |found| format!(": {found}"));
            return warning(
                name,
                format!("{}{why}", failed.message),
                "start it with `heirloom serve`, or give --socket",
            );
        }
    };
    let found = format!("version {} at {}", info.version, sidecar.address());
    let own = env!("CARGO_PKG_VERSION");
    if info.version != own {
        return warning(name, found, format!("this command line is version {own}; the two differ"));
    }
    if !info.region_dir.is_empty() && Path::new(&info.region_dir) != region_dir {
        let advice = format!("it keeps regions in {}; give --region-dir to check that one", info.region_dir);
        return warning(name, found, advice);
    }
    good(name, found)
}

fn text(report: &Doctor) -> String {
    let rows = report.checks.iter().map(|check| {
        let verdict = match check.verdict {
            CheckVerdict::Good => "good",
            CheckVerdict::Warning => "warning",
            CheckVerdict::Missing => "MISSING",
        };
        [check.name.clone(), verdict.to_owned(), check.found.clone()]
    });
    let mut text = table(["CHECK", "VERDICT", "FOUND"], &[], rows);
    text.push('\n');
    for check in &report.checks {
        if let Some(advice) = &check.advice {
            text.push_str(&format!("\n{}: {advice}", check.name));
        }
    }
    text.push_str(if report.ok { "\nHeirloom works here." } else { "\nHeirloom does not work here." });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let mut checks = kernel::checks();
        checks.extend(storage::checks(dir.path()));
        let names: Vec<_> = checks.iter().map(|c| c.name.as_str()).collect();
        for name in
            ["kernel", "membarrier", "pidfd", "SO_PEERPIDFD", "seccomp", "open files", "region directory", "OFD locks"]
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(checks.iter().all(|c| (c.verdict == CheckVerdict::Good) == c.advice.is_none()), "{checks:?}");
    }

    #[test]
    fn one_missing_thing_is_told() {
        let report = Doctor {
            ok: false,
            exit_code: 3,
            checks: vec![good("a", 1), missing("pidfd", "ENOSYS", "use a newer kernel")],
        };
        let text = text(&report);
        assert!(text.contains("MISSING") && text.contains("pidfd: use a newer kernel"), "{text}");
        assert!(text.ends_with("Heirloom does not work here."), "{text}");
    }
}

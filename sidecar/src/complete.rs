//! Completion of region, version and instance names from the running sidecar.
//!
//! A completer runs at each press of the tab key: it is silent about every error and bounded to [`WITHIN`] in all, so that a
//! sidecar that hangs never hangs a shell.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Parser as _;
use clap_complete::engine::CompletionCandidate;
use heirloom_proto::names;
use heirloom_proto::v1::{ListRegionsRequest, Region};

use crate::args::Global;
use crate::verbs::connect::Sidecar;

const WITHIN: Duration = Duration::from_millis(300);
const REGIONS_MAX: i32 = 500;

/// Names of regions.
pub(crate) fn regions(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, ask().iter().map(|r| (names::short(&r.name).to_owned(), format!("generation {}", r.generation))))
}

/// Versions of what is attached, to the region named on the line if there is one.
pub(crate) fn versions(typed: &OsStr) -> Vec<CompletionCandidate> {
    let regions = ask();
    candidates(
        typed,
        named(&regions).flat_map(|r| &r.instances).map(|i| (i.version.clone(), names::short(&i.name).to_owned())),
    )
}

/// Names of instances, of the region named on the line if there is one.
pub(crate) fn instances(typed: &OsStr) -> Vec<CompletionCandidate> {
    let regions = ask();
    candidates(
        typed,
        named(&regions).flat_map(|r| &r.instances).map(|i| (names::short(&i.name).to_owned(), i.version.clone())),
    )
}

fn candidates(typed: &OsStr, all: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let mut found: Vec<_> = all.filter(|(name, _)| name.starts_with(&*typed)).collect();
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    found.into_iter().map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into()))).collect()
}

/// The words of the line being completed: what the shell passed after `--`.
fn line() -> Vec<String> {
    std::env::args().skip_while(|word| word != "--").skip(1).collect()
}

fn named(regions: &[Region]) -> impl Iterator<Item = &Region> {
    let line = line();
    let is_named = move |r: &Region| line.iter().any(|word| word == names::short(&r.name));
    let any = regions.iter().any(&is_named);
    regions.iter().filter(move |r| !any || is_named(r))
}

fn ask() -> Vec<Region> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return vec![] };
    let global = global(&line());
    let answer = runtime.block_on(async {
        let mut client = Sidecar::new(&global).client().await.ok()?;
        let request = ListRegionsRequest { page_size: REGIONS_MAX, ..Default::default() };
        tokio::time::timeout(WITHIN, client.list_regions(request)).await.ok()?.ok()
    });
    runtime.shutdown_background();
    answer.map(|a| a.into_inner().regions).unwrap_or_default()
}

/// The address in the half-written line, or in the environment.
fn global(line: &[String]) -> Global {
    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        global: Global,
    }
    let mut words = vec!["heirloom".to_owned()];
    for (n, word) in line.iter().enumerate() {
        if word.starts_with("--socket=") || word.starts_with("--tls-") && word.contains('=') {
            words.push(word.clone());
        } else if let (true, Some(value)) = (word == "--socket" || word.starts_with("--tls-"), line.get(n + 1)) {
            words.extend([word.clone(), value.clone()]);
        }
    }
    Only::try_parse_from(words).or_else(|_| Only::try_parse_from(["heirloom"])).map(|only| only.global).unwrap_or_else(
        |_| Global {
            socket: None,
            output: crate::args::Output::Human,
            quiet: true,
            color: crate::args::When::Never,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_a_half_written_line() {
        let words = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(global(&words("heirloom --socket /tmp/a handover sh")).socket.as_deref(), Some("/tmp/a"));
        assert_eq!(global(&words("heirloom handover --socket=/tmp/b sh")).socket.as_deref(), Some("/tmp/b"));
        assert_eq!(global(&words("heirloom --socket")).tls_ca, None);
    }

    #[test]
    fn candidates_are_sorted_and_told_once() {
        let all = [("b", "1"), ("ab", "2"), ("aa", "3"), ("ab", "4")].map(|(n, h)| (n.to_owned(), h.to_owned()));
        let found = candidates(OsStr::new("a"), all.into_iter());
        assert_eq!(found.iter().map(|c| c.get_value().to_owned()).collect::<Vec<_>>(), ["aa", "ab"]);
    }
}

//! The verbs. Each returns an exit code, or fails with a [`Failed`](failed::Failed) that [`run`] prints.

mod completions;
mod config;
pub(crate) mod connect;
mod doctor;
mod dump;
mod failed;
mod follow;
mod history;
mod instance;
mod options;
mod print;
mod serve;
mod status;
mod switch;
mod verify;
mod view;
mod wait;
mod watch;

use std::ffi::OsString;

use heirloom_proto::reason::exit;
use heirloom_proto::v1::{self, ListRegionsRequest};

use self::connect::Sidecar;
use self::failed::{Asked, Failed};
use self::print::Printer;
use crate::args::{Cli, Output, Verb};

pub(crate) use self::completions::VARIABLE as COMPLETION_VARIABLE;

/// Does what the arguments say and gives the exit code.
pub(crate) fn run(cli: Cli) -> u8 {
    let printer = Printer::new(&cli.global);
    let result = match &cli.verb {
        Verb::Serve(args) => serve::run(printer, &cli.global, args),
        Verb::Config { verb } => config::run(printer, &cli.global, verb),
        Verb::Completions { shell } => completions::run(*shell),
        Verb::Dump { file, objects, pages } => dump::run(printer, file, *objects, *pages),
        Verb::Verify { file: Some(file), .. } => verify::file(printer, file),
        _ => block_on(remote(printer, &cli)),
    };
    result.unwrap_or_else(|failed| {
        printer.failed(&failed);
        failed.exit_code
    })
}

fn block_on(verb: impl Future<Output = Result<u8, Failed>>) -> Result<u8, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::io("runtime", &e))?;
    let result = runtime.block_on(verb);
    // What is still under way, such as an abort that hangs, must not keep the process.
    runtime.shutdown_background();
    result
}

/// The verbs that speak with the sidecar.
async fn remote(printer: Printer, cli: &Cli) -> Result<u8, Failed> {
    let sidecar = &Sidecar::new(&cli.global);
    match &cli.verb {
        Verb::Status { region, watch } => status::run(sidecar, printer, region.as_deref(), *watch).await,
        Verb::Handover(args) => Ok(switch::handover(sidecar, printer, args).await),
        Verb::Rollback { region, handover, switch } => {
            Ok(switch::rollback(sidecar, printer, region, *handover, switch).await)
        }
        Verb::Abort { region, handover, note } => {
            Ok(instance::abort(sidecar, printer, region, *handover, note.as_deref()).await)
        }
        Verb::Drain { region, instance, force, timeout } => {
            instance::drain(sidecar, printer, region, instance, *force, *timeout).await
        }
        Verb::Wait { region, condition, timeout } => wait::run(sidecar, printer, region, condition, *timeout).await,
        Verb::Watch { region, after } => watch::run(sidecar, printer, region.as_deref(), *after).await,
        Verb::History { region, handover, lines } => history::run(sidecar, printer, region, *handover, *lines).await,
        Verb::Verify { region, .. } => verify::live(sidecar, printer, region.as_deref().unwrap_or_default()).await,
        Verb::Doctor { region_dir } => doctor::run(sidecar, printer, region_dir).await,
        // The others are done without a sidecar.
        _ => Ok(exit::INTERNAL),
    }
}

/// Wrong arguments: clap's text on standard error, and the object where a program reads. Gives exit 2.
pub(crate) fn usage(error: &clap::Error, args: &[OsString]) -> u8 {
    let _ = error.print();
    if let Some(output) = asked_output(args) {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Printer { output, quiet: false }.json(&crate::output::Failure::from(&Failed::usage(message)));
    }
    exit::USAGE
}

/// Which JSON a line asks for whose arguments did not parse.
fn asked_output(args: &[OsString]) -> Option<Output> {
    let words: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
    let mut asked = std::env::var("HEIRLOOM_OUTPUT").ok();
    for (n, word) in words.iter().enumerate() {
        let value = match word.as_ref() {
            "-o" | "--output" => words.get(n + 1).map(ToString::to_string),
            _ => {
                word.strip_prefix("--output=").or(word.strip_prefix("-o")).map(|v| v.trim_start_matches('=').to_owned())
            }
        };
        asked = value.or(asked);
    }
    match asked.as_deref() {
        Some("json") => Some(Output::Json),
        Some("jsonl") => Some(Output::Jsonl),
        _ => None,
    }
}

/// All regions, page by page.
async fn regions(sidecar: &Sidecar, first: &ListRegionsRequest) -> Result<Vec<v1::Region>, Failed> {
    let mut client = sidecar.client().await?;
    let (mut all, mut request) = (vec![], first.clone());
    loop {
        let page = sidecar.answer(Asked::ToRead, client.list_regions(request.clone())).await?;
        all.extend(page.regions);
        // A sidecar that gives one token for ever must not keep us.
        if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

/// The name of one region, or of all.
fn region_name(region: Option<&str>) -> String {
    heirloom_proto::names::region(region.unwrap_or("-"))
}

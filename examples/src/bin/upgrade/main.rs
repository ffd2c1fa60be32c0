//! Upgrades the shop under load, in one command and with nothing installed but Rust:
//!
//! ```text
//! cargo run --release -p heirloom-examples --bin upgrade
//! ```
//!
//! It starts a sidecar and version 1, puts load on it, starts version 2, hands over, rolls back, hands over again, restarts
//! the owner in place, kills the owner, and ends with 0 only if every acknowledged request is in the session table and in its
//! customer's time series, no counter ever went back, and no request failed. With HAProxy on PATH the load goes through HAProxy.
//!
//! Every process it starts is this very program under another first argument, so nothing else needs to be built.
#![forbid(unsafe_code)]

mod heirloom;
mod report;
mod story;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use heirloom_examples::process::end_with_parent;
use heirloom_examples::shop::{Place, v1, v2};

const HELP: &str = "Upgrades a service under load and checks that nothing is lost.

usage: upgrade [--phase-seconds N] [--customers N] [--direct]

  --phase-seconds N  load between two steps, default 4
  --customers N      customers that ask at once, default 16
  --direct           without a gateway, even if HAProxy is installed: customers come to the one address that Heirloom keeps
";

/// What the demo was asked to do.
pub(crate) struct Options {
    pub(crate) phase: Duration,
    pub(crate) customers: usize,
    pub(crate) direct: bool,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { phase: Duration::from_secs(4), customers: 16, direct: false };
    while let Some(arg) = args.next() {
        let mut number = |max: u16| {
            let text = args.next().unwrap_or_default();
            let number = text.parse::<u16>().ok().filter(|n| (1..=max).contains(n));
            number.ok_or(format!("{arg}: expected a number from 1 to {max}, found {text:?}"))
        };
        match arg.as_str() {
            "--phase-seconds" => options.phase = Duration::from_secs(number(600)?.into()),
            "--customers" => options.customers = number(500)?.into(),
            "--direct" => options.direct = true,
            other => return Err(format!("expected an option, found {other:?}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let mut args = std::env::args();
    let _program = args.next();
    let rest: Vec<String> = args.collect();
    match rest.first().map(String::as_str) {
        Some("sidecar") => {
            end_with_parent();
            heirloom_sidecar::run_cli(std::env::args_os().skip(1))
        }
        Some("heirloom") => heirloom_sidecar::run_cli(std::env::args_os().skip(1)),
        Some("shop") => shop(&rest[1..]),
        Some("-h" | "--help") => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => match options(rest.into_iter()) {
            Ok(options) => run(story::tell(options)),
            Err(e) => {
                eprintln!("upgrade: {e}\n\n{HELP}");
                ExitCode::from(2)
            }
        },
    }
}

/// One instance of the shop: `shop VERSION SOCKET ADDRESS [KEPT]`.
fn shop(args: &[String]) -> ExitCode {
    end_with_parent();
    let [version, socket, addresses @ ..] = args else {
        eprintln!("usage: upgrade shop 1.0.0|2.0.0 SOCKET ADDRESS [KEPT]");
        return ExitCode::from(2);
    };
    let addresses: Result<Vec<SocketAddr>, _> = addresses.iter().map(|text| text.parse()).collect();
    let (listen, kept) = match addresses.as_deref() {
        Ok([listen]) => (*listen, None),
        Ok([listen, kept]) => (*listen, Some(*kept)),
        _ => {
            eprintln!("upgrade shop: expected one or two addresses, found {:?}", &args[2..]);
            return ExitCode::from(2);
        }
    };
    let place = Place { socket: socket.into(), listen, kept };
    match version.as_str() {
        "1.0.0" => run(async { v1::run(place).await.map(|()| true) }),
        "2.0.0" => run(async { v2::run(place).await.map(|()| true) }),
        other => {
            eprintln!("upgrade shop: expected version 1.0.0 or 2.0.0, found {other}");
            ExitCode::from(2)
        }
    }
}

/// Runs `what` to its end, or to Ctrl-C; whatever it started ends with it.
fn run<E: std::fmt::Display>(what: impl Future<Output = Result<bool, E>>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("upgrade: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        tokio::select! {
            told = what => match told {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(e) => {
                    eprintln!("upgrade: {e}");
                    ExitCode::FAILURE
                }
            },
            _ = tokio::signal::ctrl_c() => ExitCode::from(130),
        }
    });
    runtime.shutdown_background();
    code
}

//! The one program that the tests start as other processes: the sidecar and its command line, an instance that does what it is
//! told, one that is followed step by step, or one of the examples.

use std::process::ExitCode;

use heirloom_examples::process::end_with_parent;
use heirloom_examples::shop::Place;
use heirloom_examples::{echo, metric_store, shop};
use heirloom_tests::{steps, worker};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("heirloom") => heirloom_sidecar::run_cli(std::env::args_os().skip(1)),
        Some("worker") => worker::run(&args[1..]),
        Some("steps") => steps::run(&args[1..]),
        Some(service @ ("shop" | "metric-store" | "echo")) => example(service, &args[1..]),
        _ => {
            eprintln!("usage: heirloom-test-helper heirloom|worker|steps|shop|metric-store|echo ARGUMENTS");
            ExitCode::from(2)
        }
    }
}

/// `shop VERSION SOCKET ADDRESS`, and metric-store as well.
fn example(service: &str, args: &[String]) -> ExitCode {
    end_with_parent();
    let [version, socket, listen] = args else { return ExitCode::from(2) };
    let Ok(listen) = listen.parse() else { return ExitCode::from(2) };
    let place = Place { socket: socket.into(), listen, kept: None };
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    let ended = runtime.block_on(async {
        match (service, version.as_str()) {
            ("shop", "1.0.0") => shop::v1::run(place).await,
            ("shop", _) => shop::v2::run(place).await,
            ("echo", version) => echo::run(version, &place.socket, listen).await,
            (_, "1.0.0") => metric_store::v1::run(place).await,
            _ => metric_store::v2::run(place).await,
        }
    });
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{service} {version}: {e}");
            ExitCode::FAILURE
        }
    }
}

//! The one program that the tests start as other processes: the sidecar and its command line, an instance that does what it is
//! told, or the example's shop.

use std::process::ExitCode;

use heirloom_examples::process::end_with_parent;
use heirloom_examples::shop::{Place, v1, v2};
use heirloom_tests::worker;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("heirloom") => heirloom_sidecar::run_cli(std::env::args_os().skip(1)),
        Some("worker") => worker::run(&args[1..]),
        Some("shop") => shop(&args[1..]),
        _ => {
            eprintln!("usage: heirloom-test-helper heirloom|worker|shop ARGUMENTS");
            ExitCode::from(2)
        }
    }
}

/// `shop VERSION SOCKET ADDRESS`
fn shop(args: &[String]) -> ExitCode {
    end_with_parent();
    let [version, socket, listen] = args else { return ExitCode::from(2) };
    let Ok(listen) = listen.parse() else { return ExitCode::from(2) };
    let place = Place { socket: socket.into(), listen };
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    let ended = runtime.block_on(async {
        match version.as_str() {
            "1.0.0" => v1::run(place).await,
            _ => v2::run(place).await,
        }
    });
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("shop {version}: {e}");
            ExitCode::FAILURE
        }
    }
}

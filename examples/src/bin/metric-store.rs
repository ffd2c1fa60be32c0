//! One instance of metric-store, in one of its two versions.
//!
//! ```sh
//! metric-store 1.0.0 --listen 127.0.0.1:9201
//! metric-store 2.0.0 --listen 127.0.0.1:9202   # beside it, and then: heirloom handover metric-store 2.0.0
//! ```
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use heirloom_examples::metric_store::{Place, v1, v2};

/// A small Prometheus-compatible store that keeps its samples in a Heirloom region.
#[derive(Parser)]
struct Args {
    /// Which version to be.
    #[arg(value_parser = ["1.0.0", "2.0.0"])]
    version: String,
    /// Where to answer HTTP.
    #[arg(long, default_value = "127.0.0.1:9201")]
    listen: SocketAddr,
    /// The sidecar's socket.
    #[arg(long, env = "HEIRLOOM_SOCKET", default_value = "/run/heirloom/heirloom.sock")]
    socket: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let place = Place { socket: args.socket, listen: args.listen, kept: None };
    let ended = match args.version.as_str() {
        "1.0.0" => v1::run(place).await,
        _ => v2::run(place).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("metric-store {}: {error}", args.version);
            ExitCode::FAILURE
        }
    }
}

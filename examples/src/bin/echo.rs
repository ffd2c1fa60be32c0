//! One instance of the line service whose connections move.
//!
//! ```sh
//! echo 1.0.0                      # listens at 127.0.0.1:7007, as does the next one
//! nc 127.0.0.1 7007               # each line is answered with its number
//! echo 2.0.0                      # beside it, and then: heirloom handover echo 2.0.0
//! ```
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Answers the N-th line of a connection with N and the line, over upgrades on the same connection.
#[derive(Parser)]
struct Args {
    /// Which version to be; any name.
    version: String,
    /// Where to listen; the same for all versions.
    #[arg(long, default_value = "127.0.0.1:7007")]
    listen: SocketAddr,
    /// The sidecar's socket.
    #[arg(long, env = "HEIRLOOM_SOCKET", default_value = "/run/heirloom/heirloom.sock")]
    socket: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match heirloom_examples::echo::run(&args.version, &args.socket, args.listen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo {}: {error}", args.version);
            ExitCode::FAILURE
        }
    }
}

//! `heirloom`: the sidecar daemon and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    heirloom_sidecar::run_cli(std::env::args_os())
}

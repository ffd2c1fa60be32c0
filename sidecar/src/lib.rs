//! The sidecar daemon and the `heirloom` command line.
//!
//! [`run_cli`] is the whole binary, [`args`] its arguments, [`serve`] the daemon as a library, [`config`] what the daemon can be told, and
//! [`output`] what the command line and the HTTP twins print as JSON.
#![forbid(unsafe_code)]

pub mod args;
mod complete;
pub mod config;
pub mod output;
pub mod serve;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use clap_complete::env::Shells;
use heirloom_proto::reason::exit;

/// Does what the arguments say, prints the result, and gives the exit code. `args` begins with the program's name.
///
/// When the shell's completion script asks (`heirloom completions`), it answers the script and does nothing else.
pub fn run_cli(args: impl IntoIterator<Item = impl Into<OsString>>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let completion = CompleteEnv::with_factory(args::Cli::command)
        .var(verbs::COMPLETION_VARIABLE)
        .shells(Shells::builtins())
        .try_complete(args.clone(), std::env::current_dir().ok().as_deref());
    match completion {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => {}
        Err(e) => return ExitCode::from(verbs::usage(&e, &args)),
    }
    match args::Cli::try_parse_from(&args) {
        Ok(cli) => ExitCode::from(verbs::run(cli)),
        Err(e) if !e.use_stderr() => {
            // --help and --version.
            let _ = e.print();
            ExitCode::from(exit::DONE)
        }
        Err(e) => ExitCode::from(verbs::usage(&e, &args)),
    }
}

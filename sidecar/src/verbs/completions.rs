//! `completions`: the script that makes a shell ask this binary for completions.

use std::io::Write as _;

use clap_complete::env::Shells;
use heirloom_proto::reason::exit;

use super::failed::Failed;
use crate::args::Shell;

/// The variable by which the shell's script asks; [`crate::run_cli`] answers.
pub(crate) const VARIABLE: &str = "HEIRLOOM_COMPLETE";

pub(crate) fn run(shell: Shell) -> Result<u8, Failed> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
        Shell::Elvish => "elvish",
        Shell::PowerShell => "powershell",
    };
    let shells = Shells::builtins();
    let found = shells.completer(name).ok_or_else(|| Failed::usage(format!("no completions for {name}")))?;
    let mut script = Vec::new();
    let written = found.write_registration(VARIABLE, "heirloom", "heirloom", "heirloom", &mut script);
    written.and_then(|()| std::io::stdout().write_all(&script)).map_err(|e| Failed::io("completions", &e))?;
    Ok(exit::DONE)
}

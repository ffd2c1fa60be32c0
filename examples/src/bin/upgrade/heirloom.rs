//! The sidecar and its command line, as sub-processes of this program.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use heirloom_examples::process::Running;
use serde_json::Value;

/// A running sidecar.
pub(crate) struct Sidecar {
    /// Its HTTP address: `/metrics`, `/healthz`.
    pub(crate) http: SocketAddr,
    socket: PathBuf,
    process: Running,
}

/// What one call of the command line answered.
pub(crate) struct Answer {
    pub(crate) exit_code: Option<i32>,
    pub(crate) json: Value,
}

impl Answer {
    /// The number under `key`, if it is known.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.json[key].as_u64()
    }

    /// The word under `key`, or nothing.
    pub(crate) fn word(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }
}

/// This program under another first argument.
pub(crate) fn myself(role: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

impl Sidecar {
    /// Starts a sidecar whose regions, state and socket all lie in `dir`.
    pub(crate) fn start(dir: &Path, http: SocketAddr) -> io::Result<Self> {
        let socket = dir.join("heirloom.sock");
        let mut config = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(
            config,
            "[server]\nsocket = {socket:?}\nregion_dir = {:?}\nhttp_listen = \"{http}\"\n\n[region]\nlimit = \"64MiB\"",
            dir.join("regions"),
        );
        let file = dir.join("heirloom.toml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(dir.join("sidecar.log"))?;
        let mut command = myself("sidecar")?;
        command.args(["serve", "--config"]).arg(file).stdout(log.try_clone()?).stderr(log);
        Ok(Sidecar { http, socket: socket.clone(), process: Running::start("sidecar", &mut command)? })
    }

    /// Where services attach.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs one verb with `-o json`, as a deploy tool does.
    pub(crate) async fn call(&self, args: &[&str]) -> io::Result<Answer> {
        let mut command = tokio::process::Command::from(myself("heirloom")?);
        command.args(args).args(["-o", "json", "--socket"]).arg(&self.socket).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await?;
        let json = serde_json::from_slice(&output.stdout).map_err(|e| {
            let said = String::from_utf8_lossy(&output.stderr);
            io::Error::other(format!(
                "heirloom {}: expected one JSON object, found {e}; it said: {said}",
                args.join(" ")
            ))
        })?;
        Ok(Answer { exit_code: output.status.code(), json })
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        let status = self.process.terminate(Duration::from_secs(15))?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("the sidecar ended with {status}"))) }
    }
}

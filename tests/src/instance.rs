//! The near end of a [`worker`](crate::worker): a process attached to a region that does what it is told.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use heirloom_examples::process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cli::helper;
use crate::host::Host;
use crate::wait::until;

/// A process attached to a region. Killed, by its id, when dropped.
#[derive(Debug)]
pub struct Instance {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    version: String,
    forked: Vec<u32>,
}

impl Instance {
    /// Starts a worker of `host` and waits until it is attached. `environment` may hold `HEIRLOOM_REPLICA=auto`, say.
    ///
    /// # Panics
    /// If it cannot attach.
    #[track_caller]
    pub fn start(host: &Host, service: &str, version: &str, environment: &[(&str, &str)]) -> Self {
        let mut instance = Self::spawn(host, service, version, environment);
        let attached = instance.hear();
        assert_eq!(attached["ok"], true, "{version} of {service} did not attach: {attached}");
        instance
    }

    /// Starts a worker and expects the sidecar to refuse it. Gives its error.
    ///
    /// # Panics
    /// If it attaches.
    #[track_caller]
    pub fn refused(host: &Host, service: &str, version: &str, environment: &[(&str, &str)]) -> Value {
        let mut instance = Self::spawn(host, service, version, environment);
        let answer = instance.hear();
        assert_eq!(answer["ok"], false, "{version} of {service} attached: {answer}");
        answer
    }

    /// Starts a worker without waiting for anything.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(host: &Host, service: &str, version: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = helper("worker");
        command.arg(service).arg(version).arg(host.socket()).envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a worker");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Instance { child, stdin, stdout, version: version.to_owned(), forked: Vec::new() }
    }

    /// This instance's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The label of its build.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Gives a command and expects it to succeed. See [`worker`](crate::worker) for the commands.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn tell(&mut self, command: &str) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["ok"], true, "{} was told {command:?}: {answer}", self.version);
        answer
    }

    /// Gives a command and expects the error with `reason`.
    ///
    /// # Panics
    /// If it succeeds, or with another reason.
    #[track_caller]
    pub fn tell_refused(&mut self, command: &str, reason: &str) -> Value {
        let answer = self.ask(command);
        assert_eq!(answer["reason"], reason, "{} was told {command:?}: {answer}", self.version);
        answer
    }

    /// Gives a command; any answer will do.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> Value {
        self.send(command);
        self.hear()
    }

    /// Gives a command without waiting for its answer.
    ///
    /// # Panics
    /// If the process is gone.
    #[track_caller]
    pub fn send(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").and_then(|()| self.stdin.flush()).expect("the worker listens");
    }

    /// The answer to the command given before.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).expect("the worker answers");
        assert!(read > 0, "{} (pid {}) ended without an answer", self.version, self.child.id());
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("expected JSON, found {line:?}: {e}"))
    }

    /// Whether it begins an answer within `limit`.
    ///
    /// # Panics
    /// If its output cannot be watched.
    pub fn says_something_within(&self, limit: Duration) -> bool {
        let mut watched = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).expect("a time-out");
        !self.stdout.buffer().is_empty() || poll(&mut watched, limit).expect("watch the instance") > 0
    }

    /// Its own sum of something, as in `total NAME` or `sum NAME`.
    ///
    /// # Panics
    /// If it gives none.
    #[track_caller]
    pub fn number(&mut self, command: &str) -> u64 {
        let answer = self.tell(command);
        answer["value"].as_u64().unwrap_or_else(|| panic!("expected a number for {command:?}, found {answer}"))
    }

    /// Forks a child that lives until this is dropped.
    #[track_caller]
    pub fn fork(&mut self) -> u32 {
        let answer = self.tell("fork");
        let pid = answer["value"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        self.forked.push(pid);
        pid
    }

    /// Sends a signal to this process alone.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(pid(self.child.id()), signal).expect("signal the instance");
    }

    /// Kills it and waits for its end. Its forked children live on.
    ///
    /// # Panics
    /// If the kernel does not say that it ended.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the instance");
        self.child.wait().expect("wait for the instance");
    }

    /// Waits until somebody else has killed it.
    ///
    /// # Panics
    /// If it lives on.
    pub fn await_death(&mut self) {
        until("the instance is dead", || self.child.try_wait().expect("wait for the instance").ok_or("alive"));
    }
    /// Leaves in order and ends.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn leave(mut self) -> Value {
        let answer = self.tell("leave");
        self.child.wait().expect("wait for the instance");
        answer
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for &forked in &self.forked {
            kill(pid(forked), Signal::SIGKILL).ok();
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("a pid"))
}

/// A loopback address that nobody listens at now.
///
/// # Panics
/// If there is none.
pub fn free_address() -> std::net::SocketAddr {
    process::free_address().expect("a free port")
}

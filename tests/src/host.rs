//! A host: one sidecar process with its own directory, and the command line called against it.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use heirloom_examples::process::{Running, free_address};
use heirloom_examples::scrape::{self, Samples};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{Answer, call, helper};
use crate::http;
use crate::instance::Instance;
use crate::wait::until;

/// A running sidecar and where it keeps things.
#[derive(Debug)]
pub struct Host {
    sidecar: Option<Running>,
    http: SocketAddr,
    dir: TempDir,
}

/// A directory on tmpfs, where regions belong.
///
/// # Panics
/// If none can be made.
pub fn tmpfs_dir() -> TempDir {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm } else { Path::new("/tmp") };
    tempfile::Builder::new().prefix("heirloom-test-").tempdir_in(parent).expect("a directory on tmpfs")
}

impl Host {
    /// Starts a sidecar with the defaults and regions of at most 64 MiB.
    pub fn start() -> Self {
        Self::configured("[region]\nlimit = \"64MiB\"\n")
    }

    /// Starts a sidecar with more configuration: whole TOML tables other than `[server]`.
    ///
    /// # Panics
    /// If it does not answer in time.
    pub fn configured(tables: &str) -> Self {
        let mut host = Self::prepared("", tables);
        host.start_sidecar();
        host
    }

    /// A host whose sidecar is not started yet. `server` are more lines of `[server]`.
    pub fn prepared(server: &str, tables: &str) -> Self {
        let dir = tmpfs_dir();
        let http = free_address().expect("a free port");
        let config = format!(
            "[server]\nsocket = {:?}\nregion_dir = {:?}\nhttp_listen = \"{http}\"\n{server}\n{tables}",
            dir.path().join("heirloom.sock"),
            dir.path().join("regions"),
        );
        fs::write(dir.path().join("heirloom.toml"), config).expect("write the configuration");
        Host { sidecar: None, http, dir }
    }

    /// Starts the sidecar, after it was killed, say, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not answer in time.
    #[track_caller]
    pub fn start_sidecar(&mut self) {
        self.start_by(helper("heirloom"));
    }

    /// Starts the sidecar with its regions on a tmpfs of `bytes`, which only it sees and which ends with it.
    ///
    /// # Panics
    /// If there is no `unshare`, or the kernel lets nobody but root make a mount namespace and this is not root.
    #[track_caller]
    pub fn start_sidecar_on_small_tmpfs(&mut self, bytes: u64) {
        let regions = self.dir.path().join("regions");
        fs::create_dir_all(&regions).expect("make the directory");
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !nix::unistd::Uid::effective().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        // Each execs the next, so the sidecar has the pid that this started.
        command.args(["sh", "-c", "mount -t tmpfs -o mode=700,size=$1 none \"$2\" && shift 2 && exec \"$@\"", "sh"]);
        command.arg(bytes.to_string()).arg(regions).arg(helper("heirloom").get_program()).arg("heirloom");
        self.start_by(command);
    }

    /// Starts the sidecar with sockets as systemd gives them, by name.
    ///
    /// # Panics
    /// As [`Host::start_sidecar`]. From here on every process that this one starts inherits them.
    #[track_caller]
    pub fn start_sidecar_with(&mut self, sockets: &[(&str, &std::net::TcpListener)]) {
        let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
        let mut script =
            format!("LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"", sockets.len(), names.join(":"));
        for (n, (_, socket)) in sockets.iter().enumerate() {
            fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).expect("let it be inherited");
            // First above those that systemd begins with, so that none is overwritten before it was doubled.
            script = format!("exec {}<&{} && {script} {}<&{}", 20 + n, socket.as_raw_fd(), 3 + n, 20 + n);
        }
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).arg(helper("heirloom").get_program()).arg("heirloom");
        self.start_by(command);
    }

    #[track_caller]
    fn start_by(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("open the log");
        command.args(["serve", "--config"]).arg(self.dir.path().join("heirloom.toml"));
        command.env("RUST_BACKTRACE", "1").stdout(log.try_clone().expect("clone the log")).stderr(log);
        self.sidecar = Some(Running::start("sidecar", &mut command).expect("start the sidecar"));
        let http = self.http;
        until("the sidecar's /readyz to answer 200", || match http::get(http, "/readyz", &[]) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.body),
            Err(e) => Err(e),
        });
    }

    /// The sidecar's process.
    ///
    /// # Panics
    /// If it is not running.
    pub fn sidecar(&mut self) -> &mut Running {
        self.sidecar.as_mut().expect("the sidecar runs")
    }

    /// Kills the sidecar and waits for its end.
    ///
    /// # Panics
    /// If it was gone.
    pub fn kill_sidecar(&mut self) {
        self.sidecar().kill().expect("kill the sidecar");
        self.sidecar = None;
    }

    /// Ends the sidecar in order.
    ///
    /// # Panics
    /// If it does not end, or not with 0.
    pub fn stop_sidecar(&mut self) {
        let status = self.sidecar().terminate(Duration::from_secs(20)).expect("end the sidecar");
        assert!(status.success(), "the sidecar ended with {status}: {}", self.log());
        self.sidecar = None;
    }

    /// Stops (SIGSTOP) or continues (SIGCONT) the sidecar.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal_sidecar(&mut self, signal: Signal) {
        self.sidecar().signal(signal).expect("signal the sidecar");
    }

    /// Where instances attach.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("heirloom.sock")
    }

    /// Where `/metrics` and the others are.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// This host's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A region's file.
    pub fn region_file(&self, region: &str) -> PathBuf {
        self.dir.path().join("regions").join(region)
    }

    /// What the sidecar logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("sidecar.log")
    }

    /// Runs one verb of the command line against this sidecar, with `-o json`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn call(&self, args: &[&str]) -> Answer {
        let mut command = helper("heirloom");
        command.arg("--socket").arg(self.socket());
        call(&mut command, args)
    }

    /// `handover REGION VERSION` with more arguments.
    pub fn handover(&self, region: &str, version: &str, more: &[&str]) -> Answer {
        self.call(&[&["handover", region, version], more].concat())
    }

    /// `status REGION`: the region's object.
    ///
    /// # Panics
    /// If there is no such region.
    #[track_caller]
    pub fn status(&self, region: &str) -> Value {
        let answer = self.call(&["status", region]);
        assert_eq!(answer.exit_code, 0, "{} {}", answer.json, answer.stderr);
        answer.json[0].clone()
    }

    /// Waits until `status` satisfies `state`.
    ///
    /// # Panics
    /// If it does not in time.
    #[track_caller]
    pub fn await_status(&self, region: &str, what: &str, state: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let answer = self.call(&["status", region]);
            let status = answer.json[0].clone();
            if answer.exit_code == 0 && state(&status) { Ok(status) } else { Err(format!("{}", answer.json)) }
        })
    }

    /// Waits until the instance of `version` owns.
    #[track_caller]
    pub fn await_owner(&self, region: &str, version: &str) -> Value {
        self.await_status(region, &format!("{version} to own {region}"), |status| status["owner"]["version"] == version)
    }

    /// Waits until an instance of `version` is eligible.
    #[track_caller]
    pub fn await_eligible(&self, region: &str, version: &str) -> Value {
        self.await_status(region, &format!("{version} to be eligible for {region}"), |status| {
            let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
            instances.iter().any(|i| i["version"] == version && i["eligible"] == true)
        })
    }

    /// Attaches a new process to `service`; it is not ready yet.
    pub fn attach(&self, service: &str, version: &str) -> Instance {
        Instance::start(self, service, version, &[])
    }

    /// Attaches a new process, and makes it ready.
    pub fn ready(&self, service: &str, version: &str) -> Instance {
        let mut instance = self.attach(service, version);
        instance.tell("ready");
        instance
    }

    /// An owner and a standby, both ready.
    pub fn pair(&self, service: &str) -> (Instance, Instance) {
        let old = self.ready(service, "1.0.0");
        self.await_owner(service, "1.0.0");
        let new = self.ready(service, "2.0.0");
        self.await_eligible(service, "2.0.0");
        (old, new)
    }

    /// The sum of the series called `name` in `/metrics`.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, &[])
    }

    /// The sum of the series called `name` that carry all of `labels`, as in `path="/visit"`.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn metric_of(&self, name: &str, labels: &[&str]) -> f64 {
        let samples = self.metrics(name);
        scrape::sum(&samples, name, labels).unwrap_or_else(|| panic!("expected {name}, found {samples:?}"))
    }

    /// Samples of `/metrics` whose name begins with `prefix`.
    ///
    /// # Panics
    /// If they cannot be read.
    #[track_caller]
    pub fn metrics(&self, prefix: &str) -> Samples {
        let answer = http::get(self.http, "/metrics", &[]).expect("scrape");
        assert_eq!(answer.status, 200, "{}", answer.body);
        scrape::parse(&answer.body, prefix).expect("Prometheus' text format")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("-- the sidecar's log ends so:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

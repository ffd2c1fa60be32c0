//! HAProxy in front of both versions: two servers of one backend, and only the owner is sent to.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Running, installed};

/// A running HAProxy.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    process: Running,
}

/// HAProxy's configuration: both versions are servers of one backend, `/ready` is answered 200 by the owner alone.
///
/// Between the commit and the next health check a request may still reach the version that does not own. It is answered
/// 503 without having changed anything, so HAProxy may send it again, to the other server. A request whose answer was cut off
/// is sent again too: it carries its number, and the shop does a number once.
pub fn configuration(listen: SocketAddr, servers: &[SocketAddr]) -> String {
    let mut text = format!(
        "global
    maxconn 2000
    log stdout format raw local0 notice
    spread-checks 0

defaults
    mode http
    timeout connect 100ms
    timeout client 30s
    timeout server 5s
    timeout check 500ms
    timeout queue 5s
    option redispatch 1
    retries 10
    retry-on conn-failure empty-response response-timeout 503

frontend shop
    bind {listen}
    default_backend versions

backend versions
    balance roundrobin
    option httpchk
    http-check send meth GET uri /ready
    http-check expect status 200
    # A version that begins to own is sent to at once; one that ceases to is taken out a little later, so that there is
    # always one to send to.
    default-server check inter 20ms fall 3 rise 1 init-addr none
"
    );
    for (i, server) in servers.iter().enumerate() {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "    server v{} {server}", i + 1);
    }
    text
}

impl Gateway {
    /// Whether HAProxy is installed.
    pub fn installed() -> bool {
        installed("haproxy").is_some()
    }

    /// Starts HAProxy for the shop at `listen`, with its files in `dir`, and waits until it accepts.
    ///
    /// # Errors
    /// If it is not installed, refuses its configuration, or does not listen within 10 s.
    pub fn start(dir: &Path, listen: SocketAddr, servers: &[SocketAddr]) -> io::Result<Self> {
        Self::configured(dir, listen, &configuration(listen, servers))
    }

    /// As [`start`](Gateway::start), with a configuration of another service that binds `listen`.
    ///
    /// # Errors
    /// As [`start`](Gateway::start).
    pub fn configured(dir: &Path, listen: SocketAddr, configuration: &str) -> io::Result<Self> {
        let program =
            installed("haproxy").ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "haproxy is not installed"))?;
        let file = dir.join("haproxy.cfg");
        fs::write(&file, configuration)?;
        let log = fs::File::create(dir.join("haproxy.log"))?;
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file).stdout(log.try_clone()?).stderr(log);
        let mut process = Running::start("haproxy", &mut command)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(listen).is_err() {
            if process.ended()?.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(dir.join("haproxy.log")).unwrap_or_default();
                return Err(io::Error::other(format!("haproxy does not listen at {listen}; it said: {said}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Gateway { address: listen, process })
    }

    /// Where clients ask.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// HAProxy's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The first line that `haproxy -v` prints.
    pub fn version() -> Option<String> {
        let output = Command::new(installed("haproxy")?).arg("-v").stdin(Stdio::null()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    }
}

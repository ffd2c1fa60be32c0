//! The example's metric-store as processes: both versions at fixed addresses, and HAProxy before them.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use heirloom_examples::gateway::Gateway;
use heirloom_examples::metric_store::{SERVICE, gateway};
use heirloom_examples::process::{Running, free_address};

use crate::cli::helper;
use crate::host::Host;
use crate::http;
use crate::wait::until;

/// One version of metric-store, running. Killed when dropped.
#[derive(Debug)]
pub struct MetricStore {
    /// Where it answers.
    pub address: SocketAddr,
    version: &'static str,
    process: Running,
}

impl MetricStore {
    /// Starts `version` at `address`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(host: &Host, version: &'static str, address: SocketAddr) -> Self {
        let log = host.dir().join("metric-store.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("open the log");
        let mut command = helper("metric-store");
        command.arg(version).arg(host.socket()).arg(address.to_string());
        command.stdout(log.try_clone().expect("clone the log")).stderr(log);
        let process = Running::start(version, &mut command).expect("start metric-store");
        MetricStore { address, version, process }
    }

    /// Its version.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it in order, as a deployment does after a handover.
    ///
    /// # Panics
    /// If it does not end with 0.
    pub fn end(mut self) {
        let status = self.process.terminate(Duration::from_secs(15)).expect("end metric-store");
        assert!(status.success(), "{} ended with {status}", self.version);
    }

    /// Kills it.
    ///
    /// # Panics
    /// If it was gone.
    pub fn kill(mut self) {
        self.process.kill().expect("kill metric-store");
    }
}

/// An owner and a standby behind HAProxy.
#[derive(Debug)]
pub struct Pair {
    /// The one that owns.
    pub owner: MetricStore,
    /// The one that stands by.
    pub standby: MetricStore,
    gateway: Gateway,
}

impl Pair {
    /// Starts version 1, then version 2 beside it, then HAProxy.
    ///
    /// # Panics
    /// If one of them cannot be started.
    pub fn start(host: &Host) -> Self {
        let [first, second, listen] = [(); 3].map(|()| free_address().expect("a free port"));
        let owner = MetricStore::start(host, "1.0.0", first);
        host.await_owner(SERVICE, "1.0.0");
        let standby = MetricStore::start(host, "2.0.0", second);
        host.await_eligible(SERVICE, "2.0.0");
        let configuration = gateway::configuration(listen, &[first, second]);
        let gateway = Gateway::configured(host.dir(), listen, &configuration).expect("haproxy: run tests/run tools");
        until("HAProxy to have found the owner", || match http::get(listen, "/ready", &[]) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        Pair { owner, standby, gateway }
    }

    /// Where senders and readers ask: HAProxy.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Hands over to the one that stands by.
    ///
    /// # Panics
    /// If that is not what happens.
    #[track_caller]
    pub fn hand_over(&mut self, host: &Host) {
        host.handover(SERVICE, self.standby.version, &["--wait-ready", "30s"]).expect("committed", 0);
        std::mem::swap(&mut self.owner, &mut self.standby);
    }

    /// Starts the one that stands by anew, as a deployment does with the next version: its index is empty.
    ///
    /// # Panics
    /// If it does not end in order, or the new one does not become eligible.
    #[track_caller]
    pub fn renew_standby(&mut self, host: &Host) {
        let next = |old: &MetricStore| (old.version, old.address);
        let (version, address) = next(&self.standby);
        self.standby.process.terminate(Duration::from_secs(15)).expect("end the standby");
        self.standby = MetricStore::start(host, version, address);
        host.await_eligible(SERVICE, version);
    }

    /// Kills the owner, waits for the promotion, and starts another instance of its version to stand by.
    ///
    /// # Panics
    /// If the standby is not promoted.
    #[track_caller]
    pub fn kill_owner(&mut self, host: &Host) {
        self.owner.process.kill().expect("kill the owner");
        host.await_owner(SERVICE, self.standby.version);
        std::mem::swap(&mut self.owner, &mut self.standby);
        self.standby = MetricStore::start(host, self.standby.version, self.standby.address);
        host.await_eligible(SERVICE, self.standby.version);
    }

    /// Ends both in order.
    ///
    /// # Panics
    /// If one does not end with 0.
    pub fn end(self) {
        drop(self.gateway);
        self.standby.end();
        self.owner.end();
    }
}

//! The example's shop as processes: two versions at fixed addresses, and what they must add up to.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use heirloom_examples::process::Running;

use crate::cli::helper;
use crate::host::Host;
use crate::http;
use crate::instance::free_address;
use crate::wait::until;

/// One version of the shop, running.
#[derive(Debug)]
pub struct Shop {
    /// Where it answers.
    pub address: SocketAddr,
    process: Running,
}

impl Shop {
    /// Starts `version`; at `address`, or at a free one.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(host: &Host, version: &str, address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or_else(free_address);
        let log =
            fs::OpenOptions::new().create(true).append(true).open(host.dir().join("shop.log")).expect("open the log");
        let mut command = helper("shop");
        command.arg(version).arg(host.socket()).arg(address.to_string());
        command.stdout(log.try_clone().expect("clone the log")).stderr(log);
        Shop { address, process: Running::start(version, &mut command).expect("start the shop") }
    }

    /// Waits until this one says that it owns.
    ///
    /// # Panics
    /// If it does not in time.
    #[track_caller]
    pub fn await_owning(&self) {
        until("/ready to answer 200", || match http::get(self.address, "/ready", &[]) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.status.to_string()),
            Err(e) => Err(e),
        });
    }

    /// The session table: visits by customer.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn sessions(&self) -> BTreeMap<String, u64> {
        let answer = http::get(self.address, "/sessions", &[]).expect("read the sessions");
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("expected a session table, found {answer:?}: {e}"))
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// If it does not end with 0.
    pub fn end(mut self) {
        let status = self.process.terminate(Duration::from_secs(15)).expect("end the shop");
        assert!(status.success(), "{} ended with {status}", self.process.name());
    }

    /// Kills it.
    ///
    /// # Panics
    /// If it was gone.
    pub fn kill(&mut self) {
        self.process.kill().expect("kill the shop");
    }
}

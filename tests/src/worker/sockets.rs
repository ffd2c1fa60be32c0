//! Kept sockets, as a worker is told to use them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::thread;

use heirloom_client::{Conn, Listener, Region, SocketKind, Term, wait};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Outcome, Trouble};

/// What this worker has opened.
#[derive(Default)]
pub(super) struct Sockets {
    opened: BTreeMap<String, Vec<Listener>>,
    bare: Vec<OwnedFd>,
}

impl Sockets {
    pub(super) fn listen(&mut self, region: &Region, name: &str, address: &str, n: usize) -> Outcome {
        let group = wait(region.listener(name, address).open_group(n))?;
        let bound = group[0].local_addr().map_err(trouble)?;
        let answer = json!({ "address": bound.map(|bound| bound.to_string()), "count": group.len() });
        self.opened.insert(name.to_owned(), group);
        Ok(answer)
    }

    pub(super) fn datagrams(&mut self, region: &Region, name: &str, address: &str) -> Outcome {
        let bound = wait(region.listener(name, address).open_fds(SocketKind::Udp, 1))?;
        let socket = std::net::UdpSocket::from(bound[0].try_clone().map_err(trouble)?);
        self.bare.extend(bound);
        Ok(json!(socket.local_addr().map_err(trouble)?.to_string()))
    }

    /// Answers every connection with the version, whenever this worker owns: each socket of the group on a thread.
    pub(super) fn answer(&self, region: &Region, name: &str) -> Outcome {
        let group = self.opened.get(name).ok_or_else(|| Trouble::usage("listen first"))?;
        for listener in group {
            let (region, listener) = (region.clone(), listener.clone());
            let name = listener.name().to_owned();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(trouble)?;
            let index = group.len();
            thread::spawn(move || runtime.block_on(serve_terms(region, listener, name, index)));
        }
        Ok(Value::Null)
    }
}

async fn serve_terms(region: Region, mut listener: Listener, name: String, group: usize) {
    // Opened again here, so that this runtime awaits its events; kept already, so it needs no sidecar.
    if group == 1
        && let Ok(Some(address)) = listener.local_addr()
        && let Ok(here) = region.listener(&name, address).open().await
    {
        listener = here;
    }
    let mut roles = region.roles();
    loop {
        if let Ok(term) = region.term() {
            accept_in(&listener, &term, &region).await;
        } else if roles.changed().await.is_none() {
            return;
        }
    }
}

async fn accept_in(listener: &Listener, term: &Term, region: &Region) {
    while let Ok(Some(conn)) = listener.accept(term).await {
        tokio::spawn(answer(conn, region.me().version.clone()));
    }
}

/// One line is answered with the version, then the connection ends.
async fn answer(mut conn: Conn, version: String) -> std::io::Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if conn.read_buf(&mut line).await? == 0 {
            return Ok(());
        }
    }
    conn.write_all(version.as_bytes()).await?;
    conn.shutdown().await
}

/// Sets the soft limit of open files to so many more than are open.
pub(super) fn room(more: u64) -> Outcome {
    let open = std::fs::read_dir("/proc/self/fd").map_err(trouble)?.count() as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| trouble(e.into()))?;
    setrlimit(Resource::RLIMIT_NOFILE, open + more, hard).map_err(|e| trouble(e.into()))?;
    Ok(json!(open + more))
}

fn trouble(error: std::io::Error) -> Trouble {
    Trouble { reason: "IO".into(), message: error.to_string() }
}

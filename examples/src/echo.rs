//! A line service over TCP: the N-th line of a connection is answered with N and the line. The same connection goes on
//! counting over upgrades, since it moves to the next version with its count, the part of a line that has come, and the part
//! of an answer that has not gone out. `src/bin/echo.rs` says how to run it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use heirloom_client::{Hooks, Parcel, Parcels, Term, Tracked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::shop::Failure;

/// Bytes of a line; a connection with a longer one is closed.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Runs one instance until SIGTERM; its connections have moved to the next owner by then, if there is one.
///
/// # Errors
/// If it cannot attach, or its address is another one than is kept.
pub async fn run(version: &str, socket: &Path, listen: SocketAddr) -> Result<(), Failure> {
    let echo = heirloom_client::attach("echo").version(version).socket(socket).await?;
    let listener = echo.region().listener("lines", listen).open().await?;
    // The schema of the state: a connection's count of lines.
    let parcels: Parcels<u64> = echo.region().parcels("lines", 1)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let serving = echo.ready(Hooks::new()).await?;
    serving.leave_when(async move {
        terminate.recv().await;
    });
    let arriving = tokio::spawn(arrive(parcels.clone()));
    serving.run(|term| accept(term, listener.clone(), parcels.clone())).await?;
    arriving.abort();
    Ok(())
}

/// New connections, during one term.
async fn accept(term: Term, listener: heirloom_client::Listener, parcels: Parcels<u64>) -> Result<(), Failure> {
    while let Some(conn) = listener.accept(&term).await? {
        let tracked = parcels.track();
        let (stream, ..) = conn.into_parts();
        tokio::spawn(serve(tracked, Parcel { stream, unread: Vec::new(), unsent: Vec::new(), state: 0 }));
    }
    Ok(())
}

/// Connections of the version before, whenever they come.
async fn arrive(parcels: Parcels<u64>) {
    loop {
        match parcels.arrival().await.accept() {
            Ok((conn, tracked)) => drop(tokio::spawn(serve(tracked, conn))),
            Err(e) => eprintln!("echo: {e}"), // it is still the other's
        }
    }
}

async fn serve(mut tracked: Tracked<u64>, mut conn: Parcel<u64>) -> io::Result<()> {
    loop {
        while let Some(end) = conn.unread.iter().position(|&byte| byte == b'\n') {
            conn.state += 1;
            conn.unsent.extend(format!("{} ", conn.state).bytes());
            conn.unsent.extend(conn.unread.drain(..=end));
        }
        if conn.unread.len() > LINE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
        }
        // Here everything is in `conn`, and a step that is given up has done nothing: so it can go at any of these points.
        let departure = tokio::select! {
            more = step(&mut conn) => match more? {
                true => continue,
                false => return Ok(()),
            },
            departure = tracked.departure() => departure,
        };
        match departure.send(conn).await {
            Ok(()) => return Ok(()),
            Err(back) => {
                eprintln!("echo: {back}"); // and it goes on here
                conn = back.parcel;
            }
        }
    }
}

/// Writes what is to be written, or else reads; `false` at the end. Cancel-safe: what it did is in `conn`.
async fn step(conn: &mut Parcel<u64>) -> io::Result<bool> {
    if conn.unsent.is_empty() {
        return Ok(conn.stream.read_buf(&mut conn.unread).await? > 0);
    }
    let written = conn.stream.write(&conn.unsent).await?;
    conn.unsent.drain(..written);
    Ok(true)
}

//! The control thread: one per attachment, with a small runtime of its own.
//!
//! It attaches, then keeps the link: says what changed ([`Driver::pump`]), hears hooks and hints, re-attaches as the same
//! instance when the link was lost, and drains and leaves. The data plane never waits for it; a second thread follows the
//! gate ([`watch`]), so that roles are seen, and a gate frozen over its budget is opened, while no sidecar is there.
//!
//! If the sidecar does not know this instance any more (DESIGN: death is proved, not guessed), three cases are told apart:
//! - the region under our name has another UUID: it was created anew. What this process holds is an orphan that nobody will
//!   inherit: the instance has left, with a reason, and the process attaches anew or ends;
//! - same region, and our row holds our incarnation: we live and the region says so, so the sidecar is wrong or not yet
//!   ready. Nothing changes for the data plane; we try again;
//! - same region, and the row is not ours: we were taken for dead, and our lanes and slots may be another's by now. Writing
//!   on would corrupt what others count, so everything is cut at once.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use heirloom_region::error::Error;
use heirloom_region::gate::GateWord;
use heirloom_region::process::Process;
use tokio::sync::oneshot;

use crate::attach::Attach;
use crate::driver::Driver;
use crate::open;
use crate::serving::Attachment;
use crate::session::Session;

/// Longest that the watcher sleeps: it looks whether the session is still there.
const WATCH: Duration = Duration::from_millis(500);

/// Attaches on a new control thread; the thread ends when the instance has left.
pub(crate) async fn start(how: Attach) -> Result<Attachment, Error> {
    let (answer, attached) = oneshot::channel();
    let body = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return drop(answer.send(Err(Error::io("start the control runtime", None, e)))),
        };
        runtime.block_on(control(how, answer));
        // A hook that blocks for ever must not keep this thread.
        runtime.shutdown_background();
    };
    spawn("heirloom", body)?;
    attached.await.unwrap_or_else(|_| {
        Err(Error::io("attach", None, std::io::Error::other("the control thread ended before it had attached")))
    })
}

async fn control(how: Attach, mut answer: oneshot::Sender<Result<Attachment, Error>>) {
    let opened = tokio::select! {
        opened = open::open(how) => opened,
        () = answer.closed() => return, // nobody waits any more
    };
    let opened = opened.and_then(|opened| watch(&opened.session).map(|()| opened));
    match opened {
        Err(e) => drop(answer.send(Err(e))),
        Ok(opened) => {
            let attachment = Attachment::new(opened.session.clone());
            // An answer that nobody takes is dropped, and so leaves.
            drop(answer.send(Ok(attachment)));
            Driver::new(opened).run().await;
        }
    }
}

pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|e| Error::io("start a thread", None, e))
}

/// Follows the gate for as long as the session is there and has not left.
fn watch(session: &Arc<Session>) -> Result<(), Error> {
    let (process, session) = (session.process.clone(), Arc::downgrade(session));
    spawn("heirloom-gate", move || watch_gate(&process, &session))
}

fn watch_gate(process: &Process, session: &Weak<Session>) {
    let mut last: GateWord = process.gate();
    loop {
        match session.upgrade() {
            Some(session) if !session.has_left() => session.refresh(),
            _ => return,
        }
        last = process.watch(last, WATCH);
    }
}

//! The socket channel to the sidecar: calls and their answers, and what the sidecar tells by itself.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom_proto::packet::{Packet, Post};
use heirloom_proto::v1::socket_packet::Message;
use heirloom_proto::v1::{FetchSocket, GiveUpSocket, KeepSocket, OpenSocket, SocketPacket};
use heirloom_region::error::Error;
use heirloom_region::sockets::{self, Shape};
use tokio::sync::{Notify, oneshot};

use super::keep::{Net, from_wire, refusal, to_wire};

/// What became of a call.
pub(super) enum Answer {
    /// It is kept: in our table, if descriptors came.
    Kept,
    /// Nobody keeps it: bind it.
    Bind(u64),
    Refused(Error),
}

/// One channel, for as long as its Attach stream.
pub(super) struct Channel {
    post: Post,
    calls: Mutex<HashMap<u64, Call>>,
    last: AtomicU64,
    heard: Notify,
    closed: Notify,
}

struct Call {
    name: String,
    answer: oneshot::Sender<Answer>,
}

impl Channel {
    /// On the current runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let (calls, last) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { post: Post::new(socket)?, calls, last, heard: Notify::new(), closed: Notify::new() })
    }

    /// Hears until the other end is gone, or this one is closed. Calls that wait are dropped then.
    pub(super) async fn run(&self, net: &Arc<Net>) {
        let hearing = async {
            let (mut scratch, mut parts, mut known) = (Vec::new(), HashMap::new(), HashSet::new());
            loop {
                match self.post.receive::<SocketPacket>(&mut scratch).await {
                    Ok(Some(packet)) => self.hear(net, packet, &mut parts, &mut known).await,
                    Ok(None) => return,
                    Err(error) => return tracing::warn!(%error, "the socket channel is cut"),
                }
                self.heard.notify_waiters();
            }
        };
        tokio::select! {
            () = hearing => {}
            () = self.closed.notified() => {}
        }
        self.calls().clear();
        self.heard.notify_waiters();
    }

    pub(super) fn close(&self) {
        self.closed.notify_one();
    }

    /// Completes when something was heard.
    pub(super) async fn heard(&self) {
        self.heard.notified().await;
    }

    pub(super) async fn say(&self, message: Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.post.send(&SocketPacket { message: Some(message) }, descriptors).await
    }

    /// Asks for a name; `None` if the channel was lost.
    pub(super) async fn open(&self, name: &str, asked: &Shape) -> Option<Answer> {
        let call = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        self.calls().insert(call, Call { name: name.to_owned(), answer });
        self.say(Message::Open(OpenSocket { call, shape: Some(to_wire(name, asked)) }), &[]).await.ok()?;
        answered.await.ok()
    }

    /// Waits for a further answer to a call that was asked to bind.
    pub(super) fn answer_to(&self, call: u64) -> impl Future<Output = Option<Answer>> + use<> {
        let (answer, answered) = oneshot::channel();
        self.calls().insert(call, Call { name: String::new(), answer });
        async move { answered.await.ok() }
    }

    pub(super) async fn give_up(&self, name: &str) {
        self.say(Message::GiveUp(GiveUpSocket { name: name.to_owned() }), &[]).await.ok();
    }

    async fn hear(
        &self,
        net: &Arc<Net>,
        packet: Packet<SocketPacket>,
        parts: &mut HashMap<String, Vec<Arc<OwnedFd>>>,
        known: &mut HashSet<String>,
    ) {
        match packet.message.message {
            Some(Message::Known(it)) => {
                let Some((name, shape)) = it.shape.as_ref().and_then(from_wire) else { return };
                known.insert(name.clone());
                if net.keeps(&name) {
                    return;
                }
                match sockets::need(shape.count) {
                    Ok(()) => drop(self.say(Message::Fetch(FetchSocket { name }), &[]).await),
                    Err(full) => net.lack(&name, shape.count, full.to_string()),
                }
            }
            Some(Message::Synced(_)) => {
                for (name, kept) in net.others_than(known) {
                    tracing::info!(name, "a kept socket is put back into the sidecar");
                    self.send_kept(0, &name, &kept).await.ok();
                }
            }
            Some(Message::Keep(keep)) => self.keep(net, &keep, packet.descriptors, packet.dropped, parts),
            Some(Message::Bind(bind)) => {
                let awaited = self.answer(bind.call, Answer::Bind(bind.call));
                if !awaited {
                    self.give_up(&bind.shape.unwrap_or_default().name).await; // nobody waits any more: the next, please
                }
            }
            Some(Message::Refused(it)) => {
                if it.call == 0 {
                    return tracing::warn!(reason = it.reason, message = it.message, "a socket was not put back");
                }
                let name = self.calls().get(&it.call).map(|call| call.name.clone()).unwrap_or_default();
                self.answer(it.call, Answer::Refused(refusal(&name, it.clone())));
            }
            Some(Message::Introduced(it)) => {
                let came = packet.descriptors.into_iter().next();
                let came = came.ok_or_else(|| match packet.dropped {
                    true => sockets::full().to_string(),
                    false => format!("{} ({})", it.message, it.reason),
                });
                net.introduced(it.incarnation, it.asked, came);
            }
            // Of a later release.
            _ => {}
        }
    }

    /// A part of an entry has come, or the word that what we bound is kept.
    fn keep(
        &self,
        net: &Arc<Net>,
        keep: &KeepSocket,
        came: Vec<OwnedFd>,
        dropped: bool,
        parts: &mut HashMap<String, Vec<Arc<OwnedFd>>>,
    ) {
        let Some((name, shape)) = keep.shape.as_ref().and_then(from_wire) else { return };
        if came.is_empty() && !dropped {
            self.answer(keep.call, Answer::Kept);
            return;
        }
        let list = parts.entry(name.clone()).or_default();
        if keep.first == 0 {
            list.clear();
        }
        let in_order = list.len() == keep.first as usize;
        list.extend(came.into_iter().map(Arc::new));
        if in_order && !dropped && list.len() < shape.count {
            return;
        }
        let list = parts.remove(&name).unwrap_or_default();
        let count = shape.count;
        let kept = match dropped {
            true => Err(sockets::need(count).err().unwrap_or_else(|| {
                let io = io::Error::other("the kernel dropped descriptors: the limit of open files is reached");
                Error::io("receive a kept socket", None, io)
            })),
            false => net.keep(&name, shape, list),
        };
        match kept {
            Ok(()) => drop(self.answer(keep.call, Answer::Kept)),
            Err(error) => {
                net.lack(&name, count, error.to_string());
                self.answer(keep.call, Answer::Refused(error));
            }
        }
    }

    /// Whether somebody waits for it.
    fn answer(&self, call: u64, answer: Answer) -> bool {
        let waits = self.calls().remove(&call);
        waits.is_some_and(|waits| waits.answer.send(answer).is_ok())
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

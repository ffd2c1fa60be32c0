//! The sending end of the direct way from one instance to another: offers there, doorbells back.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use heirloom_proto::packet::Post;
use heirloom_proto::v1::parcel_packet::Message;
use heirloom_proto::v1::{ParcelOffer, ParcelPacket, ParcelSettled, ParcelWithdrawn, ParcelWords};
use heirloom_region::os::words::SharedWords;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::flow::Flow;
use super::{OFFER, OFFERS_MAX, step, word};

/// The sending end.
pub(crate) struct Link {
    post: Arc<Post>,
    control: Handle,
    words: SharedWords,
    inner: Mutex<Inner>,
    /// One for each free word.
    room: Arc<Semaphore>,
    last: AtomicU64,
    /// By protocol.
    flows: Mutex<HashMap<String, Arc<Flow>>>,
}

struct Inner {
    free: Vec<u32>,
    /// Who waits for a doorbell, by word, with the ticket.
    waits: HashMap<u32, (u64, oneshot::Sender<ParcelSettled>)>,
    over: bool,
}

/// A word for one offer; it is free again when this is dropped, and an offer that stood is decided by then.
pub(super) struct Slot {
    link: Arc<Link>,
    pub(super) index: u32,
    pub(super) ticket: u64,
    _room: OwnedSemaphorePermit,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    /// The receiver has it.
    Accepted,
    /// The receiver sent it back.
    Returned,
    /// This was first.
    TakenBack,
}

impl Link {
    /// Shares words with the receiver, then hears its doorbells on `control` for as long as somebody holds the link.
    pub(crate) async fn open(control: &Handle, socket: OwnedFd) -> io::Result<Arc<Link>> {
        let post = {
            let _there = control.enter();
            Arc::new(Post::new(socket)?)
        };
        let (words, file) = SharedWords::create().map_err(io::Error::other)?;
        let first = ParcelPacket { message: Some(Message::Words(ParcelWords { count: OFFERS_MAX as u32 })) };
        post.send(&first, &[file.as_fd()]).await?;
        let inner = Inner { free: (0..OFFERS_MAX as u32).rev().collect(), waits: HashMap::new(), over: false };
        let link = Arc::new(Link {
            post: post.clone(),
            control: control.clone(),
            words,
            inner: Mutex::new(inner),
            room: Arc::new(Semaphore::new(OFFERS_MAX)),
            last: AtomicU64::new(0),
            flows: Mutex::default(),
        });
        control.spawn(hear(post, Arc::downgrade(&link)));
        step("send-linked");
        Ok(link)
    }

    /// The other end is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    pub(super) fn flow(&self, protocol: &str) -> Arc<Flow> {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        match flows.get(protocol) {
            Some(flow) => flow.clone(),
            None => flows.entry(protocol.to_owned()).or_default().clone(),
        }
    }

    /// A word, as soon as one is free. Cancel-safe.
    pub(super) async fn slot(self: &Arc<Link>) -> Option<Slot> {
        let room = self.room.clone().acquire_owned().await.ok()?;
        let index = self.lock().free.pop()?; // as many permits as words
        let ticket = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Slot { link: self.clone(), index, ticket, _room: room })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn word(&self) -> &AtomicU64 {
        self.link.words.get(self.index as usize).expect("indices come from the list of those that there are")
    }

    /// Puts the word on offer. What is awaited completes with the doorbell, or with an error when the link has ended.
    pub(super) fn stand(&self) -> oneshot::Receiver<ParcelSettled> {
        let (bell, rung) = oneshot::channel();
        let mut inner = self.link.lock();
        if !inner.over {
            inner.waits.insert(self.index, (self.ticket, bell));
        }
        drop(inner);
        // Pairs with the receiver's swap. The slot is ours: its last offer was decided when it became free.
        self.word().store(word::of(self.ticket, word::OFFERED), Ordering::Release);
        step("send-stands");
        rung
    }

    /// Cancel-safe: the offer was sent, or not.
    pub(super) async fn send(&self, offer: ParcelOffer, descriptors: &[&OwnedFd]) -> io::Result<()> {
        let packet = ParcelPacket { message: Some(Message::Offer(offer)) };
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        self.link.post.send(&packet, &descriptors).await?;
        step("send-offered");
        Ok(())
    }

    /// Whose it is; if that is open, it is taken back here.
    pub(super) fn decide(&self) -> Decided {
        let (offered, returned) = (word::of(self.ticket, word::OFFERED), word::of(self.ticket, word::RETURNED));
        // Pairs with the receiver's swap: whoever loses sees all that the winner had done before.
        match self.word().compare_exchange(offered, returned, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Decided::TakenBack,
            Err(found) if found == word::of(self.ticket, word::ACCEPTED) => Decided::Accepted,
            Err(_) => Decided::Returned,
        }
    }

    /// Tells the receiver that it was taken back, so that it closes what it has of it.
    pub(super) fn withdraw(&self) {
        let (post, withdrawn) = (self.link.post.clone(), ParcelWithdrawn { slot: self.index, ticket: self.ticket });
        self.link.control.spawn(tokio::time::timeout(OFFER, async move {
            let _ = post.send(&ParcelPacket { message: Some(Message::Withdrawn(withdrawn)) }, &[]).await;
        }));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // An offer that nobody waits for any more, its future dropped, is taken back.
        self.decide();
        let mut inner = self.link.lock();
        inner.waits.remove(&self.index);
        inner.free.push(self.index);
        // The permit goes after this, so there is a word for whoever gets it.
    }
}

/// Hears doorbells until the other end is gone, or says what does not belong here, or nobody holds the link.
async fn hear(post: Arc<Post>, link: Weak<Link>) {
    let mut scratch = Vec::new();
    loop {
        let packet = post.receive::<ParcelPacket>(&mut scratch).await;
        let Some(link) = link.upgrade() else { return };
        let mut inner = link.lock();
        match packet.map(|packet| packet.map(|packet| packet.message.message)) {
            Ok(Some(Some(Message::Settled(settled)))) => {
                // That of a slot's offer before may be late: it was decided without.
                if inner.waits.get(&settled.slot).is_some_and(|(ticket, _)| *ticket == settled.ticket)
                    && let Some((_, bell)) = inner.waits.remove(&settled.slot)
                {
                    let _ = bell.send(settled);
                }
            }
            Ok(Some(None)) => {} // of a later release
            ended => {
                inner.over = true;
                inner.waits.clear(); // each looks at its word now
                if let Err(error) = ended {
                    tracing::warn!(%error, "a link between instances is cut; connections stay where they are");
                }
                return;
            }
        }
    }
}

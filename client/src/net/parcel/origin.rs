//! The receiving end of a link: offers come in, doorbells go out.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use heirloom_proto::packet::{Packet, Post};
use heirloom_proto::v1::parcel_packet::Message;
use heirloom_proto::v1::{ParcelOffer, ParcelPacket, ParcelSettled};
use heirloom_region::error::{Error, Misuse};
use heirloom_region::os::words::{SharedWords, WORDS};
use heirloom_region::sockets;
use tokio::runtime::Handle;

use super::arrival::Raw;
use super::hall::Halls;
use super::{step, word};

/// What a parcel's arrival needs to settle it.
pub(super) struct Origin {
    post: Post,
    words: SharedWords,
    /// Words in use, from the first.
    count: u32,
    control: Handle,
}

/// Takes offers from `socket` into the halls, until the sender is gone or says what does not belong here. On the control
/// runtime.
pub(crate) async fn receive(socket: OwnedFd, halls: Arc<Halls>) {
    step("receive-introduced");
    if let Err(error) = take(socket, &halls).await {
        tracing::warn!(reason = error.reason(), %error, "a link between instances is cut; connections stay where they are");
    }
}

/// See [`receive`]; an error is why the link is cut.
pub(super) async fn take(socket: OwnedFd, halls: &Halls) -> Result<(), Error> {
    let io = |op| move |e| Error::io(op, None, e);
    let post = Post::new(socket).map_err(io("watch a link between instances"))?;
    let mut scratch = Vec::new();
    let Some(first) = next(&post, &mut scratch).await? else { return Ok(()) };
    let (words, count) = words_of(first)?;
    let origin = Arc::new(Origin { post, words, count, control: Handle::current() });
    // The last ticket of each slot: one that comes twice is none.
    let mut tickets: HashMap<u32, u64> = HashMap::new();
    while let Some(packet) = next(&origin.post, &mut scratch).await? {
        match packet.message.message {
            Some(Message::Offer(offer)) => {
                origin.check(&offer, &mut tickets)?;
                step("receive-arrived");
                offered(&origin, halls, offer, packet.descriptors, packet.dropped);
            }
            Some(Message::Withdrawn(_)) => halls.clean(),
            Some(Message::Words(_) | Message::Settled(_)) => {
                return Err(wrong("a packet that a sender of connections does not send after its words"));
            }
            // Of a later release.
            None => {}
        }
    }
    Ok(())
}

async fn next(post: &Post, scratch: &mut Vec<u8>) -> Result<Option<Packet<ParcelPacket>>, Error> {
    match post.receive(scratch).await {
        Ok(packet) => Ok(packet),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(wrong(format!("a packet that is no message: {e}"))),
        Err(e) => Err(Error::io("receive from another instance", None, e)),
    }
}

fn words_of(first: Packet<ParcelPacket>) -> Result<(SharedWords, u32), Error> {
    let Some(Message::Words(words)) = first.message.message else {
        return Err(wrong("a first packet that is not the words of the link"));
    };
    if !(1..=WORDS as u32).contains(&words.count) {
        return Err(wrong(format!("{} words of a link, not 1 to {WORDS}", words.count)));
    }
    match (<[OwnedFd; 1]>::try_from(first.descriptors), first.dropped) {
        (Ok([file]), _) => Ok((SharedWords::open(&file)?, words.count)),
        (Err(_), true) => Err(sockets::full()),
        (Err(found), false) => Err(wrong(format!("words of a link in {} files, not in 1", found.len()))),
    }
}

/// One that cannot be taken goes back at once.
fn offered(origin: &Arc<Origin>, halls: &Halls, offer: ParcelOffer, came: Vec<OwnedFd>, dropped: bool) {
    let raw = Raw::new(origin, offer, came);
    if raw.is_decided() {
        return; // its sender has it again
    }
    let fits = match dropped {
        true => Err(sockets::full()),
        false => raw.fits(),
    };
    match fits {
        Ok(()) => halls.arrived(raw),
        Err(error) => raw.refuse(&error, true),
    }
}

pub(super) fn wrong(found: impl Into<String>) -> Error {
    Misuse::Argument { what: "parcel", found: found.into() }.into()
}

impl Origin {
    fn check(&self, offer: &ParcelOffer, tickets: &mut HashMap<u32, u64>) -> Result<(), Error> {
        if offer.slot >= self.count {
            return Err(wrong(format!("slot {}, of {}", offer.slot, self.count)));
        }
        let last = tickets.insert(offer.slot, offer.ticket).unwrap_or_default();
        match offer.ticket > last && offer.ticket <= u64::MAX >> 2 {
            true => Ok(()),
            false => Err(wrong(format!("ticket {}, not above {last} and below 2^62", offer.ticket))),
        }
    }

    /// Whether an offer does not stand any more.
    pub(super) fn is_decided(&self, slot: u32, ticket: u64) -> bool {
        // Pairs with whoever swapped it.
        let now = self.words.get(slot as usize).map(|word| word.load(Ordering::Acquire));
        now != Some(word::of(ticket, word::OFFERED))
    }

    /// Accepts an offer, or returns it with a reason; whether this was in time. The doorbell follows.
    pub(super) fn settle(self: &Arc<Origin>, slot: u32, ticket: u64, returned: Option<(&Error, bool)>) -> bool {
        let Some(word) = self.words.get(slot as usize) else { return false };
        let state = if returned.is_none() { word::ACCEPTED } else { word::RETURNED };
        let (offered, to) = (word::of(ticket, word::OFFERED), word::of(ticket, state));
        // Release: what is in the parcel was taken out before. Acquire: see `Slot::decide`, whose swap this one meets.
        if word.compare_exchange(offered, to, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        let mut settled = ParcelSettled { slot, ticket, ..ParcelSettled::default() };
        match returned {
            None => step("receive-accepted"),
            Some((error, all)) => {
                let message: String = error.to_string().chars().take(1000).collect();
                (settled.reason, settled.message, settled.all) = (error.reason().to_owned(), message, all);
            }
        }
        self.ring(ParcelPacket { message: Some(Message::Settled(settled)) });
        true
    }

    /// From here if there is room, which spares the control thread's waking; lost, it decides nothing: the word does.
    fn ring(self: &Arc<Origin>, packet: ParcelPacket) {
        match self.post.try_send(&packet, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let origin = self.clone();
                self.control.spawn(async move {
                    let _ = origin.post.send(&packet, &[]).await;
                });
            }
            _ => step("receive-rung"),
        }
    }
}

//! A sender that says what it should not: each fault has a name, and what was undecided stays with its sender.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use heirloom_proto::packet::{BYTES_MAX as PACKET_MAX, Post, pair};
use heirloom_proto::v1::parcel_packet::Message;
use heirloom_proto::v1::{ParcelOffer, ParcelPacket, ParcelSettled, ParcelWithdrawn, ParcelWords};
use heirloom_region::error::Error;
use heirloom_region::os::words::{self, SharedWords, WORDS};
use tokio::time::timeout;

use super::origin::take;
use super::{BYTES_MAX, Parcels, word};
use crate::embedded::Embedded;
use crate::{Hooks, Serving};

const SOON: Duration = Duration::from_secs(20);
const SLOT: u32 = 3;

/// A sender by hand, at the door of an instance that takes protocol `p`, schema 1, with a number as state.
struct Sender {
    post: Post,
    words: SharedWords,
    last: u64,
    to: Parcels<u64>,
    _serving: Serving,
    _arbiter: Embedded,
}

impl Sender {
    async fn new() -> Self {
        let arbiter = Embedded::new("shop").expect("a region");
        let serving = arbiter.attach("v1").await.expect("attached").ready(Hooks::new()).await.expect("ready");
        let to: Parcels<u64> = serving.region().parcels("p", 1).expect("a protocol");
        let (here, there) = pair().expect("a pair");
        to.session.net.introduced(7, false, Ok(there));
        let (words, file) = SharedWords::create().expect("words");
        let sender =
            Sender { post: Post::new(here).expect("a post"), words, last: 0, to, _serving: serving, _arbiter: arbiter };
        sender.say(Message::Words(ParcelWords { count: 8 }), &[file.as_fd()]).await;
        sender
    }

    async fn say(&self, message: Message, descriptors: &[BorrowedFd<'_>]) {
        self.post.send(&ParcelPacket { message: Some(message) }, descriptors).await.expect("said");
    }

    /// A good offer, on the table.
    fn offer(&mut self) -> ParcelOffer {
        self.last += 1;
        let stands = word::of(self.last, word::OFFERED);
        self.words.get(SLOT as usize).expect("a word").store(stands, Ordering::Release);
        let (unread, state) = (b"half a li".to_vec(), vec![7]);
        ParcelOffer {
            slot: SLOT,
            ticket: self.last,
            protocol: "p".into(),
            schema: 1,
            unread,
            state,
            ..Default::default()
        }
    }

    async fn hear(&self) -> Option<ParcelSettled> {
        let heard = timeout(SOON, self.post.receive::<ParcelPacket>(&mut Vec::new())).await.expect("an answer");
        match heard.expect("readable")?.message.message {
            Some(Message::Settled(it)) => Some(it),
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> u64 {
        self.words.get(SLOT as usize).expect("a word").load(Ordering::Acquire)
    }

    /// Offers what should come back at once, or from whoever takes it.
    async fn refused(&mut self, offer: ParcelOffer, descriptors: &[BorrowedFd<'_>], by_taker: bool) -> ParcelSettled {
        self.say(Message::Offer(offer), descriptors).await;
        if by_taker {
            let error = timeout(SOON, self.to.arrival()).await.expect("it arrives").accept().expect_err("refused");
            println!("the taker: {error}");
        }
        let settled = self.hear().await.expect("a word on this one, not the end");
        assert_eq!((settled.slot, settled.ticket), (SLOT, self.last));
        assert_eq!(self.state(), word::of(self.last, word::RETURNED), "it is the sender's");
        println!("{}: {}", settled.reason, settled.message);
        settled
    }

    /// The link is as good as before.
    async fn still_takes(&mut self, socket: &OwnedFd) {
        let offer = self.offer();
        self.say(Message::Offer(offer), &[socket.as_fd()]).await;
        let (conn, _tracked) =
            timeout(SOON, self.to.arrival()).await.expect("it arrives").accept().expect("a good one");
        assert_eq!((conn.unread.as_slice(), conn.state), (&b"half a li"[..], 7));
        assert_eq!(self.state(), word::of(self.last, word::ACCEPTED));
        assert_eq!(self.hear().await.expect("a doorbell").reason, "");
    }
}

fn connection() -> OwnedFd {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    std::mem::forget(theirs); // stays open for as long as the process
    ours.into()
}

#[tokio::test]
async fn what_is_wrong_with_one_parcel_sends_that_one_back_with_the_fault_named() {
    let mut sender = Sender::new().await;
    let socket = connection();
    let one: &[BorrowedFd<'_>] = &[socket.as_fd()];

    let offer = ParcelOffer { schema: 2, ..sender.offer() };
    let back = sender.refused(offer, one, false).await;
    assert_eq!((back.reason.as_str(), back.all), ("SCHEMA_UNREADABLE", true));
    let offer = ParcelOffer { protocol: "q".into(), ..sender.offer() };
    let back = sender.refused(offer, one, false).await;
    assert_eq!((back.reason.as_str(), back.all), ("INVALID_FIELD", true));

    let file: OwnedFd = tempfile::tempfile().expect("a file").into();
    let listening: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").into();
    let datagrams: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound").into();
    for (wrong, says) in [(&file, "no socket"), (&listening, "listening"), (&datagrams, "Datagram")] {
        let offer = sender.offer();
        let back = sender.refused(offer, &[wrong.as_fd()], true).await;
        assert_eq!((back.reason.as_str(), back.all), ("INVALID_FIELD", false));
        assert!(back.message.contains(says), "{}", back.message);
    }
    for descriptors in [&[][..], &[socket.as_fd(), socket.as_fd()]] {
        let offer = sender.offer();
        assert_eq!(sender.refused(offer, descriptors, true).await.reason, "INVALID_FIELD");
    }
    let offer = ParcelOffer { state: vec![0xfd], ..sender.offer() };
    assert_eq!(sender.refused(offer, one, true).await.reason, "SCHEMA_UNREADABLE", "a state that is cut off");
    sender.still_takes(&socket).await;
}

#[tokio::test]
async fn lengths_are_not_believed() {
    let mut sender = Sender::new().await;
    let socket = connection();
    let bytes = words::put(&[1; 100]).expect("a file");
    let unsealed: OwnedFd = {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(100).expect("as long");
        file.into()
    };
    for (lens, file, reason) in [
        ([BYTES_MAX, 1, 0], &bytes, "VALUE_TOO_LARGE"),
        ([u64::MAX, u64::MAX, 2], &bytes, "VALUE_TOO_LARGE"),
        ([100, 1, 1], &bytes, "INVALID_FIELD"),
        ([50, 0, 0], &bytes, "INVALID_FIELD"),
        ([100, 0, 0], &unsealed, "INVALID_FIELD or IO"), // by the file system
        ([100, 0, 0], &socket, "IO"),
        ([99, 1, 0], &bytes, "SCHEMA_UNREADABLE"), // right lengths, and no state
    ] {
        let [unread_len, unsent_len, state_len] = lens;
        let offer = ParcelOffer { unread_len, unsent_len, state_len, ..sender.offer() };
        let back = sender.refused(offer, &[socket.as_fd(), file.as_fd()], true).await;
        assert!(reason.split(" or ").any(|reason| back.reason == reason), "{lens:?}: {reason}, not {back:?}");
    }
    sender.still_takes(&socket).await;
}

#[tokio::test]
async fn what_was_taken_back_is_closed_here_without_anybody_looking() {
    let mut sender = Sender::new().await;
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let offer = sender.offer();
    sender.say(Message::Offer(offer), &[ours.as_fd()]).await;
    let waiting = || sender.to.hall.len();
    timeout(SOON, async {
        while waiting() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it arrives");
    // The sender takes it back, and the connection ends there.
    sender.words.get(SLOT as usize).expect("a word").store(word::of(1, word::RETURNED), Ordering::Release);
    drop(ours);
    sender.say(Message::Withdrawn(ParcelWithdrawn { slot: SLOT, ticket: 1 }), &[]).await;
    theirs.set_read_timeout(Some(SOON)).expect("a patience");
    let end = tokio::task::spawn_blocking(move || std::io::Read::read(&mut theirs, &mut [0])).await.expect("read");
    assert_eq!(end.expect("the end"), 0, "nobody keeps it open");
    assert_eq!(waiting(), 0);
}

/// What `take` says of these packets, the first of which are good words if `words`.
async fn cut_by(words: bool, message: Message) -> Error {
    let sender = Sender::new().await;
    let (here, there) = pair().expect("a pair");
    let here = Post::new(here).expect("a post");
    let (shared, file) = SharedWords::create().expect("words");
    let halls = sender.to.session.net.halls.clone();
    shared.get(0).expect("a word").store(word::of(1, word::OFFERED), Ordering::Release);
    let say = async |message| here.send(&ParcelPacket { message: Some(message) }, &[file.as_fd()]).await.expect("said");
    if words {
        say(Message::Words(ParcelWords { count: 8 })).await;
    }
    say(message).await;
    let error = timeout(SOON, take(there, &halls)).await.expect("in time").expect_err("it is cut");
    println!("{}: {error}", error.reason());
    let state = shared.get(0).expect("a word").load(Ordering::Acquire);
    assert_eq!(state, word::of(1, word::OFFERED), "undecided, so the sender's");
    error
}

#[tokio::test]
async fn what_belongs_to_no_parcel_cuts_the_link_with_the_fault_named() {
    let offer = |slot, ticket| {
        Message::Offer(ParcelOffer { slot, ticket, protocol: "p".into(), schema: 1, ..ParcelOffer::default() })
    };
    let settled = Message::Settled(ParcelSettled { slot: 0, ticket: 1, ..ParcelSettled::default() });
    for (words, message, reason) in [
        (false, offer(0, 1), "INVALID_FIELD"),
        (false, Message::Words(ParcelWords { count: 0 }), "INVALID_FIELD"),
        (false, Message::Words(ParcelWords { count: WORDS as u32 + 1 }), "INVALID_FIELD"),
        (true, Message::Words(ParcelWords { count: 8 }), "INVALID_FIELD"),
        (true, settled, "INVALID_FIELD"),
        (true, offer(8, 1), "INVALID_FIELD"),
        (true, offer(u32::MAX, 1), "INVALID_FIELD"),
        (true, offer(1, 0), "INVALID_FIELD"),
        (true, offer(1, u64::MAX), "INVALID_FIELD"),
    ] {
        let said = format!("{message:?}");
        assert_eq!(cut_by(words, message).await.reason(), reason, "{said}");
    }
}

#[tokio::test]
async fn a_frame_that_is_cut_off_or_too_long_cuts_the_link() {
    // Field 2, an offer of 100 bytes; field 5 of it, unread, 98 bytes: and then 20.
    let cut = [&[0x12, 100, 0x2a, 98][..], &[7; 20]].concat();
    for bytes in [cut, vec![0xff; 100], vec![0x0a; PACKET_MAX + 1]] {
        let (here, there) = pair().expect("a pair");
        let raw = std::os::unix::net::UnixDatagram::from(here.try_clone().expect("a descriptor"));
        let post = Post::new(here).expect("a post");
        let (_words, file) = SharedWords::create().expect("words");
        let first = ParcelPacket { message: Some(Message::Words(ParcelWords { count: 8 })) };
        post.send(&first, &[file.as_fd()]).await.expect("said");
        raw.send(&bytes).expect("sent");
        let error = timeout(SOON, take(there, &Default::default())).await.expect("in time").expect_err("cut");
        assert_eq!(error.reason(), "INVALID_FIELD", "{error}");
        assert!(error.to_string().contains("no message"), "{error}");
    }
}

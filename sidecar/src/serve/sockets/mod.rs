//! A region's sockets in the sidecar: kept, given to every instance, bound by one of those that want them.
//!
//! The sidecar never accepts, reads or listens; it keeps descriptors, so that a region's sockets outlast its instances.
//! Instances keep them too and put them back after a restart of the sidecar. Invariants:
//! - under one lock: a name is kept, or bound by exactly one instance (its [`Claim`]), or unknown. So two that want a new
//!   name at once never both bind it: one does, the other waits and is given what the first has bound;
//! - a claim ends with what was bound, with a word that it cannot be, or with its instance's channel: the next one is asked;
//! - what an instance sends is looked at before it is kept, and room is asked for before it is sent ([`sockets::need`]);
//! - a channel that reads nothing is cut off when [`LETTERS_MAX`] wait; nothing else waits for it.
//!
//! If the sidecar dies anywhere, sockets live on in the instances; what was on its way is closed with the packet.

mod channel;
mod given;
mod introduce;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom_proto::packet::{DESCRIPTORS_MAX, Packet};
use heirloom_proto::v1::socket_packet::Message;
use heirloom_proto::v1::{
    BindSocket, KeepSocket, KnownSocket, OpenSocket, SocketKind, SocketPacket, SocketRefused, SocketShape,
    SocketsSynced,
};
use heirloom_region::error::{Error, Misuse};
use heirloom_region::sockets::{self, GROUP_MAX, Kind, Shape, Table};
use tokio::sync::mpsc;

pub(crate) use channel::Channel;
pub(crate) use given::Given;

/// Letters to one instance that wait.
const LETTERS_MAX: usize = 16 << 10;

/// What is sent to an instance.
struct Letter {
    packet: SocketPacket,
    descriptors: Vec<Arc<OwnedFd>>,
}

/// The sockets of one region.
pub(crate) struct Sockets {
    region: String,
    given: Arc<Given>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    table: Table,
    claims: BTreeMap<String, Claim>,
    channels: BTreeMap<u64, Out>,
    /// Sockets of entries that are not whole yet.
    parts: HashMap<(u64, String), Vec<Arc<OwnedFd>>>,
    last: u64,
}

/// Who binds a name now, and who waits for it.
struct Claim {
    by: u64,
    waiting: VecDeque<(u64, OpenSocket)>,
}

struct Out {
    incarnation: u64,
    /// As the kernel said when it attached.
    uid: u32,
    letters: mpsc::Sender<Letter>,
}

impl Sockets {
    /// With what the service manager gave for this region.
    pub(crate) fn new(region: &str, given: Arc<Given>) -> Arc<Self> {
        let mut inner = Inner::default();
        for (name, sockets) in given.of_region(region) {
            let kept = given::shape(&sockets).and_then(|shape| inner.table.keep(&name, shape, sockets).map(drop));
            if let Err(error) = kept {
                tracing::error!(region, name, %error, "a socket of the service manager is not kept");
            }
        }
        Arc::new(Self { region: region.to_owned(), given, inner: Mutex::new(inner) })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().table.descriptors()
    }

    fn joined(&self, (incarnation, uid): (u64, u32), letters: mpsc::Sender<Letter>) -> u64 {
        let mut inner = self.lock();
        inner.last += 1;
        let id = inner.last;
        inner.channels.insert(id, Out { incarnation, uid, letters });
        let known: Vec<_> = inner.table.iter().map(|(name, kept)| to_wire(name, &kept.shape)).collect();
        for shape in known {
            inner.say(id, Message::Known(KnownSocket { shape: Some(shape) }));
        }
        inner.say(id, Message::Synced(SocketsSynced {}));
        id
    }

    fn parted(&self, id: u64) {
        let mut inner = self.lock();
        inner.channels.remove(&id);
        inner.parts.retain(|(who, _), _| *who != id);
        for claim in inner.claims.values_mut() {
            claim.waiting.retain(|(who, _)| *who != id);
        }
        let dropped: Vec<_> = inner.claims.iter().filter(|(_, c)| c.by == id).map(|(name, _)| name.clone()).collect();
        for name in dropped {
            self.next_claim(&mut inner, &name);
        }
    }

    fn hear(&self, id: u64, packet: Packet<SocketPacket>) {
        let mut inner = self.lock();
        match packet.message.message {
            Some(Message::Open(open)) => self.open(&mut inner, id, open),
            Some(Message::Fetch(fetch)) => inner.send_kept(id, 0, &fetch.name),
            Some(Message::GiveUp(it)) if inner.claims.get(&it.name).is_some_and(|claim| claim.by == id) => {
                self.next_claim(&mut inner, &it.name);
            }
            Some(Message::Keep(keep)) => self.keep(&mut inner, id, keep, packet.descriptors, packet.dropped),
            Some(Message::Introduce(it)) => inner.introduce(id, it.incarnation),
            // Of a later release.
            _ => {}
        }
    }

    /// An instance wants a socket: kept, given by the service manager, being bound, or to be bound by it.
    fn open(&self, inner: &mut Inner, id: u64, open: OpenSocket) {
        let call = open.call;
        let Some((name, asked)) = open.shape.as_ref().and_then(from_wire) else {
            return inner.refuse(id, call, &misuse("shape", "a name, a kind and an address"));
        };
        if let Err(error) = sockets::name(&name) {
            return inner.refuse(id, call, &error.into());
        }
        match inner.table.find(&name, &asked) {
            Err(differs) => return inner.refuse(id, call, &differs.into()),
            Ok(Some(_)) => return inner.send_kept(id, call, &name),
            Ok(None) => {}
        }
        if let Some(sockets) = self.given.take(&name, &asked) {
            let kept = given::shape(&sockets).and_then(|shape| inner.table.keep(&name, shape, sockets).map(drop));
            return match kept {
                Ok(()) => self.kept(inner, id, call, &name, true),
                Err(error) => inner.refuse(id, call, &error),
            };
        }
        if let Some(claim) = inner.claims.get_mut(&name) {
            return claim.waiting.push_back((id, open));
        }
        match sockets::need(asked.count) {
            Err(full) => inner.refuse(id, call, &full),
            Ok(()) => {
                inner.claims.insert(name, Claim { by: id, waiting: VecDeque::new() });
                inner.say(id, Message::Bind(BindSocket { call, shape: open.shape }));
            }
        }
    }

    /// An instance sends what it has bound, or has kept while no sidecar was there.
    fn keep(&self, inner: &mut Inner, id: u64, keep: KeepSocket, came: Vec<OwnedFd>, dropped: bool) {
        let Some((name, shape)) = keep.shape.as_ref().and_then(from_wire) else {
            return inner.refuse(id, keep.call, &misuse("shape", "a name, a kind and an address"));
        };
        let key = (id, name.clone());
        let first = usize::try_from(keep.first).unwrap_or(usize::MAX);
        let parts = inner.parts.entry(key.clone()).or_default();
        let in_order = parts.len() == first && shape.count <= GROUP_MAX && first + came.len() <= shape.count;
        parts.extend(came.into_iter().map(Arc::new));
        let whole = match (dropped, in_order) {
            (false, true) if parts.len() < shape.count => return,
            (false, true) => Ok(std::mem::take(parts)),
            (true, _) => Err(sockets::need(shape.count).err().unwrap_or_else(|| misuse("descriptors", "all of them"))),
            (false, false) => Err(misuse("descriptors of a group", "in order")),
        };
        inner.parts.remove(&key);
        let others_bind = inner.claims.get(&name).is_some_and(|claim| claim.by != id);
        let kept = whole.and_then(|sockets| match others_bind {
            true => Err(misuse("name", "one that nobody else binds now")),
            false => inner.table.keep(&name, shape, sockets).map(drop),
        });
        match kept {
            Ok(()) => {
                tracing::info!(region = self.region, name, "socket kept");
                self.kept(inner, id, keep.call, &name, false);
            }
            Err(error) => {
                inner.refuse(id, keep.call, &error);
                if !others_bind {
                    self.next_claim(inner, &name);
                }
            }
        }
    }

    /// A name is kept: tells who wanted it, who waits for it, and everybody else.
    fn kept(&self, inner: &mut Inner, id: u64, call: u64, name: &str, send: bool) {
        let Some(shape) = inner.table.get(name).map(|kept| to_wire(name, &kept.shape)) else { return };
        match send {
            true => inner.send_kept(id, call, name),
            false => inner.say(id, Message::Keep(KeepSocket { call, shape: Some(shape.clone()), first: 0 })),
        }
        let others: Vec<_> = inner.channels.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            inner.say(other, Message::Known(KnownSocket { shape: Some(shape.clone()) }));
        }
        if let Some(claim) = inner.claims.remove(name) {
            for (who, open) in claim.waiting {
                self.open(inner, who, open);
            }
        }
    }

    /// Whoever was to bind a name does not: the next one that waits is asked.
    fn next_claim(&self, inner: &mut Inner, name: &str) {
        if let Some(claim) = inner.claims.remove(name) {
            for (who, open) in claim.waiting {
                self.open(inner, who, open);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn say(&mut self, id: u64, message: Message) {
        self.send(id, message, Vec::new());
    }

    /// A letter that finds no room means that its instance does not read: its channel is dropped, and with it the letters.
    fn send(&mut self, id: u64, message: Message, descriptors: Vec<Arc<OwnedFd>>) {
        let letter = Letter { packet: SocketPacket { message: Some(message) }, descriptors };
        if self.channels.get(&id).is_some_and(|out| out.letters.try_send(letter).is_err()) {
            self.channels.remove(&id);
        }
    }

    fn send_kept(&mut self, id: u64, call: u64, name: &str) {
        let Some(kept) = self.table.get(name).cloned() else { return };
        for (n, batch) in kept.sockets.chunks(DESCRIPTORS_MAX).enumerate() {
            let first = (n * DESCRIPTORS_MAX) as u32;
            let keep = KeepSocket { call, shape: Some(to_wire(name, &kept.shape)), first };
            self.send(id, Message::Keep(keep), batch.to_vec());
        }
    }

    fn refuse(&mut self, id: u64, call: u64, error: &Error) {
        let (expected, found) = match error {
            Error::Misuse(Misuse::Socket { expected, found, .. }) => (expected.clone(), found.clone()),
            Error::Full(heirloom_region::error::Full::Table { limit, .. }) => (limit.to_string(), String::new()),
            _ => (String::new(), String::new()),
        };
        let (reason, message) = (error.reason().to_owned(), error.to_string());
        self.say(id, Message::Refused(SocketRefused { call, reason, message, expected, found }));
    }
}

fn misuse(what: &'static str, expected: &str) -> Error {
    Misuse::Argument { what, found: format!("something else than {expected}") }.into()
}

fn to_wire(name: &str, shape: &Shape) -> SocketShape {
    let kind = match shape.kind {
        Kind::Unix => SocketKind::Unix,
        Kind::Udp => SocketKind::Udp,
        _ => SocketKind::Tcp,
    };
    SocketShape { name: name.to_owned(), kind: kind.into(), address: shape.address.clone(), count: shape.count as u32 }
}

fn from_wire(it: &SocketShape) -> Option<(String, Shape)> {
    let kind = match it.kind() {
        SocketKind::Tcp => Kind::Tcp,
        SocketKind::Unix => Kind::Unix,
        SocketKind::Udp => Kind::Udp,
        SocketKind::Unspecified => return None,
    };
    let count = usize::try_from(it.count).ok().filter(|n| *n > 0)?;
    Some((it.name.clone(), Shape { kind, address: it.address.clone(), count }))
}

//! What this instance keeps, and its channel to the sidecar while there is one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use heirloom_proto::packet::DESCRIPTORS_MAX;
use heirloom_proto::v1::socket_packet::Message;
use heirloom_proto::v1::{FetchSocket, KeepSocket, SocketKind as WireKind, SocketShape};
use heirloom_region::error::{Error, Full, Misuse, NotReady};
use heirloom_region::sockets::{self, Kept, Kind, Shape, Table};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::channel::{Answer, Channel};
use super::parcel::Halls;
use super::ways::Ways;

/// How long a name that this instance does not keep is asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all instances of one process share, where there is no sidecar.
pub(crate) type Shared = Arc<Home>;

/// Where sockets are kept; one for each attachment, or one for all of an embedded arbiter.
#[derive(Default)]
pub(crate) struct Home {
    table: Mutex<Table>,
    /// By incarnation, where they are of one process.
    nets: Mutex<HashMap<u64, Weak<Net>>>,
}

/// The sockets of one attachment.
pub(crate) struct Net {
    home: Shared,
    pub(super) incarnation: u64,
    /// Nobody else keeps or binds: an embedded arbiter's instances share the table itself.
    pub(super) alone: bool,
    pub(super) control: Handle,
    channel: watch::Sender<Option<Arc<Channel>>>,
    lacking: Mutex<BTreeMap<String, Lacking>>,
    /// Where connections of other instances arrive.
    pub(super) halls: Arc<Halls>,
    pub(super) ways: Ways,
}

/// What the sidecar keeps and this instance does not: why, and how many descriptors it takes.
struct Lacking {
    why: String,
    count: usize,
}

impl Net {
    /// For an attachment whose control runtime is `control`; `shared` where there is no sidecar.
    pub(crate) fn new(control: Handle, incarnation: u64, shared: Option<Shared>) -> Arc<Self> {
        let alone = shared.is_some();
        let net = Arc::new(Self {
            home: shared.unwrap_or_default(),
            incarnation,
            alone,
            control,
            channel: watch::Sender::new(None),
            lacking: Mutex::default(),
            halls: Arc::default(),
            ways: Ways::default(),
        });
        if alone {
            let mut nets = net.home.nets.lock().unwrap_or_else(PoisonError::into_inner);
            nets.retain(|_, net| net.strong_count() > 0);
            nets.insert(incarnation, Arc::downgrade(&net));
        }
        net
    }

    /// Another instance of this process, where all are.
    pub(super) fn neighbour(&self, incarnation: u64) -> Option<Arc<Net>> {
        self.home.nets.lock().unwrap_or_else(PoisonError::into_inner).get(&incarnation)?.upgrade()
    }

    pub(super) fn channel(&self) -> Option<Arc<Channel>> {
        self.channel.borrow().clone()
    }

    /// Takes a new channel into use, in the background; what is kept here is put back if the sidecar lacks it.
    pub(crate) fn connect(self: &Arc<Self>, socket: OwnedFd) {
        let net = self.clone();
        self.control.spawn(async move {
            match Channel::new(socket) {
                Ok(channel) => {
                    let channel = Arc::new(channel);
                    net.channel.send_replace(Some(channel.clone()));
                    channel.run(&net).await;
                    net.channel.send_if_modified(|now| {
                        let mine = now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &channel));
                        if mine {
                            *now = None;
                        }
                        mine
                    });
                }
                Err(error) => tracing::warn!(%error, "no socket channel"),
            }
        });
    }

    /// The link to the sidecar is lost, and this goes with it; or this instance has left.
    pub(crate) fn disconnect(&self) {
        if let Some(channel) = self.channel.send_replace(None) {
            channel.close();
        }
    }

    /// Sockets that the sidecar keeps and this instance could not take; asked again, now that it matters.
    pub(crate) async fn lacks(&self) -> Option<String> {
        let wanted: Vec<(String, usize)> = self.lacking().iter().map(|(name, it)| (name.clone(), it.count)).collect();
        let count = wanted.iter().map(|(_, count)| count).sum();
        let (first, _) = wanted.first()?;
        if let Err(full) = sockets::need(count) {
            return Some(format!("{} kept sockets do not fit, {first} among them: {full}", wanted.len()));
        }
        let channel = self.channel.borrow().clone()?;
        for (name, _) in &wanted {
            channel.say(Message::Fetch(FetchSocket { name: name.clone() }), &[]).await.ok();
        }
        let all_here = async {
            while !self.lacking().is_empty() {
                channel.heard().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), all_here).await.ok();
        let lacking = self.lacking();
        lacking.iter().next().map(|(name, it)| format!("the kept socket {name} did not come: {}", it.why))
    }

    /// What is kept under `name`; bound if nobody keeps it. On the control runtime.
    pub(super) async fn open(&self, name: &str, asked: &Shape) -> Result<Kept, Error> {
        sockets::name(name)?;
        match tokio::time::timeout(PATIENCE, self.find_or_bind(name, asked)).await {
            Ok(found) => found,
            Err(_) => {
                let channel = self.channel.borrow().clone();
                let Some(channel) = channel else {
                    return Err(NotReady::Unreachable { socket: Default::default(), waited: PATIENCE }.into());
                };
                channel.give_up(name).await;
                Err(NotReady::Busy { handover: format!("that binds the socket {name}, by another instance,") }.into())
            }
        }
    }

    async fn find_or_bind(&self, name: &str, asked: &Shape) -> Result<Kept, Error> {
        let mut channels = self.channel.subscribe();
        loop {
            if let Some(kept) = self.table().find(name, asked)? {
                return Ok(kept.clone());
            }
            if self.alone {
                return self.bind(name, asked);
            }
            // The sender is ours.
            let Ok(channel) = channels.wait_for(Option::is_some).await.map(|channel| channel.clone()) else { continue };
            let Some(channel) = channel else { continue };
            sockets::need(asked.count)?;
            match channel.open(name, asked).await {
                None => {} // lost on the way: asked again on the next one
                Some(Answer::Kept) => {}
                Some(Answer::Refused(error)) => return Err(error),
                Some(Answer::Bind(call)) => match self.offer(&channel, call, name, asked).await? {
                    Some(kept) => return Ok(kept),
                    None => continue,
                },
            }
        }
    }

    /// Alone: under the table's lock, so nobody binds it at once.
    fn bind(&self, name: &str, asked: &Shape) -> Result<Kept, Error> {
        let mut table = self.table();
        if let Some(kept) = table.find(name, asked)? {
            return Ok(kept.clone());
        }
        sockets::need(asked.count)?;
        let (shape, bound) = sockets::bind(asked)?;
        table.keep(name, shape, bound.into_iter().map(Arc::new).collect()).cloned()
    }

    /// Binds what nobody keeps and gives it to the sidecar before it listens. `None`: the channel was lost on the way, and
    /// what was bound is closed again; it has listened to nobody.
    async fn offer(&self, channel: &Channel, call: u64, name: &str, asked: &Shape) -> Result<Option<Kept>, Error> {
        let (shape, bound) = match sockets::bind(asked) {
            Ok(bound) => bound,
            Err(error) => {
                channel.give_up(name).await;
                return Err(error);
            }
        };
        let kept = Kept { shape, sockets: bound.into_iter().map(Arc::new).collect() };
        let answer = channel.answer_to(call);
        if channel.send_kept(call, name, &kept).await.is_err() {
            return Ok(None);
        }
        match answer.await {
            Some(Answer::Kept) => self.table().keep(name, kept.shape, kept.sockets).cloned().map(Some),
            Some(Answer::Refused(error)) => Err(error),
            Some(Answer::Bind(_)) | None => Ok(None),
        }
    }

    /// Keeps what has come from the sidecar.
    pub(super) fn keep(&self, name: &str, shape: Shape, sockets: Vec<Arc<OwnedFd>>) -> Result<(), Error> {
        self.table().keep(name, shape, sockets)?;
        self.lacking().remove(name);
        Ok(())
    }

    pub(super) fn lack(&self, name: &str, count: usize, why: String) {
        tracing::warn!(name, count, why, "a kept socket is not taken: a handover to this instance is refused");
        self.lacking().insert(name.to_owned(), Lacking { why, count });
    }

    pub(super) fn keeps(&self, name: &str) -> bool {
        self.table().get(name).is_some()
    }

    /// Everything kept here that is not among `known`.
    pub(super) fn others_than(&self, known: &HashSet<String>) -> Vec<(String, Kept)> {
        let table = self.table();
        let others = table.iter().filter(|(name, _)| !known.contains(*name));
        others.map(|(name, kept)| (name.to_owned(), kept.clone())).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.home.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lacking(&self) -> MutexGuard<'_, BTreeMap<String, Lacking>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    /// Sends a whole entry, in batches.
    pub(super) async fn send_kept(&self, call: u64, name: &str, kept: &Kept) -> std::io::Result<()> {
        for (n, batch) in kept.sockets.chunks(DESCRIPTORS_MAX).enumerate() {
            let first = (n * DESCRIPTORS_MAX) as u32;
            let keep = KeepSocket { call, shape: Some(to_wire(name, &kept.shape)), first };
            let borrowed: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
            self.say(Message::Keep(keep), &borrowed).await?;
        }
        Ok(())
    }
}

pub(super) fn to_wire(name: &str, shape: &Shape) -> SocketShape {
    let kind = match shape.kind {
        Kind::Unix => WireKind::Unix,
        Kind::Udp => WireKind::Udp,
        _ => WireKind::Tcp,
    };
    SocketShape { name: name.to_owned(), kind: kind.into(), address: shape.address.clone(), count: shape.count as u32 }
}

pub(super) fn from_wire(it: &SocketShape) -> Option<(String, Shape)> {
    let kind = match it.kind() {
        WireKind::Tcp => Kind::Tcp,
        WireKind::Unix => Kind::Unix,
        WireKind::Udp => Kind::Udp,
        WireKind::Unspecified => return None,
    };
    let count = usize::try_from(it.count).ok().filter(|n| (1..=sockets::GROUP_MAX).contains(n))?;
    Some((it.name.clone(), Shape { kind, address: it.address.clone(), count }))
}

/// The error that a refusal stands for: the same word on both sides.
pub(super) fn refusal(name: &str, it: heirloom_proto::v1::SocketRefused) -> Error {
    match it.reason.as_str() {
        "SOCKET_MISMATCH" => {
            let what = ["address", "type", "number", "name", "socket"];
            let prefix = |word: &&&str| it.message.contains(&format!(": {word} is "));
            let what = what.iter().find(prefix).copied().unwrap_or("socket");
            Misuse::Socket { name: name.to_owned(), what, expected: it.expected, found: it.found }.into()
        }
        "TABLE_FULL" => {
            let table = "descriptors of the sidecar (RLIMIT_NOFILE)";
            Full::Table { table, limit: it.expected.parse().unwrap_or_default() }.into()
        }
        _ => Misuse::Argument { what: "socket", found: it.message }.into(),
    }
}

//! Direct ways to other instances of the region: made when first wanted, kept until the other end is gone.
//!
//! The sidecar makes a pair of sockets and gives each its end; instances of one process, which have no sidecar, do it by
//! themselves. A way that was not made is asked for again by whoever wants it next; nothing waits for it but connections that
//! would move, and these are served meanwhile.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heirloom_proto::v1::Introduce;
use heirloom_proto::v1::socket_packet::Message;
use tokio::sync::oneshot;

use super::keep::Net;
use super::parcel::{Link, receive, step};

/// How long the sidecar has to introduce another instance.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// Descriptors that a way to another instance takes while it is made.
const RESERVE: usize = 3;

#[derive(Default)]
pub(super) struct Ways {
    /// By incarnation.
    links: Mutex<HashMap<u64, Arc<Link>>>,
    /// Held while one is made, so that it is made once.
    making: tokio::sync::Mutex<()>,
    introductions: Mutex<HashMap<u64, oneshot::Sender<Result<OwnedFd, String>>>>,
    /// Kept so that an instance whose table is full of connections can still send them away.
    reserve: Mutex<Vec<File>>,
}

impl Net {
    /// Keeps room for a way to another instance.
    pub(super) fn reserve(&self) {
        let mut reserve = lock(&self.ways.reserve);
        while reserve.len() < RESERVE {
            let Ok(file) = File::open("/dev/null") else { return };
            reserve.push(file);
        }
    }

    /// The direct way to another instance, if there is one.
    pub(super) fn link(&self, incarnation: u64) -> Option<Arc<Link>> {
        lock(&self.ways.links).get(&incarnation).filter(|link| !link.is_over()).cloned()
    }

    /// The same, made if there is none. On the control runtime.
    pub(super) async fn link_to(&self, incarnation: u64) -> Option<Arc<Link>> {
        let _making = self.ways.making.lock().await;
        if let Some(link) = self.link(incarnation) {
            return Some(link);
        }
        lock(&self.ways.links).retain(|_, link| !link.is_over());
        lock(&self.ways.reserve).clear();
        let made = self.make(incarnation).await;
        self.reserve();
        match made {
            Ok(link) => {
                lock(&self.ways.links).insert(incarnation, link.clone());
                Some(link)
            }
            Err(error) => {
                tracing::warn!(error, "no way to the owner: connections stay here until there is one");
                None
            }
        }
    }

    async fn make(&self, incarnation: u64) -> Result<Arc<Link>, String> {
        let socket = match self.alone {
            true => self.introduce_here(incarnation)?,
            false => {
                let asked = tokio::time::timeout(INTRODUCTION, self.introduce(incarnation)).await;
                asked.map_err(|_| format!("the sidecar introduced nobody within {INTRODUCTION:?}"))??
            }
        };
        Link::open(&self.control, socket).await.map_err(|error| error.to_string())
    }

    async fn introduce(&self, incarnation: u64) -> Result<OwnedFd, String> {
        let lost = || "the sidecar is not there to introduce it".to_owned();
        let channel = self.channel().ok_or_else(lost)?;
        let (answer, answered) = oneshot::channel();
        lock(&self.ways.introductions).insert(incarnation, answer);
        channel.say(Message::Introduce(Introduce { incarnation }), &[]).await.map_err(|error| error.to_string())?;
        step("send-asked");
        answered.await.map_err(|_| lost())?
    }

    fn introduce_here(&self, incarnation: u64) -> Result<OwnedFd, String> {
        let other = self.neighbour(incarnation).ok_or("it is not there")?;
        let (here, there) = heirloom_proto::packet::pair().map_err(|error| error.to_string())?;
        other.introduced(self.incarnation, false, Ok(there));
        Ok(here)
    }

    /// A way to or from another instance has come, or why not.
    pub(super) fn introduced(&self, incarnation: u64, asked: bool, came: Result<OwnedFd, String>) {
        match (asked, came) {
            (true, came) => {
                if let Some(waits) = lock(&self.ways.introductions).remove(&incarnation) {
                    let _ = waits.send(came);
                }
            }
            (false, Ok(socket)) => drop(self.control.spawn(receive(socket, self.halls.clone()))),
            (false, Err(error)) => tracing::warn!(error, "another instance's connections cannot come here"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

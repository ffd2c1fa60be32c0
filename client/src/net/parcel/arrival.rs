//! Connections that come from another instance.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use heirloom_proto::v1::ParcelOffer;
use heirloom_region::error::{Error, Full, Incompatible, NotReady};
use heirloom_region::os::words;
use heirloom_region::sockets::{self, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use super::origin::{Origin, wrong};
use super::{BYTES_MAX, Parcel, Parcels, Tracked, step};
use crate::codec::Codec;
use crate::net::conn::Stream;

/// A parcel as it came; dropped undecided it returns.
pub(super) struct Raw {
    origin: Arc<Origin>,
    offer: ParcelOffer,
    descriptors: Vec<OwnedFd>,
}

impl Raw {
    pub(super) fn new(origin: &Arc<Origin>, offer: ParcelOffer, descriptors: Vec<OwnedFd>) -> Self {
        Self { origin: origin.clone(), offer, descriptors }
    }

    pub(super) fn protocol(&self) -> &str {
        &self.offer.protocol
    }

    pub(super) fn schema(&self) -> u32 {
        self.offer.schema
    }

    /// Its sender has it again.
    pub(super) fn is_decided(&self) -> bool {
        self.origin.is_decided(self.offer.slot, self.offer.ticket)
    }

    /// Whether its descriptors leave room for others.
    pub(super) fn fits(&self) -> Result<(), Error> {
        self.descriptors.iter().try_for_each(sockets::fits)
    }

    /// Sends it back; `all`: others of its protocol would go back as well.
    pub(super) fn refuse(self, why: &Error, all: bool) {
        let name = self.protocol();
        if self.origin.settle(self.offer.slot, self.offer.ticket, Some((why, all))) {
            tracing::debug!(protocol = name, reason = why.reason(), %why, "a connection goes back to its sender");
        }
    }

    fn accept(&self) -> bool {
        self.origin.settle(self.offer.slot, self.offer.ticket, None)
    }

    /// The socket; unread, unsent and state, wherever they are.
    fn open(&mut self) -> Result<(OwnedFd, [Vec<u8>; 3]), Error> {
        let offer = &mut self.offer;
        let lens = [offer.unread_len, offer.unsent_len, offer.state_len];
        let inline = lens == [0; 3];
        let (expected, found) = (if inline { 1 } else { 2 }, self.descriptors.len());
        if found != expected {
            return Err(wrong(format!("{found} descriptors, not {expected}")));
        }
        let file = if inline { None } else { self.descriptors.pop() };
        let socket = self.descriptors.pop().ok_or_else(|| wrong("no socket"))?;
        let Some(file) = file else {
            return Ok((socket, [&mut offer.unread, &mut offer.unsent, &mut offer.state].map(std::mem::take)));
        };
        let all = lens.iter().try_fold(0_u64, |sum, len| sum.checked_add(*len)).unwrap_or(u64::MAX);
        if all > BYTES_MAX {
            let name = format!("parcel of {}", offer.protocol);
            return Err(Full::Value { name, len_bytes: all, limit_bytes: BYTES_MAX }.into());
        }
        let mut unread = words::take(file, all)?;
        let mut unsent = unread.split_off(lens[0] as usize);
        let state = unsent.split_off(lens[1] as usize);
        Ok((socket, [unread, unsent, state]))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if !self.is_decided() {
            let why = wrong("taken out, and dropped without being accepted");
            self.origin.settle(self.offer.slot, self.offer.ticket, Some((&why, false)));
        }
    }
}

/// A parcel from another instance; dropped without [`accept`](Self::accept) it returns to its sender.
#[must_use = "accept() it, or it returns to its sender"]
pub struct Arrival<S> {
    parcels: Parcels<S>,
    raw: Raw,
    _state: PhantomData<fn(S) -> S>,
}

impl<S: Serialize + DeserializeOwned + Send + 'static> Arrival<S> {
    pub(super) fn new(parcels: Parcels<S>, raw: Raw) -> Self {
        Self { parcels, raw, _state: PhantomData }
    }

    /// Takes the connection: from here it is ours, even if the sender dies. Everything that can fail fails before.
    ///
    /// # Errors
    /// [`Error::NotReady`] the sender took it back; [`Error::Incompatible`] its state does not decode; [`Error::Full`] it is too
    /// large; [`Error::Misuse`], [`Error::Io`] it came without what belongs to it, or with something else.
    /// In each case it is the sender's, who is told why.
    pub fn accept(mut self) -> Result<(Parcel<S>, Tracked<S>), Error> {
        let parcel = match self.open() {
            Ok(parcel) => parcel,
            Err(error) => {
                self.raw.refuse(&error, false);
                return Err(error);
            }
        };
        let tracked = self.parcels.track();
        step("receive-checked");
        match self.raw.accept() {
            true => Ok((parcel, tracked)),
            false => {
                let handover = format!("of a {} connection was taken back: it", self.raw.protocol());
                Err(NotReady::Busy { handover }.into())
            }
        }
    }

    fn open(&mut self) -> Result<Parcel<S>, Error> {
        let (socket, [unread, unsent, state]) = self.raw.open()?;
        let (schema, name) = (self.raw.schema(), self.raw.protocol());
        let undecodable = |why| Incompatible::Decode { name: name.to_owned(), schema, why };
        let state = Codec::Bincode.decode(&state).map_err(undecodable)?;
        let runtime = Handle::try_current().unwrap_or_else(|_| self.parcels.session.control.clone());
        let _there = runtime.enter();
        Ok(Parcel { stream: stream_of(socket)?, unread, unsent, state })
    }
}

impl<S> std::fmt::Debug for Arrival<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("protocol", &self.raw.protocol()).finish_non_exhaustive()
    }
}

/// A connection's descriptor in the current runtime's event queue. Nothing is read.
pub(super) fn stream_of(socket: OwnedFd) -> Result<Stream, Error> {
    let io = |e| Error::io("take a connection", None, e);
    Ok(match sockets::connection(&socket)? {
        Kind::Unix => {
            let stream = std::os::unix::net::UnixStream::from(socket);
            stream.set_nonblocking(true).map_err(io)?;
            Stream::Unix(tokio::net::UnixStream::from_std(stream).map_err(io)?)
        }
        _ => {
            let stream = std::net::TcpStream::from(socket);
            stream.set_nonblocking(true).map_err(io)?;
            Stream::Tcp(tokio::net::TcpStream::from_std(stream).map_err(io)?)
        }
    })
}

//! Where offers wait until the application takes them.
//!
//! An offer that its sender took back is dropped with the next thing that comes (its sender says so): whoever keeps a
//! descriptor of a connection keeps its end from the client.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom_region::error::{Error, Incompatible, Misuse};
use tokio::sync::Notify;

use super::arrival::Raw;

/// Of all protocols.
#[derive(Default)]
pub(crate) struct Halls {
    open: Mutex<HashMap<String, Arc<Hall>>>,
}

/// Of one protocol.
pub(super) struct Hall {
    pub(super) protocol: String,
    pub(super) schema: u32,
    waiting: Mutex<VecDeque<Raw>>,
    came: Notify,
}

impl Halls {
    pub(super) fn open(&self, protocol: &str, schema: u32) -> Result<Arc<Hall>, Error> {
        let mut open = self.lock();
        let hall = open.entry(protocol.to_owned()).or_insert_with(|| {
            let protocol = protocol.to_owned();
            Arc::new(Hall { protocol, schema, waiting: Mutex::default(), came: Notify::new() })
        });
        if hall.schema != schema {
            let found = format!("{protocol}: schema {schema}, opened before as {}", hall.schema);
            return Err(Misuse::Argument { what: "parcels", found }.into());
        }
        Ok(hall.clone())
    }

    /// Puts it where it is waited for, or sends it back.
    pub(super) fn arrived(&self, raw: Raw) {
        let (protocol, found) = (raw.protocol().to_owned(), raw.schema());
        let hall = self.lock().get(&protocol).cloned();
        match hall {
            Some(hall) if hall.schema == found => {
                let mut waiting = hall.waiting();
                waiting.retain(|raw| !raw.is_decided());
                waiting.push_back(raw);
                drop(waiting);
                hall.came.notify_one();
            }
            Some(hall) => {
                raw.refuse(&Incompatible::Schema { name: protocol, found, readable: vec![hall.schema] }.into(), true)
            }
            None => {
                let found = format!("{protocol:?}, which nobody here has opened");
                raw.refuse(&Misuse::Argument { what: "protocol of a connection", found }.into(), true);
            }
        }
    }

    /// Drops what was taken back.
    pub(super) fn clean(&self) {
        for hall in self.lock().values() {
            hall.waiting().retain(|raw| !raw.is_decided());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Hall>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hall {
    /// Cancel-safe.
    pub(super) async fn next(&self) -> Raw {
        loop {
            let came = self.came.notified();
            let first = {
                let mut waiting = self.waiting();
                let first = waiting.pop_front();
                if !waiting.is_empty() {
                    self.came.notify_one(); // for the next one who waits
                }
                first
            };
            match first {
                Some(raw) if raw.is_decided() => {}
                Some(raw) => return raw,
                None => came.await,
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Raw>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

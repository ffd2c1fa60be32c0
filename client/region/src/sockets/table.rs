//! What one process keeps, by name.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Shape, check, identity, name};
use crate::error::{Error, Full, Misuse};

/// Names in one table.
const NAMES_MAX: usize = 4096;

/// The sockets of one name, whole.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What they are.
    pub shape: Shape,
    /// In the order of the group.
    pub sockets: Vec<Arc<OwnedFd>>,
}

/// Kept sockets by name.
#[derive(Debug, Default)]
pub struct Table {
    names: BTreeMap<String, Kept>,
    /// By the identity of each socket; while it is kept no other can have it.
    names_of: HashMap<u64, String>,
}

impl Table {
    /// What is kept under `name`.
    pub fn get(&self, name: &str) -> Option<&Kept> {
        self.names.get(name)
    }

    /// What is kept under `name`, if it is what is asked for.
    ///
    /// # Errors
    /// [`Misuse::Socket`] if it is something else.
    pub fn find(&self, name: &str, asked: &Shape) -> Result<Option<&Kept>, Misuse> {
        let Some(kept) = self.names.get(name) else { return Ok(None) };
        kept.shape.check(name, asked).map(|()| Some(kept))
    }

    /// Keeps checked sockets under a new name; the same ones again change nothing.
    ///
    /// # Errors
    /// [`Misuse::Name`]; [`Misuse::Argument`] for what is no such socket; [`Misuse::Socket`] if others are kept under this
    /// name, or these under another; [`Full::Table`].
    pub fn keep(&mut self, new: &str, shape: Shape, sockets: Vec<Arc<OwnedFd>>) -> Result<&Kept, Error> {
        name(new)?;
        check(new, &shape, &sockets)?;
        let identities = sockets.iter().map(identity).collect::<Result<Vec<_>, _>>()?;
        let others =
            |what, expected, found| Error::from(Misuse::Socket { name: new.to_owned(), what, expected, found });
        if let Some(other) = identities.iter().find_map(|id| self.names_of.get(id).filter(|other| *other != new)) {
            return Err(others("name", other.clone(), new.to_owned()));
        }
        if let Some(kept) = self.names.get(new)
            && identities.iter().any(|id| !self.names_of.contains_key(id))
        {
            let expected = format!("another one at {}", kept.shape.address);
            return Err(others("socket", expected, format!("one at {}", shape.address)));
        }
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(new) {
            return Err(Full::Table { table: "kept sockets", limit: NAMES_MAX as u64 }.into());
        }
        self.names_of.extend(identities.into_iter().map(|id| (id, new.to_owned())));
        Ok(self.names.entry(new.to_owned()).or_insert(Kept { shape, sockets }))
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.names.iter().map(|(name, kept)| (name.as_str(), kept))
    }

    /// Descriptors in it.
    pub fn descriptors(&self) -> usize {
        self.names.values().map(|kept| kept.sockets.len()).sum()
    }
}

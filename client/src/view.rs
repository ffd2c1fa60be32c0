//! Reading several owned objects as they were at one moment.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use heirloom_region::error::{Error, Generation, Misuse, NotReady};
use heirloom_region::objects;
use serde::{Serialize, de::DeserializeOwned};

use crate::cell::{Cell, Stamp};
use crate::object::Gauge;
use crate::session::Session;

/// Tries before a reader gives up against faster writers.
const TRIES: u32 = 16;

/// Reads within [`Region::read`](crate::Region::read).
///
/// The moment lies between the last read and the last check of a gauge: what was read is the same before and after it. For
/// cells that means the same write. A gauge has no stamp, so there it means the same value; gauges are checked first, so that
/// all cells and any one gauge are of one moment.
pub struct View {
    session: Arc<Session>,
    generation: Generation,
    seen: RefCell<Vec<Seen>>,
}

/// What was read, to be looked at again.
enum Seen {
    Cell(objects::Cell, Stamp),
    Gauge(objects::Gauge, f64),
}

impl View {
    /// A cell's value at the moment.
    ///
    /// # Errors
    /// As [`Cell::load`]; [`Error::Misuse`] for a cell of another region.
    pub fn cell<T: Serialize + DeserializeOwned + Send + Sync + 'static>(&self, cell: &Cell<T>) -> Result<T, Error> {
        self.same_region(cell.session())?;
        let read = cell.load_versioned()?;
        self.seen.borrow_mut().push(Seen::Cell(cell.raw().clone(), read.stamp));
        Ok(read.value)
    }
    /// A gauge's value at the moment.
    pub fn gauge(&self, gauge: &Gauge) -> f64 {
        let value = gauge.value();
        self.seen.borrow_mut().push(Seen::Gauge(gauge.raw().clone(), value));
        value
    }
    /// The moment's generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    fn same_region(&self, other: &Arc<Session>) -> Result<(), Error> {
        if Arc::ptr_eq(&self.session, other) {
            return Ok(());
        }
        let found = format!("of region {}, read in a view of {}", other.region(), self.session.region());
        Err(Misuse::Argument { what: "cell", found }.into())
    }

    /// Whether everything is as it was read.
    fn holds(self) -> Result<bool, Error> {
        let (gauges, cells): (Vec<_>, Vec<_>) =
            self.seen.into_inner().into_iter().partition(|seen| matches!(seen, Seen::Gauge(..)));
        for seen in gauges.into_iter().chain(cells) {
            let same = match seen {
                Seen::Gauge(gauge, value) => gauge.value().to_bits() == value.to_bits(),
                Seen::Cell(cell, stamp) => Stamp::from(cell.stamp()?) == stamp,
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(self.session.generation() == self.generation)
    }
}

/// Runs `read` until what it saw held still.
pub(crate) fn read<R>(session: &Arc<Session>, mut read: impl FnMut(&View) -> Result<R, Error>) -> Result<R, Error> {
    for _ in 0..TRIES {
        let generation = session.generation();
        let view = View { session: session.clone(), generation, seen: RefCell::default() };
        match read(&view) {
            // What was torn may look like an error of the caller's own; only a quiet moment tells.
            Err(error) if !matches!(error, Error::NotReady(NotReady::Contended { .. })) => {
                if view.holds()? {
                    return Err(error);
                }
            }
            Err(_) => {}
            Ok(result) => {
                if view.holds()? {
                    return Ok(result);
                }
            }
        }
    }
    Err(NotReady::Contended { attempts: TRIES }.into())
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("generation", &self.generation.get()).finish()
    }
}

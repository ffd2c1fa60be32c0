//! Reading everything that is in a region: for exposition, listings, eligibility and verification.
//!
//! Readers take no lock and stop nobody. What an entry says never changes, so a [`Catalog`] decodes each once, when it can be read, and a scrape
//! costs one pass over the lanes, from each lane's first word to its last, which is how they lie in memory.
//!
//! All bytes are input: a bad entry is skipped and reported ([`faults`]), an unknown kind is skipped and counted
//! ([`object_counts`]), and every loop is bounded by the index and by the lanes.
//!
//! A total that was read is never below one read before: each lane's word only grows, and `f64`s are added in the order of
//! the lanes.

use std::collections::BTreeMap;

use crate::alloc::lane_words_used;
use crate::directory::entry::{Decoded, Entry, Kind};
use crate::directory::{Directory, Key, Lookup};
use crate::error::{Corrupt, Error, Generation};
use crate::mapping::Mapping;
use crate::objects::cell::{self, Stamp};
use crate::objects::check_place;
use crate::series;

mod catalog;
mod cells;
mod seen;
mod sums;

pub use crate::alloc::{SelfCounter, counted};
pub use crate::directory::Kind as ObjectKind;
pub use crate::objects::lane::lanes_used;
pub use catalog::{Catalog, Labels, MetricFamily, Sample, Value};
pub(crate) use cells::Cells;
pub(crate) use sums::monotone_totals;

/// All metrics with their values, families by name, series by labels. Whoever does this often keeps a [`Catalog`].
pub fn metrics(mapping: &Mapping) -> Vec<MetricFamily> {
    Catalog::default().read(mapping)
}

/// A cell without its bytes.
#[derive(Debug)]
pub struct CellInfo {
    /// Its name.
    pub name: String,
    /// Sorted by name.
    pub labels: Vec<(String, String)>,
    /// When it was created, Unix milliseconds.
    pub created_unix_ms: u64,
    /// Its newest value, or why there is none to be read.
    pub value: Result<Option<CellSummary>, Error>,
}

/// What is known of a cell's value without its codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSummary {
    /// Schema and codec of each part, the writer's own first.
    pub schemas: Vec<(u32, u16)>,
    /// Bytes of all parts.
    pub len_bytes: u64,
    /// Of the write that made it.
    pub stamp: Stamp,
    /// In which generation it was written.
    pub generation: Generation,
}

/// All cells, by name and labels.
pub fn cells(mapping: &Mapping) -> Vec<CellInfo> {
    let mut cells: Vec<CellInfo> = entries(Directory::owned(mapping))
        .filter_map(|(_, decoded)| match decoded {
            Ok(Decoded::Known(entry)) if entry.kind == Kind::Cell => Some(cell_info(mapping, *entry)),
            _ => None,
        })
        .collect();
    cells.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
    cells
}

fn cell_info(mapping: &Mapping, entry: Entry) -> CellInfo {
    let value = cell::read_entry(mapping, &entry).map(|value| {
        value.map(|v| CellSummary {
            schemas: v.parts.iter().map(|p| (p.schema, p.codec)).collect(),
            len_bytes: v.parts.iter().map(|p| p.bytes.len() as u64).sum(),
            stamp: v.stamp,
            generation: v.generation,
        })
    });
    CellInfo { name: entry.name, labels: entry.labels, created_unix_ms: entry.created_unix_ms, value }
}

/// How many objects of each kind there are; unknown kinds as `kind-N`, entries that are not whole as `corrupt`.
pub fn object_counts(mapping: &Mapping) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (_, decoded) in all_entries(mapping) {
        let name = match decoded {
            Ok(Decoded::Known(entry)) if matches!(entry.kind, Kind::Family | Kind::SeriesRoot) => continue,
            Ok(Decoded::Known(entry)) => entry.kind.as_str().to_owned(),
            Ok(Decoded::Unknown { kind }) => format!("kind-{kind}"),
            Err(_) => "corrupt".to_owned(),
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// Something in the directories, the cells or the series that is not as a writer of this format leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFault {
    /// Which structure, with the object's name where that is known.
    pub structure: String,
    /// Where, in bytes from the region's start.
    pub offset: u64,
    /// What is wrong.
    pub error: Corrupt,
}

/// Where one entry's slot is: in the shared directory or the owned one, and its word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    is_owned: bool,
    slot: u64,
}

/// Where the entries are that there are now.
pub(crate) fn places(mapping: &Mapping) -> Vec<Place> {
    let of = |directory: Directory<'_>, is_owned| {
        directory.filled().map(|(_, slot)| Place { is_owned, slot }).collect::<Vec<_>>()
    };
    [of(Directory::shared(mapping), false), of(Directory::owned(mapping), true)].concat()
}

/// Checks one entry, and its value if it is a cell's, its chunks if it is a series'.
pub(crate) fn fault_at(mapping: &Mapping, place: Place) -> Option<ObjectFault> {
    let directory = if place.is_owned { Directory::owned(mapping) } else { Directory::shared(mapping) };
    let (structure, error) = match directory.read(place.slot).map(|(decoded, _)| decoded) {
        Err(error) => ("directory entry".to_owned(), error),
        Ok(Decoded::Unknown { .. }) => return None,
        Ok(Decoded::Known(entry)) => (titled(&entry), fault_of(mapping, &entry, place.slot)?),
    };
    Some(ObjectFault { structure, offset: directory.offset(place.slot), error })
}

fn titled(entry: &Entry) -> String {
    if entry.kind != Kind::Series {
        return format!("{} {}", entry.kind.as_str(), entry.name);
    }
    let labels: Vec<String> = entry.labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
    format!("series {{{}}}", labels.join(","))
}

/// Checks every entry, every cell's value and every series' chunks.
pub fn faults(mapping: &Mapping) -> Vec<ObjectFault> {
    places(mapping).into_iter().filter_map(|place| fault_at(mapping, place)).collect()
}

fn fault_of(mapping: &Mapping, entry: &Entry, slot: u64) -> Option<Corrupt> {
    match entry.kind {
        Kind::Series => series_fault(mapping, slot, entry.payload),
        Kind::SeriesRoot => series::check_root(mapping, entry).err(),
        Kind::Cell => match cell::read_entry(mapping, entry) {
            Err(Error::Corrupt(error)) => Some(error),
            _ => None,
        },
        Kind::Family => None,
        _ => match family_of(mapping, &entry.name) {
            Ok(Some(family)) => check_place(mapping, entry, &family.bounds).err(),
            Ok(None) => Some(Corrupt::field("series' family", entry.payload, "an entry in the directory", 0)),
            Err(error) => Some(error),
        },
    }
}

fn series_fault(mapping: &Mapping, slot: u64, number: u64) -> Option<Corrupt> {
    let checked = match series::View::of(mapping) {
        Ok(Some(view)) => view.check(slot, number),
        Ok(None) => Err(Corrupt::field("series' root", 0, "an entry in the owned directory", 0).into()),
        Err(error) => Err(error.into()),
    };
    match checked {
        Err(Error::Corrupt(error)) => Some(error),
        _ => None,
    }
}

fn family_of(mapping: &Mapping, name: &str) -> Result<Option<Box<Entry>>, Corrupt> {
    Ok(match Directory::shared(mapping).find(&Key::family(name))? {
        Lookup::Found(Decoded::Known(entry)) => Some(entry),
        _ => None,
    })
}

/// All entries of a directory with their offsets.
fn entries(directory: Directory<'_>) -> impl Iterator<Item = (u64, Result<Decoded, Corrupt>)> {
    directory.filled().map(move |(_, slot)| (directory.offset(slot), directory.read(slot).map(|(decoded, _)| decoded)))
}

fn all_entries(mapping: &Mapping) -> impl Iterator<Item = (u64, Result<Decoded, Corrupt>)> {
    entries(Directory::shared(mapping)).chain(entries(Directory::owned(mapping)))
}

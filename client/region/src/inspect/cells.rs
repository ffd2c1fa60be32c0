//! Which cells there are and what schemas their values have: what a handover asks, twice.
//!
//! What an entry says never changes, so each is decoded once. Of a value only the heads of its parts are read, and only where
//! they may differ from what the last look found: a look costs what was written since, and not what there is.
//!
//! A write of a cell changes its version's word, so a header that was not written since belongs to a value that was not
//! replaced since.
//!
//! All bytes are input: entries that are not whole are skipped until they are, there are never more cells than slots in the index, and schemas
//! that no value has any longer are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::{Decoded, Directory, Kind};
use crate::mapping::Mapping;
use crate::objects::cell;

/// A name, and the schemas that a value under it has.
type Form = (Arc<str>, Arc<[u32]>);

/// The cells that were found so far, with what the last look found of each.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    seen: super::seen::Seen,
    names: BTreeSet<Arc<str>>,
    /// By where their headers lie.
    cells: Vec<Known>,
    /// How many cells have each form: far fewer than cells, as many cells share a name.
    forms: BTreeMap<Form, u64>,
}

#[derive(Debug)]
struct Known {
    /// Where its header lies, 0 for a header that is nowhere: such a cell is there, and has no value to be read.
    at: u64,
    form: Form,
}

impl Cells {
    /// Every name of cells with each list of schemas that values under it have, in order. A value that cannot be read (never
    /// written, torn, rotten) has none. `written` holds every byte of the region that was written since the last look, in order.
    pub(crate) fn look(
        &mut self,
        mapping: &Mapping,
        written: impl Iterator<Item = Range<u64>>,
    ) -> impl Iterator<Item = (&str, &[u32])> {
        self.read_again(mapping, written);
        self.add_new(mapping);
        self.forms.keys().map(|(name, schemas)| (&**name, &**schemas))
    }

    fn read_again(&mut self, mapping: &Mapping, written: impl Iterator<Item = Range<u64>>) {
        let mut rest = &mut self.cells[..];
        for range in written {
            if rest.is_empty() {
                return;
            }
            // Neighbours are often written together: what comes next is often there.
            let is_near = rest.first().is_none_or(|cell| cell.at >= range.start);
            let before = if is_near { 0 } else { rest.partition_point(|cell| cell.at < range.start) };
            let here = rest[before..].iter().take_while(|cell| cell.at < range.end).count();
            for cell in &mut rest[before..before + here] {
                let schemas = schemas_at(mapping, cell.at);
                if *cell.form.1 != *schemas {
                    let form = form(&mut self.forms, &cell.form.0, schemas);
                    forget(&mut self.forms, &std::mem::replace(&mut cell.form, form));
                }
            }
            rest = &mut rest[before + here..];
        }
    }

    fn add_new(&mut self, mapping: &Mapping) {
        let directory = Directory::owned(mapping);
        let Self { seen, names, cells, forms } = self;
        let known = cells.len();
        seen.look(&directory, |slot| match directory.read(slot) {
            Ok((Decoded::Known(entry), _)) if entry.kind == Kind::Cell => {
                let at = cell::header_of(mapping, &entry).unwrap_or(0);
                let name = names.get(entry.name.as_str()).cloned().unwrap_or_else(|| {
                    let name: Arc<str> = entry.name.into();
                    names.insert(Arc::clone(&name));
                    name
                });
                cells.push(Known { at, form: form(forms, &name, schemas_at(mapping, at)) });
                true
            }
            Ok(_) => true,
            Err(_) => false,
        });
        if cells.len() != known {
            cells.sort_by_key(|cell| cell.at);
        }
    }
}

fn schemas_at(mapping: &Mapping, at: u64) -> Vec<u32> {
    if at == 0 { Vec::new() } else { cell::schemas_at(mapping, at).unwrap_or_default() }
}

/// One cell more of this form; gives it as the others share it.
fn form(forms: &mut BTreeMap<Form, u64>, name: &Arc<str>, schemas: Vec<u32>) -> Form {
    let form = (Arc::clone(name), Arc::from(schemas));
    if let Some((shared, _)) = forms.get_key_value(&form) {
        let shared = shared.clone();
        forms.entry(form).and_modify(|cells| *cells += 1);
        return shared;
    }
    forms.insert(form.clone(), 1);
    form
}

fn forget(forms: &mut BTreeMap<Form, u64>, form: &Form) {
    if let Some(cells) = forms.get_mut(form) {
        *cells -= 1;
        if *cells == 0 {
            forms.remove(form);
        }
    }
}

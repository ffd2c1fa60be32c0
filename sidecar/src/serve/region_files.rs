//! Which files of a directory are regions, and under which name one is served.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heirloom_region::error::{Corrupt, Error};
use heirloom_region::mapping::{Mapping, draft_of, remove_abandoned};
use heirloom_region::name;

use super::ServeError;

/// Files that have a region's name, sorted, after drafts that nobody is at are removed. Everything else in the directory is
/// not ours.
pub(crate) fn region_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, ServeError> {
    let io = || ServeError::io(format!("read {}", dir.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io())? {
        let entry = entry.map_err(io())?;
        match entry.file_name().into_string() {
            Ok(name) if name::region(&name).is_ok() => files.push((name, entry.path())),
            Ok(name) if draft_of(&name).is_some() => clear_draft(&entry.path()),
            Ok(name) if name.starts_with('.') => {}
            name => tracing::warn!(?name, dir = %dir.display(), "not a region's name, left alone"),
        }
    }
    files.sort();
    Ok(files)
}

/// A renamed or copied file would be two regions under one lock, or a second one of the same name: it is served only under the
/// name that stands in it.
///
/// # Errors
/// `Corrupt` with both names.
pub(crate) fn same_name(file: &str, mapping: Arc<Mapping>) -> Result<Arc<Mapping>, Error> {
    if mapping.name() == file {
        return Ok(mapping);
    }
    let (expected, found) = (file.to_owned(), mapping.name().to_owned());
    Err(Corrupt::Identity { what: "region name", expected, found }.into())
}

/// Removes what a killed creation left: nobody will ever open it, and it holds memory.
fn clear_draft(path: &Path) {
    match remove_abandoned(path) {
        Ok(true) => {
            tracing::info!(path = %path.display(), "removed the draft of a region whose creation was cut short")
        }
        Ok(false) => tracing::debug!(path = %path.display(), "somebody is making a region"),
        Err(error) => tracing::warn!(path = %path.display(), %error, "the draft of a region stays"),
    }
}

//! How far each series was shipped, kept across restarts in a file beside the region's.
//!
//! ```text
//! header   "HLRMTWR1" | region's uuid, 16 | CRC of the URL, 4 | CRC of all before, 4
//! record   length of the payload, 4 | CRC of kind and payload, 4 | kind, 1 | payload
//!   1 cursors    from series 0 on: time of the last sample that is settled, 8 each; i64::MIN for none
//!   2 sending    shard, 4 | then for each series of the request: number, 4, time of the last sample in it, 8
//!   3 settled    shard, 4: what it was sending was taken, or refused for good
//! ```
//!
//! **Invariant: nothing is sent before what is sent is written here, and nothing is passed over that was not settled.** So a
//! restart finds at most one request of each shard of which nobody knows whether it arrived. It is made again of the same
//! samples and sent before anything else: a store that has it already either takes equal samples or refuses the request whole.
//!
//! **Crash.** A record is appended with one write and has a CRC; the first one that is not whole ends the file, and was about
//! something that had not begun. When the file has grown, a new one is written beside it and renamed over it. A file that
//! cannot be read, or is about another region or another store, is begun again: then all that the region holds is sent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use heirloom_region::series::SeriesId;

const MAGIC: &[u8; 8] = b"HLRMTWR1";
const HEADER_BYTES: usize = 32;
const RECORD_HEADER: usize = 9;
/// A file grows by so much beyond four times its cursors before it is written anew.
const GROWTH_BYTES: u64 = 1 << 20;
/// No file of ours is longer: the cursors of the most series that a region can have, and what it may grow.
const FILE_BYTES_MAX: u64 = 5 * (8 << 24) + 2 * GROWTH_BYTES;
/// No sample of the series is settled.
const NONE: i64 = i64::MIN;

const CURSORS: u8 = 1;
const SENDING: u8 = 2;
const SETTLED: u8 = 3;

/// One series' part of a request: its number, and the time of its last sample there.
pub(super) type Part = (SeriesId, i64);

/// The cursors of one region.
#[derive(Debug)]
pub(super) struct Cursors {
    path: PathBuf,
    header: [u8; HEADER_BYTES],
    settled: Vec<i64>,
    /// By shard.
    sending: Vec<Vec<Part>>,
    file: Option<File>,
    len_bytes: u64,
}

impl Cursors {
    /// Reads the file, or begins one. Also gives what was being sent when it was last written.
    ///
    /// # Errors
    /// If it can neither be read nor written.
    pub(super) fn open(path: &Path, uuid: [u8; 16], url: &str, shards: usize) -> io::Result<(Self, Vec<Vec<Part>>)> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..24].copy_from_slice(&uuid);
        header[24..28].copy_from_slice(&crc32fast::hash(url.as_bytes()).to_le_bytes());
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        let mut cursors =
            Cursors { path: path.into(), header, settled: vec![], sending: vec![], file: None, len_bytes: 0 };
        match read(path) {
            Ok(bytes) if bytes.starts_with(&header) => cursors.replay(&bytes[HEADER_BYTES..]),
            Ok(bytes) if bytes.is_empty() => {}
            Ok(_) => tracing::warn!(
                path = %path.display(),
                "the cursors are not of this region and this store: all that the region holds is sent"
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let unsettled: Vec<_> =
            std::mem::take(&mut cursors.sending).into_iter().filter(|parts| !parts.is_empty()).collect();
        // They stay in the file, as those of the first shards, until they are settled one by one.
        cursors.sending = unsettled.clone();
        cursors.sending.resize(shards.max(unsettled.len()), vec![]);
        cursors.rewrite()?;
        Ok((cursors, unsettled))
    }

    /// Time of the last settled sample of a series.
    pub(super) fn of(&self, id: SeriesId) -> Option<i64> {
        self.settled.get(id.get() as usize).copied().filter(|ms| *ms != NONE)
    }

    /// A request is about to be sent.
    ///
    /// # Errors
    /// If it cannot be written; it counts all the same, and is written with the next that can.
    pub(super) fn sending(&mut self, shard: usize, parts: Vec<Part>) -> io::Result<()> {
        let payload = encode_parts(shard, &parts);
        self.sending[shard] = parts;
        self.append(SENDING, &payload)
    }

    /// What the shard was sending is settled.
    ///
    /// # Errors
    /// As [`sending`](Self::sending).
    pub(super) fn settled(&mut self, shard: usize) -> io::Result<()> {
        self.settle(shard);
        self.append(SETTLED, &(shard as u32).to_le_bytes())
    }

    fn settle(&mut self, shard: usize) {
        let Some(parts) = self.sending.get_mut(shard).map(std::mem::take) else { return };
        for (id, ms) in parts {
            let at = id.get() as usize;
            if self.settled.len() <= at {
                self.settled.resize(at + 1, NONE);
            }
            self.settled[at] = ms.max(self.settled[at]);
        }
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let limit = 4 * 8 * self.settled.len() as u64 + GROWTH_BYTES;
        let Some(file) = self.file.as_mut().filter(|_| self.len_bytes < limit) else { return self.rewrite() };
        let record = record(kind, payload);
        let written = file.write_all(&record);
        self.len_bytes += record.len() as u64;
        if written.is_err() {
            // What follows half a record would never be read.
            self.file = None;
        }
        written
    }

    /// Writes all that is known into a new file, which takes the place of the old one.
    fn rewrite(&mut self) -> io::Result<()> {
        self.file = None;
        let mut bytes = self.header.to_vec();
        let cursors: Vec<u8> = self.settled.iter().flat_map(|ms| ms.to_le_bytes()).collect();
        bytes.extend(record(CURSORS, &cursors));
        for (shard, parts) in self.sending.iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
            bytes.extend(record(SENDING, &encode_parts(shard, parts)));
        }
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        self.len_bytes = bytes.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    fn replay(&mut self, mut bytes: &[u8]) {
        while let Some((kind, payload, rest)) = next_record(bytes) {
            bytes = rest;
            match (kind, payload.split_at_checked(4)) {
                (CURSORS, _) => {
                    self.settled =
                        payload.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default())).collect();
                }
                (SENDING, Some((shard, parts))) => {
                    let shard = shard_of(shard);
                    // The most shards that may be configured, and the unsettled requests of as many.
                    if shard < 1024 {
                        self.sending.resize(self.sending.len().max(shard + 1), vec![]);
                        self.sending[shard] = parts.chunks_exact(12).map(decode_part).collect();
                    }
                }
                (SETTLED, Some((shard, _))) => self.settle(shard_of(shard)),
                _ => return,
            }
        }
        if !bytes.is_empty() {
            tracing::info!(path = %self.path.display(), bytes = bytes.len(), "the last record was cut short and is left out");
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER + payload.len());
    record.extend((payload.len() as u32).to_le_bytes());
    record.extend(checksum(kind, payload).to_le_bytes());
    record.push(kind);
    record.extend(payload);
    record
}

fn next_record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(RECORD_HEADER)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (payload, rest) = rest.split_at_checked(word(0) as usize)?;
    (checksum(head[8], payload) == word(4)).then_some((head[8], payload, rest))
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

fn encode_parts(shard: usize, parts: &[Part]) -> Vec<u8> {
    let mut payload = (shard as u32).to_le_bytes().to_vec();
    for (id, ms) in parts {
        payload.extend(id.get().to_le_bytes());
        payload.extend(ms.to_le_bytes());
    }
    payload
}

fn decode_part(bytes: &[u8]) -> Part {
    let (id, ms) = bytes.split_at(4);
    (SeriesId::new(shard_of(id) as u32), i64::from_le_bytes(ms.try_into().unwrap_or_default()))
}

fn shard_of(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [7; 16];

    fn open(path: &Path) -> (Cursors, Vec<Vec<Part>>) {
        Cursors::open(path, UUID, "http://store/write", 2).unwrap()
    }

    fn part(id: u32, ms: i64) -> Part {
        (SeriesId::new(id), ms)
    }

    #[test]
    fn what_was_settled_is_known_and_what_was_being_sent_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors");
        let (mut cursors, unsettled) = open(&path);
        assert!(unsettled.is_empty());
        cursors.sending(0, vec![part(0, 10), part(4, 12)]).unwrap();
        cursors.settled(0).unwrap();
        cursors.sending(1, vec![part(1, 20)]).unwrap();
        cursors.sending(0, vec![part(4, 30)]).unwrap();
        for _ in 0..2 {
            let (mut again, unsettled) = open(&path);
            assert_eq!(unsettled, [vec![part(4, 30)], vec![part(1, 20)]]);
            assert_eq!([0, 1, 2, 4, 9].map(|id| again.of(SeriesId::new(id))), [Some(10), None, None, Some(12), None]);
            again.sending(0, vec![part(4, 30)]).unwrap();
        }
        let (mut again, unsettled) = open(&path);
        for shard in 0..unsettled.len() {
            again.settled(shard).unwrap();
        }
        let (again, unsettled) = open(&path);
        assert!(unsettled.is_empty());
        assert_eq!([1, 4].map(|id| again.of(SeriesId::new(id))), [Some(20), Some(30)]);
    }

    #[test]
    fn a_file_cut_anywhere_is_what_it_was_some_records_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors");
        let (mut cursors, _) = open(&path);
        for ms in 1..=5 {
            cursors.sending(0, vec![part(0, ms)]).unwrap();
            cursors.settled(0).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let mut last = 0;
        for len in HEADER_BYTES..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let (cursors, unsettled) = open(&path);
            let now = cursors.of(SeriesId::new(0)).unwrap_or_default();
            assert!(now == last || now == last + 1, "{len}: {now} after {last}");
            assert!(unsettled.is_empty() || unsettled == [vec![part(0, now + 1)]], "{len}: {unsettled:?}");
            last = now;
        }
        assert_eq!(last, 5);
        // A flipped bit ends it where it is.
        let mut damaged = whole.clone();
        let at = damaged.len() - 5;
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(open(&path).1, [vec![part(0, 5)]]);
    }

    #[test]
    fn another_region_another_store_or_no_file_of_ours_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors");
        let (mut cursors, _) = open(&path);
        cursors.sending(0, vec![part(0, 5)]).unwrap();
        cursors.settled(0).unwrap();
        let (kept, _) = open(&path);
        assert_eq!(kept.of(SeriesId::new(0)), Some(5));
        for (uuid, url) in [([8; 16], "http://store/write"), (UUID, "http://other/write")] {
            let (fresh, unsettled) = Cursors::open(&path, uuid, url, 2).unwrap();
            assert!(fresh.of(SeriesId::new(0)).is_none() && unsettled.is_empty());
        }
        std::fs::write(&path, "something else").unwrap();
        assert!(open(&path).0.of(SeriesId::new(0)).is_none());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors");
        let (mut cursors, _) = open(&path);
        for ms in 0..100 {
            cursors.sending(0, (0..2000).map(|id| part(id, ms)).collect()).unwrap();
            cursors.settled(0).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * GROWTH_BYTES);
        assert_eq!(open(&path).0.of(SeriesId::new(1999)), Some(99));
    }
}

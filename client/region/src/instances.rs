//! The instance table: who is attached, under which incarnation, and what it says about itself.
//!
//! ```text
//! word  0      incarnation, 0 while free; published last, cleared first
//!       1      number: which attachment of the region's life this is
//!       2      pid (low), uid (high)
//!       3      start time in clock ticks      4  attached, unix ms     5  bytes of the version label
//!       6..14  version label                 14..16  resume token
//!      16      CRC of words 0..16
//!      17      flags    18  threads waiting at a frozen gate (u32)    19  longest wait {attempt:24, ns:40}
//!      20      last generation owned         21  who is reclaiming the row, 0 for nobody
//!      22      {crc:32, bits:32} of what the instance declared: 1 prepare, 2 flush, 4 resume hook
//! ```
//!
//! Words 0 to 16 and 22 are the arbiter's, 17 to 20 the instance's own, 21 a recoverer's. The first ones share no cache line
//! pair with the others. The CRC in word 22 is over incarnation and bits: what an earlier holder of the row declared, whose
//! word an arbiter of an older release left as it was, is nobody's. Without it nothing is declared.
//!
//! Crash: an arbiter killed while it fills a row leaves it free. A row is freed only after all that belongs to its
//! incarnation is ([`crate::recover`]), so an incarnation in a lane or a slot always has its row.

use std::os::fd::OwnedFd;

use crate::error::{Corrupt, Error, Full, Misuse};
use crate::layout::{INSTANCE_ROW, SegmentKind, control, crc32};
use crate::mapping::Mapping;
use crate::os;
use crate::os::liveness::{self, Holder};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const ROW_WORDS: u64 = INSTANCE_ROW / 8;
const IMMUTABLE_WORDS: usize = 16;
const CRC_WORD: usize = 16;
const FLAGS: usize = 17;
const WAITING: usize = 18;
const BLACKOUT: usize = 19;
const LAST_GENERATION: usize = 20;
const CLAIMANT: usize = 21;
const DECLARED: usize = 22;
/// Longest version label in bytes.
pub const VERSION_MAX: usize = 63;
/// Offset in [`control::BOOT`]'s page of the number that the next attachment gets.
const NEXT_NUMBER: u64 = control::BOOT + 128;

const _: () = assert!(CRC_WORD * 8 == 128 && (DECLARED + 1) * 8 <= INSTANCE_ROW as usize);
const _: () = assert!(VERSION_MAX < 64 && IMMUTABLE_WORDS == 6 + 8 + 2);

/// Bits of a row's flags word.
pub mod flag {
    /// The instance's slots rely on the freezer's barrier.
    pub const ASYMMETRIC: u64 = 1 << 0;
    /// The instance's slots announce themselves; no barrier is needed.
    pub const SYMMETRIC: u64 = 1 << 1;
    /// Ready to own.
    pub const READY: u64 = 1 << 2;
    /// About to leave in order, so that its death is no crash.
    pub const LEAVING: u64 = 1 << 3;
    /// On the heap only: the last handle of the instance is gone, which is its death.
    pub const GONE: u64 = 1 << 4;
}

/// An attached process' place: what tells it from every other one, past or present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Row of the instance table.
    pub row: u32,
    /// Random, never 0, never reused.
    pub incarnation: u64,
}

/// Who wants a seat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewInstance {
    /// Label of its build, at most [`VERSION_MAX`] bytes.
    pub version: String,
    /// In the arbiter's pid namespace, 0 if it has none there.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// When it started, so that a reused pid is seen.
    pub start_ticks: u64,
    /// What it shows to be recognised when it attaches again.
    pub resume_token: [u8; 16],
}

/// A row, copied and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRow {
    /// Its seat.
    pub seat: Seat,
    /// Which attachment of the region's life it is.
    pub number: u64,
    /// When it attached.
    pub attach_unix_ms: u64,
    /// What it was seated with.
    pub instance: NewInstance,
    /// See [`flag`].
    pub flags: u64,
    /// Its threads that wait at a frozen gate.
    pub waiting: u32,
    /// `{attempt:24, ns:40}` of the longest wait that it measured.
    pub blackout: u64,
    /// The last generation that it owned.
    pub last_generation: u64,
    /// What it declared, for the arbiter that put it there; see [`declare`].
    pub(crate) declared: Option<u32>,
}

impl InstanceRow {
    /// The instance's name: unique in the table, never that of a former one but by a chance of 1 in 2^32.
    pub fn name(&self) -> String {
        instance_name(self.seat.incarnation)
    }
}

/// The name shown for an incarnation.
pub fn instance_name(incarnation: u64) -> String {
    format!("i-{:08x}", incarnation as u32)
}

/// The words of one row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'m> {
    words: &'m [AtomicU64],
    waiting: &'m AtomicU32,
    offset: u64,
    row: u32,
}

impl<'m> Row<'m> {
    /// The row with this number; an error if the table has none.
    pub(crate) fn of(mapping: &'m Mapping, row: u32) -> Result<Self, Corrupt> {
        let rows = mapping.limits().instances_max;
        if row >= rows {
            return Err(Corrupt::field("instance row", 0, format!("below {rows}"), row.into()));
        }
        let offset = mapping.segment(SegmentKind::Instances).offset + u64::from(row) * INSTANCE_ROW;
        let words = mapping.words(offset, ROW_WORDS)?;
        let waiting = &mapping.words32(offset + 8 * WAITING as u64, 1)?[0];
        Ok(Self { words, waiting, offset, row })
    }

    /// Incarnation in the row, 0 while free.
    pub(crate) fn incarnation(self) -> &'m AtomicU64 {
        &self.words[0]
    }
    /// See [`flag`].
    pub(crate) fn flags(self) -> &'m AtomicU64 {
        &self.words[FLAGS]
    }
    /// Threads waiting at a frozen gate.
    pub(crate) fn waiting(self) -> &'m AtomicU32 {
        self.waiting
    }
    /// `{attempt:24, ns:40}`.
    pub(crate) fn blackout(self) -> &'m AtomicU64 {
        &self.words[BLACKOUT]
    }
    /// The last generation owned.
    pub(crate) fn last_generation(self) -> &'m AtomicU64 {
        &self.words[LAST_GENERATION]
    }
    /// Who is reclaiming the row.
    pub(crate) fn claimant(self) -> &'m AtomicU64 {
        &self.words[CLAIMANT]
    }

    fn fill(self, incarnation: u64, number: u64, new: &NewInstance) {
        let mut bytes = [0u8; IMMUTABLE_WORDS * 8];
        bytes[0..8].copy_from_slice(&incarnation.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..20].copy_from_slice(&new.pid.to_le_bytes());
        bytes[20..24].copy_from_slice(&new.uid.to_le_bytes());
        bytes[24..32].copy_from_slice(&new.start_ticks.to_le_bytes());
        bytes[32..40].copy_from_slice(&os::clock::unix_ms().to_le_bytes());
        bytes[40..48].copy_from_slice(&(new.version.len() as u64).to_le_bytes());
        bytes[48..48 + new.version.len()].copy_from_slice(new.version.as_bytes());
        bytes[112..128].copy_from_slice(&new.resume_token);
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)).skip(1) {
            word.store(word_of(chunk), Ordering::Relaxed);
        }
        self.words[CRC_WORD].store(crc32(&bytes).into(), Ordering::Relaxed);
        for word in &self.words[FLAGS..=DECLARED] {
            word.store(0, Ordering::Relaxed);
        }
        // Publishes; pairs with the Acquire load in `read`.
        self.incarnation().store(incarnation, Ordering::Release);
    }

    /// A checked copy; `None` while the row is free.
    fn read(self) -> Result<Option<InstanceRow>, Corrupt> {
        // A row that is freed and filled again while we copy is read once more; who comes and goes faster is not there.
        for _ in 0..8 {
            let incarnation = self.incarnation().load(Ordering::Acquire);
            if incarnation == 0 {
                return Ok(None);
            }
            let mut bytes = [0u8; IMMUTABLE_WORDS * 8];
            for (word, chunk) in self.words.iter().zip(bytes.chunks_mut(8)) {
                chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            let expected = self.words[CRC_WORD].load(Ordering::Relaxed) as u32;
            crate::sync::fence(Ordering::Acquire);
            if self.incarnation().load(Ordering::Relaxed) == incarnation {
                return self.decode(incarnation, expected, &bytes).map(Some);
            }
        }
        Ok(None)
    }

    fn decode(self, incarnation: u64, expected: u32, bytes: &[u8; 128]) -> Result<InstanceRow, Corrupt> {
        let found = crc32(bytes);
        if expected != found {
            return Err(Corrupt::Checksum { what: "instance row", offset: self.offset, expected, found });
        }
        let word = |i: usize| word_of(&bytes[8 * i..8 * i + 8]);
        let len = word(5);
        let version = usize::try_from(len).ok().filter(|len| *len <= VERSION_MAX);
        let version = version.and_then(|len| std::str::from_utf8(&bytes[48..48 + len]).ok());
        let Some(version) = version else {
            return Err(Corrupt::field("version label length", self.offset + 40, "UTF-8, at most 63 bytes", len));
        };
        let mut resume_token = [0; 16];
        resume_token.copy_from_slice(&bytes[112..128]);
        Ok(InstanceRow {
            seat: Seat { row: self.row, incarnation },
            number: word(1),
            attach_unix_ms: word(4),
            instance: NewInstance {
                version: version.to_owned(),
                pid: word(2) as u32,
                uid: (word(2) >> 32) as u32,
                start_ticks: word(3),
                resume_token,
            },
            flags: self.flags().load(Ordering::Acquire),
            waiting: self.waiting.load(Ordering::Relaxed),
            blackout: self.blackout().load(Ordering::Relaxed),
            last_generation: self.last_generation().load(Ordering::Relaxed),
            declared: declared(incarnation, self.words[DECLARED].load(Ordering::Relaxed)),
        })
    }
}

fn declared(incarnation: u64, word: u64) -> Option<u32> {
    let bits = word as u32;
    (word != 0 && word == declaration(incarnation, bits)).then_some(bits)
}

fn declaration(incarnation: u64, bits: u32) -> u64 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&incarnation.to_le_bytes());
    bytes[8..].copy_from_slice(&bits.to_le_bytes());
    u64::from(crc32(&bytes)) << 32 | u64::from(bits)
}

fn word_of(chunk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..chunk.len()].copy_from_slice(chunk);
    u64::from_le_bytes(bytes)
}

/// All rows that are taken; a row whose bytes are wrong is an error, and does not end the iteration.
pub fn rows(mapping: &Mapping) -> impl Iterator<Item = Result<InstanceRow, Corrupt>> {
    (0..mapping.limits().instances_max).filter_map(|row| read(mapping, row).transpose())
}

/// One row; `None` while it is free.
///
/// # Errors
/// `Corrupt` if its bytes are wrong, or the table has no such row.
pub fn read(mapping: &Mapping, row: u32) -> Result<Option<InstanceRow>, Corrupt> {
    Row::of(mapping, row)?.read()
}

/// The row of an incarnation, if it is in the table.
pub fn find(mapping: &Mapping, incarnation: u64) -> Option<InstanceRow> {
    rows(mapping).flatten().find(|row| incarnation != 0 && row.seat.incarnation == incarnation)
}

/// Seats an instance; only the arbiter may. On a file the descriptor returned holds the row's byte locked: it is passed on,
/// and the sender's copy closed at once.
///
/// # Errors
/// `Full` without a free row, `Misuse` for a label that is too long, `Io`.
pub(crate) fn seat(mapping: &Mapping, new: &NewInstance) -> Result<(Seat, Option<OwnedFd>), Error> {
    mapping.check_writable()?;
    if new.version.len() > VERSION_MAX {
        return Err(Misuse::Name { what: "version", found: new.version.clone(), rule: "at most 63 bytes" }.into());
    }
    for row in 0..mapping.limits().instances_max {
        let free = Row::of(mapping, row)?;
        if free.incarnation().load(Ordering::Acquire) != 0 {
            continue;
        }
        let lock = match mapping.fd() {
            None => None,
            // Held though the row is free: someone lives who is in no table. The row stays out of use for as long.
            Some(fd) => match liveness::take(fd, Holder::Instance(row))? {
                None => continue,
                lock => lock,
            },
        };
        let incarnation = fresh_incarnation(mapping)?;
        let number = mapping.word(mapping.control(NEXT_NUMBER))?.fetch_add(1, Ordering::Relaxed);
        free.fill(incarnation, number, new);
        return Ok((Seat { row, incarnation }, lock));
    }
    Err(Full::Table { table: "instance table", limit: mapping.limits().instances_max.into() }.into())
}

/// Keeps what the instance in `seat` declared for as long as it has its row; only the arbiter may. One word: a kill leaves
/// what was there before, or this.
///
/// # Errors
/// `Corrupt` if the table has no such row.
pub(crate) fn declare(mapping: &Mapping, seat: Seat, bits: u32) -> Result<(), Error> {
    mapping.check_writable()?;
    let row = Row::of(mapping, seat.row)?;
    row.words[DECLARED].store(declaration(seat.incarnation, bits), Ordering::Relaxed);
    Ok(())
}

/// Random, not 0, and with a name that no one in the table has.
pub(crate) fn fresh_incarnation(mapping: &Mapping) -> Result<u64, Error> {
    loop {
        let candidate = u64::from_le_bytes(os::random_bytes()?);
        let is_of = |row| {
            Row::of(mapping, row).is_ok_and(|row| row.incarnation().load(Ordering::Relaxed) as u32 == candidate as u32)
        };
        let taken = (0..mapping.limits().instances_max).any(is_of);
        if candidate as u32 != 0 && !taken {
            return Ok(candidate);
        }
    }
}

/// Whether the instance in this row is proved dead.
///
/// # Errors
/// `Io` or `Corrupt`; nothing is proved then.
pub fn is_dead(mapping: &Mapping, row: u32) -> Result<bool, Error> {
    let words = Row::of(mapping, row)?;
    match mapping.fd() {
        Some(fd) => liveness::is_free(fd, Holder::Instance(row)),
        None => Ok(words.flags().load(Ordering::Acquire) & flag::GONE != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::RegionSpec;

    fn table(instances_max: u32) -> std::sync::Arc<Mapping> {
        Mapping::heap(&RegionSpec { instances_max, ..RegionSpec::new("r", 4 << 20) }).unwrap()
    }

    fn new(version: &str) -> NewInstance {
        NewInstance { version: version.into(), pid: 7, uid: 1000, start_ticks: 5, resume_token: [9; 16] }
    }

    #[test]
    fn a_seat_reads_back_and_a_full_table_says_so() {
        let m = table(3);
        let seats: Vec<Seat> = (0..3).map(|i| seat(&m, &new(&format!("v{i}"))).unwrap().0).collect();
        let e = seat(&m, &new("v4")).unwrap_err();
        assert_eq!((e.reason(), e.to_string()), ("TABLE_FULL", "instance table full: 3".into()));
        let all: Vec<InstanceRow> = rows(&m).map(Result::unwrap).collect();
        assert_eq!(all.iter().map(|r| r.seat).collect::<Vec<_>>(), seats);
        assert_eq!(all.iter().map(|r| r.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(all[1].instance, new("v1"));
        assert_eq!(all[1].name(), format!("i-{:08x}", seats[1].incarnation as u32));
        assert_eq!(find(&m, seats[2].incarnation).unwrap().seat.row, 2);
        assert_eq!(find(&m, 0), None);
        assert!(seat(&table(1), &new(&"x".repeat(64))).is_err());
    }

    #[test]
    fn a_declaration_is_that_of_the_one_in_the_row() {
        let m = table(2);
        let one = seat(&m, &new("v1")).unwrap().0;
        let found = |row| read(&m, row).unwrap().unwrap().declared;
        assert_eq!(found(one.row), None, "nothing was declared");
        for bits in [0, 2, 7] {
            declare(&m, one, bits).unwrap();
            assert_eq!(found(one.row), Some(bits));
        }
        let word = &Row::of(&m, one.row).unwrap().words[DECLARED];
        for bit in 0..64 {
            word.fetch_xor(1 << bit, Ordering::Relaxed);
            assert_eq!(found(one.row), None, "bit {bit}");
            word.fetch_xor(1 << bit, Ordering::Relaxed);
        }
        // As an arbiter leaves it that does not know the word, when the next one is seated.
        let other = one.incarnation ^ 1;
        declare(&m, Seat { incarnation: other, ..one }, 0).unwrap();
        assert_eq!(found(one.row), None, "another's");
        assert!(declare(&m, Seat { row: 2, ..one }, 0).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_row_is_found_and_harms_no_other() {
        let m = table(2);
        seat(&m, &new("v1")).unwrap();
        let second = seat(&m, &new("v2")).unwrap().0;
        let row = Row::of(&m, 0).unwrap();
        for bit in 0..IMMUTABLE_WORDS * 64 {
            let word = &row.words[bit / 64];
            word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
            let found: Vec<_> = rows(&m).collect();
            assert!(matches!(&found[0], Err(Corrupt::Checksum { what: "instance row", .. })), "bit {bit}");
            assert_eq!(found[1].as_ref().unwrap().seat, second);
            word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
        }
        assert!(Row::of(&m, 2).is_err() && read(&m, u32::MAX).is_err());
    }
}

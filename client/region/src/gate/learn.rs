//! Learning a term from the region: gate OPEN(g), a valid superblock g that names this instance, gate unchanged.

use std::time::{Duration, Instant};

use super::word::GateWord;
use crate::digest::superblock::{self, Superblock};
use crate::error::{Error, Generation, Misuse, NotOwner, NotReady, Peer};
use crate::instances::{self, Row};
use crate::mapping::Mapping;
use crate::process::Process;
use crate::sync::Ordering;

/// Longest that learning waits at a frozen gate: a freeze budget and what its thaw may take.
const LEARN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Times that the gate may move while the superblock is read.
const TRIES: u32 = 100;

/// Who owns a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRef {
    /// Its incarnation.
    pub incarnation: u64,
    /// Its name, version and pid, unless its row is gone.
    pub peer: Option<Peer>,
}

impl Process {
    /// The gate word now; [`GateWord::DETACHED`] in a forked child.
    pub fn gate(&self) -> GateWord {
        self.gate_state().load()
    }

    /// The generation that this process owns now, learnt from the region alone. Waits while the gate is frozen.
    ///
    /// # Errors
    /// `NotOwner` with the owner if it is another, `Misuse` in a forked child, `Corrupt`, `NotReady` if the gate does not
    /// stand still.
    pub fn learn(&self) -> Result<Generation, Error> {
        let began = Instant::now();
        for _ in 0..TRIES {
            let mut word = self.gate();
            while word.is_frozen() {
                if began.elapsed() > LEARN_WAIT_MAX {
                    return Err(NotReady::Frozen { waited: began.elapsed() }.into());
                }
                word = self.watch(word, LEARN_WAIT_MAX);
            }
            match self.learn_word(word) {
                // The gate moved meanwhile: what was read belongs together no more.
                Err(_) if self.gate() != word => {}
                answer => return answer,
            }
        }
        Err(NotReady::Contended { attempts: TRIES }.into())
    }

    /// As [`Process::learn`], for the gate word `word`, which must be open.
    pub(super) fn learn_word(&self, word: GateWord) -> Result<Generation, Error> {
        let state = self.gate_state();
        if word.is_detached() || self.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        let block = superblock::read(state.mapping())?.current(word.generation().get())?;
        // The superblock of an open generation is not written to; if the gate is still the same, it was this one's.
        if !word.is_open() || state.load() != word {
            return Err(NotReady::Contended { attempts: 1 }.into());
        }
        if block.owner_incarnation != state.incarnation() || block.owner_incarnation == 0 {
            let owner = peer_of(state.mapping(), block.owner_incarnation);
            return Err(NotOwner { generation: word.generation(), owner }.into());
        }
        state.learnt.store(word.raw(), Ordering::Relaxed);
        Row::of(state.mapping(), state.row())?.last_generation().fetch_max(block.generation, Ordering::Relaxed);
        Ok(word.generation())
    }

    /// The region's generation and who owns it; `None` while it is vacant by a departure (the owner may also be dead).
    ///
    /// # Errors
    /// `Corrupt`, `Misuse` in a forked child, `NotReady` if the gate does not stand still.
    pub fn owner(&self) -> Result<(Generation, Option<OwnerRef>), Error> {
        if self.is_forked_child() {
            return Err(Misuse::Forked.into());
        }
        let (generation, block) = current(self.mapping())?;
        let owner = (block.owner_incarnation != 0).then(|| OwnerRef {
            incarnation: block.owner_incarnation,
            peer: peer_of(self.mapping(), block.owner_incarnation),
        });
        Ok((generation, owner))
    }
}

/// The gate's generation and its superblock, read together.
pub(crate) fn current(mapping: &Mapping) -> Result<(Generation, Superblock), Error> {
    for _ in 0..TRIES {
        let generation = super::gate_word(mapping)?.generation();
        let block = superblock::read(mapping)?.current(generation.get());
        // While a generation lasts its superblock is not written to, whatever freezes come and go.
        if super::gate_word(mapping)?.generation() == generation {
            return Ok((generation, block?));
        }
    }
    Err(NotReady::Contended { attempts: TRIES }.into())
}

fn peer_of(mapping: &Mapping, incarnation: u64) -> Option<Peer> {
    let row = instances::find(mapping, incarnation)?;
    Some(Peer { instance: row.name(), version: row.instance.version, pid: row.instance.pid })
}

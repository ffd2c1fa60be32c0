//! The world of the model: what stands in the region, who lives, what is on the wire, and what may still go wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::sidecar::Sidecar;
use crate::arbiter::machine::Id;
use crate::arbiter::message::Hook;
use crate::arbiter::record::{Cause, Kind, Outcome, Phase};
use crate::digest::superblock::{Pair, SUPERBLOCK_WORDS, Superblock};
use crate::gate::GateWord;

/// Instances that may ever be; the last is kept for the fresh handover that must be possible from everywhere.
pub(super) const PEOPLE: usize = 4;
/// The instance that the fresh handover goes to.
pub(super) const FRESH: Id = PEOPLE as Id;

/// How often each kind of trouble may still come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Troubles {
    pub(super) sidecar_deaths: u8,
    pub(super) deaths: u8,
    /// Deaths that the sidecar counts as one too many.
    pub(super) loops: u8,
    /// Thaws by others than the freezer.
    pub(super) thaws: u8,
    pub(super) vetoes: u8,
    pub(super) deadlines: u8,
    /// Kills that the kernel does not allow.
    pub(super) refusals: u8,
    /// Freezes that give up on a writer, and rounds that meet one.
    pub(super) stuck: u8,
    pub(super) leaves: u8,
    pub(super) aborts: u8,
    /// Instances that say that they are not ready any more.
    pub(super) withdrawals: u8,
    /// Rounds and looks that fail.
    pub(super) faults: u8,
}

/// What is explored: who is there at the start, and what may happen.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// 1: a new region without an owner. 2: instance 1 owns.
    pub(super) generation: u64,
    /// Instances beside the owner that may come.
    pub(super) standbys: u64,
    /// Instances that write: 1 to this number.
    pub(super) writers: u64,
    pub(super) tools: u8,
    /// Tools that roll back, after those that hand over: the first the last handover, with a request id and a generation; the
    /// second one that it names, without either.
    pub(super) undoers: u8,
    pub(super) force: bool,
    pub(super) generation_max: u64,
    pub(super) attempt_max: u32,
    pub(super) troubles: Troubles,
    /// What a complete exploration must have met.
    pub(super) wanted: &'static [&'static str],
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            generation: 2,
            standbys: 1,
            writers: 1,
            tools: 0,
            undoers: 0,
            force: false,
            generation_max: 4,
            attempt_max: 4,
            troubles: Troubles::default(),
            wanted: &[],
        }
    }
}

impl Scene {
    pub(super) fn everything() -> Self {
        let troubles = Troubles {
            sidecar_deaths: 3,
            deaths: 2,
            loops: 1,
            thaws: 2,
            vetoes: 1,
            deadlines: 2,
            refusals: 1,
            stuck: 2,
            leaves: 1,
            aborts: 1,
            withdrawals: 1,
            faults: 1,
        };
        Self {
            standbys: 2,
            writers: 3,
            tools: 2,
            undoers: 2,
            force: true,
            generation_max: 8,
            attempt_max: 9,
            troubles,
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Life {
    #[default]
    Unborn,
    Alive,
    Dead,
}

/// An instance: its process, and what of it stands in the region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Person {
    pub(super) life: Life,
    /// Its row names it.
    pub(super) row: bool,
    /// The generation that it has learnt as its own; 0: none.
    pub(super) term: u64,
    /// Its gate slot; 0: idle. Stays when it dies.
    pub(super) slot: u64,
    /// It has found the gate open after it announced itself: it writes.
    pub(super) inside: bool,
}

/// A superblock's slot, as far as the protocol is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Block {
    pub(super) sequence: u64,
    pub(super) generation: u64,
    pub(super) owner: Id,
    pub(super) attempt: u32,
}

/// A record of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rec {
    pub(super) kind: Kind,
    pub(super) cause: Cause,
    pub(super) outcome: Outcome,
    pub(super) phase: Phase,
    pub(super) source: Id,
    pub(super) target: Id,
    pub(super) previous: u64,
    pub(super) generation: u64,
    /// Which tool's request, from 1; 0: nobody's.
    pub(super) request: u8,
    pub(super) forced: bool,
    /// The handover that it undoes, and the one that undid it; 0: none.
    pub(super) rolls_back: u64,
    pub(super) rolled_back_by: u64,
    /// Stands for a region that is held back.
    pub(super) held: bool,
}

/// A message that was sent. None is ever taken off the wire: each may come late, again, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Message {
    /// A hook is called, for this handover.
    Call(u64, Hook, Id),
    /// It agreed, or not.
    Answer(u64, Hook, Id, bool),
}

/// What a deploy tool knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tool {
    /// The generation that it saw before it asked; it asks for a switch from there.
    pub(super) expected: Option<u64>,
    /// The handover that it wants undone; 0: the last one.
    pub(super) undoes: u64,
    /// It was told of this handover, and how it ended.
    pub(super) told: Option<(u64, Outcome)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) gate: GateWord,
    /// None: being written, or torn.
    pub(super) blocks: [Option<Block>; 2],
    /// Record number n at n-1.
    pub(super) history: Vec<Rec>,
    pub(super) people: [Person; PEOPLE],
    pub(super) sidecar: Option<Sidecar>,
    pub(super) wire: BTreeSet<Message>,
    pub(super) tools: Vec<Tool>,
    pub(super) left: Troubles,
    /// Which handover's compare-and-swap opened a generation. Nobody in the world can see this.
    pub(super) opened: BTreeMap<u64, u64>,
    /// What must never happen, happened.
    pub(super) broken: Option<&'static str>,
}

impl World {
    pub(super) fn new(scene: &Scene) -> Self {
        let mut people = [Person::default(); PEOPLE];
        let owner = u64::from(scene.generation > 1);
        if owner == 1 {
            people[0] = Person { life: Life::Alive, row: true, ..Person::default() };
        }
        let block = Block { sequence: 1, generation: scene.generation, owner, attempt: 0 };
        let mut world = Self {
            gate: GateWord::open(scene.generation, 0),
            blocks: [None, Some(block)],
            history: Vec::new(),
            people,
            sidecar: None,
            wire: BTreeSet::new(),
            tools: vec![Tool::default(); (scene.tools + scene.undoers).into()],
            left: scene.troubles,
            opened: BTreeMap::new(),
            broken: None,
        };
        world.start_sidecar();
        world
    }

    pub(super) fn person(&mut self, id: Id) -> &mut Person {
        &mut self.people[id as usize - 1]
    }
    pub(super) fn is(&self, id: Id, life: Life) -> bool {
        self.people[id as usize - 1].life == life
    }
    pub(super) fn ids() -> std::ops::RangeInclusive<Id> {
        1..=PEOPLE as Id
    }

    /// The current superblock, by the region's own rule.
    pub(super) fn current(&self) -> Option<Block> {
        let encode = |block: &Option<Block>| match block {
            Some(b) => Superblock {
                sequence: b.sequence,
                generation: b.generation,
                owner_incarnation: b.owner,
                attempt: b.attempt,
                ..Superblock::default()
            }
            .encode(),
            None => [u64::MAX; SUPERBLOCK_WORDS],
        };
        let words = [encode(&self.blocks[0]), encode(&self.blocks[1])];
        let found = Pair::decode(0, 4096, &words).current(self.gate.generation().get()).ok()?;
        Some(Block {
            sequence: found.sequence,
            generation: found.generation,
            owner: found.owner_incarnation,
            attempt: found.attempt,
        })
    }

    /// What is on the gate now, and what it would be after a thaw; a compare-and-swap as the region does it.
    pub(super) fn swap_gate(&mut self, expected: GateWord, new: GateWord) -> bool {
        let done = self.gate == expected;
        if done {
            self.gate = new;
        }
        done
    }
}

//! What holds in each state of the model, and what must be met somewhere for that to mean anything.

use stateright::{Expectation, Property};

use super::sidecar::Chain;
use super::world::{Life, Scene, World};
use crate::arbiter::machine::Owner;
use crate::arbiter::record::{Cause, Kind, Outcome};

pub(super) fn all() -> Vec<Property<Scene>> {
    let mut all: Vec<_> = TRUTHS.iter().map(|(name, holds)| Property::always(name, *holds)).collect();
    all.extend(MET.iter().map(|(name, met)| Property::sometimes(name, *met)));
    debug_assert!(all.iter().all(|p| p.expectation != Expectation::Eventually));
    all
}

pub(super) fn is_truth(name: &str) -> bool {
    TRUTHS.iter().any(|(truth, _)| *truth == name)
}

type Condition = fn(&Scene, &World) -> bool;

const TRUTHS: &[(&str, Condition)] = &[
    ("nothing is broken", |_, w| w.broken.is_none()),
    ("at most one owner writes, in its own generation", one_writer),
    ("nobody writes while a seal is made", |_, w| !is_closed(w) || !w.people.iter().any(|p| p.inside)),
    ("the gate's generation has its superblock", |_, w| w.current().is_some()),
    ("generations have no gap and one opener each", generations),
    ("history says what happened, in one of two outcomes", history),
    ("a tool is told what happened", told),
    ("the sidecar knows who owns", sidecar_knows),
    ("nobody is deposed alive and unheard", never_by_timeout),
    ("the same request begins at most one switch, from the generation that it named", requests),
    ("a handover is undone at most once, by a switch back, and says so", undone),
    ("a region that is held waits until somebody asks", held_waits),
    ("a fresh handover can commit", |_, w| w.can_hand_over()),
];

const MET: &[(&str, Condition)] = &[
    ("committed", |_, w| by_tool(w, Outcome::Committed)),
    ("aborted", |_, w| by_tool(w, Outcome::Aborted)),
    ("promoted", |_, w| w.history.iter().any(|r| r.kind == Kind::Promotion && r.outcome == Outcome::Committed)),
    ("departed", |_, w| w.history.iter().any(|r| r.kind == Kind::Departure && r.outcome == Outcome::Committed)),
    ("succeeded", |_, w| w.history.iter().any(|r| r.kind == Kind::Succession && r.generation > 3)),
    ("forced", |_, w| w.history.iter().any(|r| r.forced && r.outcome == Outcome::Committed)),
    ("held back", |_, w| w.history.iter().any(|r| r.held)),
    ("both tools' switches committed", |_, w| {
        w.history.iter().filter(|r| r.request != 0 && r.outcome == Outcome::Committed).count() == 2
    }),
    ("rolled back", |_, w| w.history.iter().any(|r| r.rolls_back != 0 && r.outcome == Outcome::Committed)),
    ("a rollback aborted", |_, w| w.history.iter().any(|r| r.rolls_back != 0 && r.outcome == Outcome::Aborted)),
    ("rolled back already", |_, w| w.tools.iter().any(|t| t.told.is_some_and(|(_, o)| o == Outcome::Already))),
    ("handed over again after a rollback", |_, w| {
        let back = w.history.iter().position(|r| r.rolls_back != 0 && r.outcome == Outcome::Committed);
        back.is_some_and(|n| w.history[n..].iter().any(|r| r.kind == Kind::Handover && r.outcome == Outcome::Committed))
    }),
    ("closed as committed by the next sidecar", |_, w| {
        let last = w.history.last();
        let closed = last.is_some_and(|r| r.request != 0 && r.outcome == Outcome::Committed);
        closed && w.left.sidecar_deaths == 0 && w.sidecar.is_some() && w.tools[0].told.is_none()
    }),
];

fn by_tool(w: &World, outcome: Outcome) -> bool {
    w.history.iter().any(|r| r.cause == Cause::Handover && r.outcome == outcome)
}

/// Between the proof that nobody writes and the end of the freeze, as long as nobody has thawed.
fn is_closed(w: &World) -> bool {
    let chain = w.sidecar.as_ref().and_then(|s| s.chain);
    matches!(chain, Some(Chain::Torn(word, _) | Chain::Sealed(word, _)) if w.gate == word)
}

fn one_writer(_: &Scene, w: &World) -> bool {
    let mut writers = (1..).zip(&w.people).filter(|(_, p)| p.inside);
    let Some((id, person)) = writers.next() else { return true };
    let owner = w.current().is_some_and(|block| block.owner == id);
    writers.next().is_none() && owner && person.slot == w.gate.generation().get()
}

fn generations(scene: &Scene, w: &World) -> bool {
    let opened: Vec<u64> = w.opened.keys().copied().collect();
    let expected: Vec<u64> = (scene.generation + 1..=w.gate.generation().get()).collect();
    let mut openers: Vec<u64> = w.opened.values().copied().collect();
    openers.sort_unstable();
    openers.dedup();
    opened == expected && openers.len() == opened.len() && !openers.contains(&0)
}

fn history(_: &Scene, w: &World) -> bool {
    let busy = w.sidecar.as_ref().is_none_or(super::sidecar::Sidecar::busy);
    let active = w.sidecar.as_ref().and_then(|s| s.active).map(|a| a.number);
    (1..).zip(&w.history).all(|(number, rec)| {
        let opened = w.opened.iter().find(|(_, by)| **by == number).map(|(generation, _)| *generation);
        match rec.outcome {
            Outcome::Committed => opened == Some(rec.generation) && rec.generation == rec.previous + 1,
            Outcome::Aborted => opened.is_none() && rec.generation == rec.previous,
            Outcome::Running => busy || active == Some(number),
            _ => false,
        }
    })
}

fn told(_: &Scene, w: &World) -> bool {
    w.tools.iter().filter_map(|tool| tool.told).all(|(number, outcome)| {
        let opened = w.opened.values().any(|by| *by == number);
        match outcome {
            Outcome::Committed | Outcome::Already => opened,
            Outcome::Aborted => !opened,
            _ => false,
        }
    })
}

fn sidecar_knows(_: &Scene, w: &World) -> bool {
    let Some(s) = w.sidecar.as_ref().filter(|s| !s.busy()) else { return true };
    let Some(block) = w.current() else { return false };
    let owner = match s.machine.owner() {
        Owner::Nobody => block.owner == 0,
        Owner::Alive(id) => block.owner == id,
        Owner::Dead(id) => block.owner == id && w.is(id, Life::Dead),
    };
    owner && s.machine.generation() == w.gate.generation().get() && s.block == block
}

/// A committed switch away from somebody: it agreed to flush, or its death is a fact.
fn never_by_timeout(_: &Scene, w: &World) -> bool {
    use super::world::Message::Answer;
    use crate::arbiter::message::Hook;
    (1..).zip(&w.history).filter(|(_, rec)| rec.outcome == Outcome::Committed && rec.source != 0).all(
        |(number, rec)| {
            let agreed = w.wire.contains(&Answer(number, Hook::Flush, rec.source, true));
            agreed || w.is(rec.source, Life::Dead)
        },
    )
}

fn undone(_: &Scene, w: &World) -> bool {
    let busy = w.sidecar.as_ref().is_none_or(super::sidecar::Sidecar::busy);
    (1..).zip(&w.history).all(|(number, rec)| {
        let mut by = (1..).zip(&w.history).filter(|(n, r)| r.rolls_back == number && w.opened.values().any(|o| o == n));
        let first = by.next();
        let back = first.is_none_or(|(_, r)| (r.source, r.target) == (rec.target, rec.source));
        let said = first.map_or(0, |(n, _)| n);
        back && by.next().is_none() && (busy || rec.rolled_back_by == said)
    })
}

fn requests(scene: &Scene, w: &World) -> bool {
    // Who asks without an id relies on the name of what it wants undone.
    let with_id = w.tools.iter().take(usize::from(scene.tools) + 1);
    (1..).zip(with_id).all(|(request, tool)| {
        let mut records = w.history.iter().filter(|rec| rec.request == request);
        records.next().is_none_or(|rec| Some(rec.previous) == tool.expected) && records.next().is_none()
    })
}

fn held_waits(_: &Scene, w: &World) -> bool {
    let mut held = w.history.iter().filter(|rec| rec.held);
    held.all(|held| {
        let promoted = |r: &&super::world::Rec| r.kind == Kind::Promotion && r.outcome != Outcome::Aborted;
        !w.history.iter().filter(promoted).any(|r| r.previous == held.generation)
    })
}

//! The modelled sidecar: the runner's queue around the real machine. Every step does one thing that others can see.

use std::collections::VecDeque;

use super::super::fake::Fake;
use super::world::{Block, Life, Message, Rec, World};
use crate::arbiter::ground::{Row, Sealed};
use crate::arbiter::journal::Journal;
use crate::arbiter::machine::{Effect, Event, Id, Machine, Owner, Switch, Timer};
use crate::arbiter::message::Hook;
use crate::arbiter::reason::Reason;
use crate::arbiter::record::{Cause, InstanceRef, Kind, Outcome, Phase, Record};
use crate::arbiter::restart::{first_events, is_held, owner_found};
use crate::gate::GateWord;

/// Between freeze and commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Chain {
    /// Frozen with this word; writers are awaited.
    Wait(GateWord),
    /// Nobody writes; the candidate's slot is being overwritten.
    Torn(GateWord, Block),
    /// The candidate is complete.
    Sealed(GateWord, Block),
}

/// The switch under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Active {
    pub(super) number: u64,
    /// The answer that is awaited.
    pub(super) hook: Option<(Hook, Id)>,
    /// A round is under way.
    pub(super) round: bool,
    /// Tools that wait for the outcome, a bit each.
    pub(super) replies: u8,
}

/// A tool's request; 0 where there is no id, and where nothing is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) tool: u8,
    pub(super) request: u8,
    pub(super) undone: u64,
}

/// The sidecar's own memory: gone when it dies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sidecar {
    pub(super) machine: Machine,
    pub(super) inbox: VecDeque<Event>,
    pub(super) effects: VecDeque<Effect>,
    /// Instances that it knows; those that it holds to be eligible; those that have left. A bit each.
    pub(super) known: u8,
    pub(super) told: u8,
    pub(super) gone: u8,
    /// Whose request begins a switch.
    pub(super) asked: Option<Asked>,
    pub(super) active: Option<Active>,
    pub(super) timer: Option<Timer>,
    pub(super) retry: bool,
    pub(super) chain: Option<Chain>,
    /// The keeper's copy of the current superblock.
    pub(super) block: Block,
}

pub(super) fn bit(id: Id) -> u8 {
    1 << id
}

impl Sidecar {
    pub(super) fn busy(&self) -> bool {
        self.chain.is_some() || !self.effects.is_empty() || !self.inbox.is_empty()
    }
    fn take(&mut self, event: Event) {
        let mut out = Vec::new();
        self.machine.step(event, &mut out);
        self.effects.extend(out);
    }
}

fn reference(id: Id) -> Option<InstanceRef> {
    (id != 0).then(|| InstanceRef { instance: id.to_string(), incarnation: id, ..InstanceRef::default() })
}

fn record(number: u64, rec: &Rec) -> Record {
    Record {
        number,
        kind: rec.kind,
        cause: rec.cause,
        outcome: rec.outcome,
        phase: rec.phase,
        reason: rec.held.then_some(Reason::OwnerCrashLoop),
        source: reference(rec.source),
        target: reference(rec.target),
        previous_generation: rec.previous,
        generation: rec.generation,
        request_id: if rec.request == 0 { String::new() } else { rec.request.to_string() },
        forced: rec.forced,
        rolls_back: Some(rec.rolls_back).filter(|n| *n != 0),
        rolled_back_by: Some(rec.rolled_back_by).filter(|n| *n != 0),
        ..Record::default()
    }
}

impl World {
    /// A sidecar begins: it opens the region as a keeper does, closes what history left running, and takes everybody up.
    pub(super) fn start_sidecar(&mut self) {
        if self.gate.is_frozen() {
            self.gate = self.gate.thawed();
        }
        let Some(block) = self.current() else {
            self.broken = Some("gate and superblocks do not fit together");
            return;
        };
        let sealed = Sealed { generation: block.generation, owner: block.owner, ..Sealed::default() };
        let fake = self.ground(sealed);
        let mut journal = Journal::load(&fake, 100);
        for number in journal.close_running(&mut fake.clone(), 1) {
            let closed = journal.get(number).cloned().unwrap_or_default();
            let rec = &mut self.history[number as usize - 1];
            (rec.outcome, rec.phase, rec.generation) = (closed.outcome, closed.phase, closed.generation);
        }
        for (rec, number) in self.history.iter_mut().zip(1..) {
            rec.rolled_back_by = journal.get(number).and_then(|r| r.rolled_back_by).unwrap_or(0);
        }
        let row = |id: Id| Row { row: id as u32, incarnation: id, number: id, ..Row::default() };
        let rows = |life: Life| -> Vec<Row> {
            World::ids().filter(|&id| self.people[id as usize - 1].row && self.is(id, life)).map(row).collect()
        };
        let (living, dead) = (rows(Life::Alive), rows(Life::Dead));
        let known = living.iter().chain(&dead).fold(0, |known, row| known | bit(row.incarnation));
        let owner = owner_found(&sealed, &living);
        let machine = Machine::new(sealed.generation, owner, true, is_held(&journal, &sealed, owner));
        let inbox = first_events(&sealed, &living, &dead, &journal);
        self.sidecar = Some(Sidecar {
            machine,
            inbox,
            effects: VecDeque::new(),
            known,
            told: 0,
            gone: 0,
            asked: None,
            active: None,
            timer: None,
            retry: false,
            chain: None,
            block,
        });
    }

    fn ground(&self, sealed: Sealed) -> Fake {
        let fake = Fake::default();
        fake.world().sealed = sealed;
        for (rec, number) in self.history.iter().zip(1..) {
            fake.world().history.insert(number, record(number, rec).to_bytes(2000));
        }
        fake
    }

    /// History as the arbiter reads it.
    pub(super) fn journal(&self) -> Journal {
        Journal::load(&self.ground(Sealed::default()), 100)
    }

    /// Goes on until one thing was done that others can see, or nothing is left to do.
    pub(super) fn go(&mut self) {
        let Some(mut sidecar) = self.sidecar.take() else { return };
        if sidecar.chain.is_some() {
            self.close(&mut sidecar);
        } else {
            loop {
                if let Some(effect) = sidecar.effects.pop_front() {
                    if self.effect(&mut sidecar, effect) {
                        break;
                    }
                } else if let Some(event) = sidecar.inbox.pop_front() {
                    sidecar.take(event);
                } else {
                    break;
                }
            }
        }
        if !sidecar.busy() {
            sidecar.asked = None;
        }
        self.sidecar = Some(sidecar);
    }

    /// Does what the runner does for an effect; true if others can see it.
    fn effect(&mut self, s: &mut Sidecar, effect: Effect) -> bool {
        let number = s.active.map(|a| a.number as usize);
        match effect {
            Effect::Begun => self.begun(s),
            Effect::Enter(phase) => {
                if let (Some(n), Phase::Precopy | Phase::Flush) = (number, phase) {
                    self.history[n - 1].phase = phase;
                }
                return false;
            }
            Effect::Arm(Timer::Retry) => {
                s.retry = true;
                return false;
            }
            Effect::Arm(timer) => {
                s.timer = Some(timer);
                return false;
            }
            // Owed, and answered by nobody.
            Effect::Hook(Hook::Resume, _) | Effect::Totals | Effect::Seal(_) | Effect::Commit => return false,
            Effect::Hook(hook, id) => {
                let Some(active) = &mut s.active else { return false };
                active.hook = Some((hook, id));
                if hook == Hook::Prepare {
                    self.history[active.number as usize - 1].target = id;
                }
                self.wire.insert(Message::Call(active.number, hook, id));
            }
            Effect::Round => {
                if let Some(active) = &mut s.active {
                    active.round = true;
                }
                return false;
            }
            Effect::Freeze => self.freeze(s),
            Effect::Kill(id) => {
                if self.left.refusals > 0 {
                    self.left.refusals -= 1;
                    s.inbox.push_back(Event::KillRefused);
                    return false;
                }
                match number.map(|n| &mut self.history[n - 1].forced) {
                    // Noted first; the signal is another step.
                    Some(forced) if !*forced => {
                        *forced = true;
                        s.effects.push_front(Effect::Kill(id));
                    }
                    _ => self.die(id),
                }
            }
            Effect::Reclaim(id) => {
                if s.known & bit(id) == 0 {
                    return false;
                }
                s.known &= !bit(id);
                s.told &= !bit(id);
                if !self.is(id, Life::Dead) {
                    self.broken = Some("what a living instance holds was freed");
                }
                let person = self.person(id);
                (person.row, person.slot) = (false, 0);
            }
            Effect::Decided(switch, outcome, reason) => self.decided(s, switch, outcome, reason),
            Effect::Left(id) => {
                s.gone |= bit(id);
                return false;
            }
            Effect::Quarantined => self.history.push(Rec {
                kind: Kind::Promotion,
                cause: Cause::OwnerDied,
                outcome: Outcome::Aborted,
                phase: Phase::Prepare,
                source: 0,
                target: 0,
                previous: s.machine.generation(),
                generation: s.machine.generation(),
                request: 0,
                forced: false,
                rolls_back: 0,
                rolled_back_by: 0,
                held: true,
            }),
        }
        true
    }

    fn begun(&mut self, s: &mut Sidecar) {
        let Some(switch) = s.machine.switch().copied() else { return };
        let by_request = matches!(switch.cause, Cause::Handover | Cause::Rollback);
        let asked = s.asked.take_if(|_| by_request);
        let generation = s.machine.generation();
        let source = switch.source.unwrap_or(match s.machine.owner() {
            Owner::Dead(id) => id,
            _ => 0,
        });
        self.history.push(Rec {
            kind: switch.kind,
            cause: switch.cause,
            outcome: Outcome::Running,
            phase: Phase::Prepare,
            source,
            target: switch.target.unwrap_or(0),
            previous: generation,
            generation,
            request: asked.map_or(0, |a| a.request),
            forced: false,
            rolls_back: asked.map_or(0, |a| a.undone),
            rolled_back_by: 0,
            held: false,
        });
        let number = self.history.len() as u64;
        s.active = Some(Active { number, hook: None, round: false, replies: asked.map_or(0, |a| 1 << a.tool) });
    }

    fn freeze(&mut self, s: &mut Sidecar) {
        let open = self.gate;
        let frozen = open.next_attempt(s.block.attempt);
        match frozen.filter(|_| open.is_open() && open.generation().get() == s.block.generation) {
            Some(frozen) => {
                self.gate = frozen;
                s.chain = Some(Chain::Wait(frozen));
            }
            None => s.inbox.push_back(Event::NotFrozen),
        }
    }

    /// One step of freeze, seal, commit; the machine is asked as the runner asks it.
    fn close(&mut self, s: &mut Sidecar) {
        let owner = s.machine.switch().and_then(|switch| switch.target).unwrap_or(0);
        let wants = |s: &mut Sidecar, event: Event, wanted: Effect| {
            let mut out = Vec::new();
            s.machine.step(event, &mut out);
            out.contains(&wanted)
        };
        match s.chain.take() {
            Some(Chain::Wait(word)) => {
                if self.people.iter().any(|p| p.slot == word.generation().get()) {
                    // It waits for ever: only `moves` lets it go, or gives up for it.
                    s.chain = Some(Chain::Wait(word));
                } else if wants(s, Event::Frozen, Effect::Seal(owner)) {
                    let (sequence, generation) = (s.block.sequence + 1, s.block.generation + 1);
                    let block = Block { sequence, generation, owner, attempt: word.attempt() };
                    self.blocks[(sequence & 1) as usize] = None;
                    s.chain = Some(Chain::Torn(word, block));
                } else {
                    self.not_frozen(s, word);
                }
            }
            Some(Chain::Torn(word, block)) => {
                self.blocks[(block.sequence & 1) as usize] = Some(block);
                if wants(s, Event::Sealed, Effect::Commit) {
                    s.chain = Some(Chain::Sealed(word, block));
                } else {
                    self.not_frozen(s, word);
                }
            }
            Some(Chain::Sealed(word, block)) => match word.committed() {
                Some(open) if self.swap_gate(word, open) => {
                    s.block = block;
                    let number = s.active.map_or(0, |a| a.number);
                    if self.opened.insert(block.generation, number).is_some() {
                        self.broken = Some("a generation was opened twice");
                    }
                    s.inbox.push_back(Event::Committed);
                }
                _ => self.not_frozen(s, word),
            },
            None => {}
        }
    }

    /// The freezer gives up: its guard opens the gate, unless somebody has.
    pub(super) fn not_frozen(&mut self, s: &mut Sidecar, word: GateWord) {
        self.swap_gate(word, word.thawed());
        s.chain = None;
        s.inbox.push_back(Event::NotFrozen);
    }

    fn decided(&mut self, s: &mut Sidecar, switch: Switch, outcome: Outcome, reason: Option<Reason>) {
        let Some(active) = s.active else { return };
        let committed = outcome == Outcome::Committed;
        let undone = self.history[active.number as usize - 1].rolls_back;
        if committed && undone != 0 && self.history[undone as usize - 1].rolled_back_by != active.number {
            // Stored first; the record's own end is another step.
            self.history[undone as usize - 1].rolled_back_by = active.number;
            return s.effects.push_front(Effect::Decided(switch, outcome, reason));
        }
        (s.active, s.timer) = (None, None);
        let rec = &mut self.history[active.number as usize - 1];
        (rec.outcome, rec.phase) = (outcome, if committed { Phase::Drain } else { Phase::Done });
        rec.generation = s.machine.generation();
        if switch.target.is_some_and(|id| rec.target != id) {
            self.broken = Some("the record names another target than the switch");
        }
        for (tool, known) in self.tools.iter_mut().enumerate() {
            if active.replies & 1 << tool != 0 {
                known.told = Some((active.number, outcome));
            }
        }
    }

    /// A process is killed: its section ends without a store, its slot stays as it was.
    pub(super) fn die(&mut self, id: Id) {
        let person = self.person(id);
        (person.life, person.inside, person.term) = (Life::Dead, false, 0);
    }
}

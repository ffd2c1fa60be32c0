//! What may happen next in a world, and what then becomes of it.

use stateright::{Model, Property};

use super::sidecar::{Asked, Chain, bit};
use super::truths;
use super::world::{FRESH, Life, Message, Person, Rec, Scene, Troubles, World};
use crate::arbiter::machine::{Event, Id, Step, Timer};
use crate::arbiter::message::Target;
use crate::arbiter::policy::{Candidate, Verdict, View, judge, resolve};
use crate::arbiter::reason::Reason;
use crate::arbiter::record::{Cause, Kind, Outcome};
use crate::arbiter::undo::{Undo, undo};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The sidecar does the next thing that others can see.
    Go,
    SidecarDies,
    SidecarStarts,
    /// A writer or a background thread finds the gate frozen for too long.
    Thaw,
    Attach(Id),
    Ready(Id),
    Withdraw(Id),
    Dies(Id),
    /// The kernel proves a death to the sidecar; and whether it was one too many.
    Proved(Id, bool),
    Leave(Id),
    Drained(Id),
    /// Gate open, superblock names it, gate unchanged.
    Learn(Id),
    Announce(Id),
    Check(Id),
    Clear(Id),
    /// An instance hears a call and agrees, or vetoes.
    Hears(Message, bool),
    /// The sidecar hears an answer, perhaps an old one.
    Told(Message),
    Round,
    Blocked(bool),
    /// The freezer gives up on a writer.
    Stuck,
    Deadline(Timer),
    Retry,
    Fault,
    Look(u8),
    Ask(u8),
    Abort,
}

fn spend(left: &mut u8) -> bool {
    let some = *left > 0;
    *left -= u8::from(some);
    some
}

impl Model for Scene {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.gate.generation().get() <= self.generation_max && world.gate.attempt() <= self.attempt_max
    }

    fn properties(&self) -> Vec<Property<Self>> {
        truths::all()
    }

    fn actions(&self, world: &World, out: &mut Vec<Move>) {
        let left = &world.left;
        for id in 1..FRESH {
            self.moves_of(world, id, out);
        }
        if world.gate.is_frozen() && left.thaws > 0 && world.people.iter().any(|p| p.life == Life::Alive) {
            out.push(Move::Thaw);
        }
        for message in &world.wire {
            if let Message::Call(number, hook, id) = *message
                && world.is(id, Life::Alive)
                && ![true, false].iter().any(|ok| world.wire.contains(&Message::Answer(number, hook, id, *ok)))
            {
                out.push(Move::Hears(*message, true));
                if left.vetoes > 0 {
                    out.push(Move::Hears(*message, false));
                }
            }
        }
        let Some(sidecar) = &world.sidecar else { return out.push(Move::SidecarStarts) };
        if left.sidecar_deaths > 0 {
            out.push(Move::SidecarDies);
        }
        if let Some(Chain::Wait(word)) = sidecar.chain
            && world.people.iter().any(|p| p.slot == word.generation().get())
        {
            // A dead writer's slot is in the way until its death is proved.
            let dead = |p: &Person| p.slot == word.generation().get() && p.life == Life::Dead;
            if left.stuck > 0 || world.people.iter().any(dead) {
                out.push(Move::Stuck);
            }
        } else if sidecar.busy() {
            out.push(Move::Go);
        } else {
            idle_moves(self, world, out);
        }
    }

    fn next_state(&self, world: &World, action: Move) -> Option<World> {
        let mut next = world.clone();
        next.make(self, action);
        Some(next)
    }
}

impl Scene {
    /// What an instance may do by itself.
    fn moves_of(&self, world: &World, id: Id, out: &mut Vec<Move>) {
        let person = &world.people[id as usize - 1];
        if person.life != Life::Alive {
            return;
        }
        if world.left.deaths > 0 {
            out.push(Move::Dies(id));
        }
        if id > self.writers {
            return;
        }
        let own = world.gate.is_open() && person.slot == 0 && person.term != world.gate.generation().get();
        if own && world.current().is_some_and(|block| block.owner == id) {
            out.push(Move::Learn(id));
        }
        match person {
            Person { term: 0, slot: 0, .. } => {}
            Person { slot: 0, .. } => out.push(Move::Announce(id)),
            Person { inside: false, .. } => out.push(Move::Check(id)),
            Person { inside: true, .. } => out.push(Move::Clear(id)),
        }
    }
}

/// What may reach a sidecar that waits.
fn idle_moves(scene: &Scene, world: &World, out: &mut Vec<Move>) {
    let (left, Some(sidecar)) = (&world.left, &world.sidecar) else { return };
    let unborn = (1..FRESH.min(scene.standbys + 2)).find(|&id| world.is(id, Life::Unborn));
    out.extend(unborn.map(Move::Attach));
    for id in World::ids().filter(|&id| sidecar.known & bit(id) != 0) {
        let told = sidecar.told & bit(id) != 0;
        if world.is(id, Life::Dead) {
            out.push(Move::Proved(id, false));
            if left.loops > 0 && sidecar.machine.living() == Some(id) {
                out.push(Move::Proved(id, true));
            }
            continue;
        }
        let leaving = sidecar.machine.member(id).is_none_or(|m| m.leaving);
        if !told && !leaving {
            out.push(Move::Ready(id));
        }
        if told && left.withdrawals > 0 {
            out.push(Move::Withdraw(id));
        }
        if !leaving && left.leaves > 0 {
            out.push(Move::Leave(id));
        }
        if leaving && sidecar.machine.living() != Some(id) && sidecar.gone & bit(id) == 0 {
            out.push(Move::Drained(id));
        }
    }
    out.extend(world.wire.iter().filter(|m| matches!(m, Message::Answer(..))).map(|m| Move::Told(*m)));
    for (i, tool) in world.tools.iter().enumerate() {
        match tool.expected {
            None => out.push(Move::Look(i as u8)),
            // Until it is told, it asks again; it does not know whether it was heard.
            Some(_) if tool.told.is_none() => out.push(Move::Ask(i as u8)),
            Some(_) => {}
        }
    }
    if sidecar.retry {
        out.push(Move::Retry);
    }
    let Some(switch) = sidecar.machine.switch() else { return };
    if left.aborts > 0 {
        out.push(Move::Abort);
    }
    if let Some(timer) = sidecar.timer.filter(|_| left.deadlines > 0) {
        out.push(Move::Deadline(timer));
    }
    if sidecar.active.is_some_and(|a| a.round) {
        let writes = world.people.iter().any(|p| p.slot == world.gate.generation().get());
        match switch.blocked {
            false => out.push(Move::Round),
            true if !writes => out.push(Move::Blocked(false)),
            true => {}
        }
        if writes && !switch.blocked && left.stuck > 0 {
            out.push(Move::Blocked(true));
        }
        if left.faults > 0 {
            out.push(Move::Fault);
        }
    }
}

impl World {
    pub(super) fn make(&mut self, scene: &Scene, action: Move) {
        match action {
            Move::Go => self.go(),
            Move::SidecarDies => {
                spend(&mut self.left.sidecar_deaths);
                self.sidecar = None;
            }
            Move::SidecarStarts => self.start_sidecar(),
            Move::Thaw => {
                spend(&mut self.left.thaws);
                self.gate = self.gate.thawed();
            }
            Move::Dies(id) => {
                spend(&mut self.left.deaths);
                self.die(id);
            }
            Move::Learn(id) => self.person(id).term = self.gate.generation().get(),
            Move::Announce(id) => {
                let person = self.person(id);
                person.slot = person.term;
            }
            Move::Check(id) => {
                let (gate, person) = (self.gate, self.person(id));
                let mine = gate.is_open() && gate.generation().get() == person.slot;
                let over = gate.generation().get() != person.slot;
                (person.inside, person.slot) = (mine, if mine { person.slot } else { 0 });
                if over {
                    person.term = 0;
                }
            }
            Move::Clear(id) => {
                let person = self.person(id);
                (person.inside, person.slot) = (false, 0);
            }
            Move::Hears(Message::Call(number, hook, id), ok) => {
                if !ok {
                    spend(&mut self.left.vetoes);
                }
                self.wire.insert(Message::Answer(number, hook, id, ok));
            }
            Move::Hears(..) => {}
            action => self.tell(scene, action),
        }
    }

    /// What reaches the sidecar.
    fn tell(&mut self, scene: &Scene, action: Move) {
        let Some(mut s) = self.sidecar.take() else { return };
        let left: &mut Troubles = &mut self.left;
        let target = s.machine.switch().and_then(|switch| switch.target);
        match action {
            Move::Attach(id) => {
                let person = self.person(id);
                (person.life, person.row) = (Life::Alive, true);
                s.known |= bit(id);
                s.inbox.push_back(Event::Attached(id, id, 0));
            }
            Move::Ready(id) => {
                s.told |= bit(id);
                s.inbox.push_back(Event::Eligible(id, true, true));
                if s.machine.switch().is_some_and(|switch| switch.step == Step::Await)
                    && let Verdict::Go(id) = resolve(&self.view(&s), &Target::Any)
                {
                    s.inbox.push_back(Event::Target(id));
                }
            }
            Move::Withdraw(id) => {
                spend(&mut left.withdrawals);
                s.told &= !bit(id);
                s.inbox.push_back(Event::Eligible(id, false, false));
                if target == Some(id) {
                    s.inbox.push_back(Event::Unfit(Reason::TargetNotReady));
                }
            }
            Move::Proved(id, one_too_many) => {
                if one_too_many {
                    spend(&mut left.loops);
                }
                s.inbox.push_back(Event::Died(id, one_too_many));
            }
            Move::Leave(id) => {
                spend(&mut left.leaves);
                s.told &= !bit(id);
                s.inbox.extend([Event::Leave(id), Event::Eligible(id, false, false)]);
                if target == Some(id) {
                    s.inbox.push_back(Event::Unfit(Reason::TargetNotReady));
                }
            }
            Move::Drained(id) => s.inbox.push_back(Event::Drained(id)),
            Move::Told(Message::Answer(number, hook, id, ok)) => {
                if let Some(active) = s.active.as_mut().filter(|a| a.number == number && a.hook == Some((hook, id))) {
                    active.hook = None;
                    s.inbox.push_back(if ok { Event::HookOk } else { Event::HookVetoed });
                }
            }
            Move::Round | Move::Fault => {
                if let Some(active) = &mut s.active {
                    active.round = false;
                }
                s.inbox.push_back(match action {
                    Move::Round => Event::Round(true),
                    _ => Event::Failed(Reason::Io),
                });
                if action == Move::Fault {
                    spend(&mut left.faults);
                }
            }
            Move::Blocked(blocked) => {
                if blocked {
                    spend(&mut left.stuck);
                }
                s.inbox.push_back(Event::Blocked(blocked));
            }
            Move::Stuck => {
                spend(&mut left.stuck);
                if let Some(Chain::Wait(word)) = s.chain {
                    self.not_frozen(&mut s, word);
                }
            }
            Move::Deadline(timer) => {
                spend(&mut left.deadlines);
                s.timer = None;
                s.inbox.push_back(Event::Deadline(timer));
            }
            Move::Retry => {
                s.retry = false;
                s.inbox.push_back(Event::Deadline(Timer::Retry));
            }
            Move::Abort => {
                spend(&mut left.aborts);
                s.inbox.push_back(Event::Abort);
            }
            Move::Look(tool) => {
                let committed = |rec: &Rec| rec.kind == Kind::Handover && rec.outcome == Outcome::Committed;
                let last = self.history.iter().rposition(committed).map_or(0, |n| n as u64 + 1);
                let tool = &mut self.tools[usize::from(tool)];
                (tool.expected, tool.undoes) = (Some(s.machine.generation()), last);
            }
            Move::Ask(tool) => self.ask(scene, &mut s, tool),
            _ => {}
        }
        self.sidecar = Some(s);
    }

    fn view(&self, s: &super::sidecar::Sidecar) -> View {
        let seen = World::ids().filter(|&id| s.known & bit(id) != 0 && s.gone & bit(id) == 0);
        let unfit = |id| (s.told & bit(id) == 0).then(|| (Reason::TargetNotReady, String::new()));
        View {
            region: "shop".into(),
            generation: s.machine.generation(),
            owner: s.machine.living(),
            running: s.active.map(|a| a.number),
            candidates: seen
                .map(|id| Candidate {
                    incarnation: id,
                    instance: id.to_string(),
                    version: String::new(),
                    fresh: s.machine.member(id).is_none_or(|m| m.owned == 0),
                    unfit: unfit(id),
                })
                .collect(),
        }
    }

    /// A tool asks, perhaps once more: the request's id, the verdict, the machine.
    fn ask(&mut self, scene: &Scene, s: &mut super::sidecar::Sidecar, tool: u8) {
        let request = if tool > scene.tools { 0 } else { tool + 1 };
        let known = |rec: &Rec| request != 0 && rec.request == request;
        if let Some(known) = self.history.iter().position(known) {
            let number = known as u64 + 1;
            match &mut s.active {
                Some(active) if active.number == number => active.replies |= 1 << tool,
                _ => self.tools[usize::from(tool)].told = Some((number, self.history[known].outcome)),
            }
            return;
        }
        if tool >= scene.tools {
            return self.ask_back(scene, s, tool, request);
        }
        // The first tool hands over to the next one and waits for it; the second to instance 3.
        let patient = tool == 0;
        let target = if patient { Target::Any } else { Target::Instance("3".into()) };
        let verdict = judge(&self.view(s), &target, self.tools[usize::from(tool)].expected);
        let target = match verdict {
            Verdict::Go(id) => Some(id),
            Verdict::NotYet(_) if patient => None,
            _ => return,
        };
        s.asked = Some(Asked { tool, request, undone: 0 });
        s.inbox.push_back(Event::Begin(Kind::Handover, Cause::Handover, target, scene.force));
    }

    /// A tool asks for a rollback: of the last handover, or of the one that it saw; that one without its generation.
    fn ask_back(&mut self, scene: &Scene, s: &mut super::sidecar::Sidecar, tool: u8, request: u8) {
        let knows = &mut self.tools[usize::from(tool)];
        let (number, expected) = match tool == scene.tools {
            true => (None, knows.expected),
            false => (Some(knows.undoes), None),
        };
        let journal = self.journal();
        match undo(&journal, &self.view(s), number, expected) {
            Undo::Already(by) => {
                if self.current().map(|block| block.owner) != by.target.as_ref().map(|t| t.incarnation) {
                    self.broken = Some("a tool is told that a handover is undone, and another owns");
                }
                self.tools[usize::from(tool)].told = Some((by.number, Outcome::Already));
            }
            Undo::Judged { undone, verdict: Verdict::Go(target), .. } => {
                s.asked = Some(Asked { tool, request, undone });
                s.inbox.push_back(Event::Begin(Kind::Rollback, Cause::Rollback, Some(target), scene.force));
            }
            Undo::Judged { .. } | Undo::No(_) => {}
        }
    }

    /// Whether, once nothing goes wrong any more, a fresh instance can be made the owner.
    pub(super) fn can_hand_over(&self) -> bool {
        let scene = Scene::default();
        let mut world = self.clone();
        let mut asked = 0;
        for _ in 0..300 {
            let Some(sidecar) = &world.sidecar else {
                world.start_sidecar();
                continue;
            };
            if sidecar.machine.living() == Some(FRESH) && !sidecar.busy() {
                return world.broken.is_none();
            }
            if sidecar.busy() {
                // Living writers leave their sections; slots of the dead are freed by the sidecar alone.
                for person in world.people.iter_mut().filter(|p| p.life == Life::Alive) {
                    (person.slot, person.inside) = (0, false);
                }
                if let Some(Chain::Wait(word)) = sidecar.chain
                    && world.people.iter().any(|p| p.slot == word.generation().get())
                {
                    world.make(&scene, Move::Stuck);
                }
                world.go();
                continue;
            }
            let next = world.next_in_peace(&mut asked);
            match next {
                Some(action) => world.make(&scene, action),
                None => return false,
            }
        }
        false
    }

    fn next_in_peace(&mut self, asked: &mut u32) -> Option<Move> {
        let sidecar = self.sidecar.as_ref()?;
        let known = || World::ids().filter(|&id| sidecar.known & bit(id) != 0);
        if let Some(id) = known().find(|&id| self.is(id, Life::Dead)) {
            return Some(Move::Proved(id, false));
        }
        if let (Some(switch), Some(active)) = (sidecar.machine.switch(), sidecar.active) {
            return Some(match (switch.step, active.hook) {
                (Step::Prepare | Step::Flush, Some((hook, id))) if self.is(id, Life::Alive) => {
                    Move::Told(Message::Answer(active.number, hook, id, true))
                }
                (Step::Precopy | Step::Settle, _) if switch.blocked => Move::Blocked(false),
                (Step::Precopy | Step::Settle, _) => Move::Round,
                _ => Move::Deadline(sidecar.timer?),
            });
        }
        if self.is(FRESH, Life::Unborn) {
            return Some(Move::Attach(FRESH));
        }
        if sidecar.told & bit(FRESH) == 0 {
            return Some(Move::Ready(FRESH));
        }
        *asked += 1;
        let begin = Event::Begin(Kind::Handover, Cause::Handover, Some(FRESH), false);
        let sidecar = self.sidecar.as_mut()?;
        sidecar.inbox.push_back(begin);
        (*asked <= 3).then_some(Move::Go)
    }
}

//! Who may own: looked at whenever it may have changed, told to the machine, and to a request that waits for it.

use std::time::Instant;

use super::machine::{Event, Id, Step};
use super::needs::verdict;
use super::policy::{self, Candidate, Verdict, View};
use super::reason::Reason;
use super::runner::Runner;
use super::session::Session;

impl Runner {
    /// Looks again who may own, tells the machine, and lets an awaited target begin.
    pub(super) fn refresh(&mut self) {
        // A change may follow from a change, but not for ever.
        for _ in 0..8 {
            if !std::mem::take(&mut self.stale) {
                return;
            }
            self.look_at_all();
            let changed: Vec<(Id, bool, bool)> = self
                .sessions
                .iter_mut()
                .filter_map(|(&id, s)| {
                    let (eligible, again) = (s.unfit().is_none(), std::mem::take(&mut s.again));
                    let was = std::mem::replace(&mut s.told, eligible);
                    (was != eligible || again).then_some((id, eligible, again))
                })
                .collect();
            for (id, eligible, again) in changed {
                self.inbox.push_back(Event::Eligible(id, eligible, again));
            }
            self.look_at_the_target();
            self.settle();
        }
    }

    fn look_at_all(&mut self) {
        let present = self.ground.present();
        self.looked = Instant::now();
        for session in self.sessions.values_mut().filter(|s| s.row.is_some()) {
            session.verdict = match &present {
                Ok(present) => verdict(&session.needs, present),
                Err(fault) => Err((fault.reason, fault.message.clone())),
            };
        }
    }

    /// A target that is awaited may be there now; one that was there may have withdrawn.
    fn look_at_the_target(&mut self) {
        let Some(switch) = self.machine.switch().copied() else { return };
        if switch.step == Step::Await {
            let view = self.view();
            let Some(active) = &mut self.active else { return };
            match policy::resolve(&view, &active.target) {
                Verdict::Go(id) => self.inbox.push_back(Event::Target(id)),
                Verdict::NotYet(refusal) => active.refusal = Some(refusal),
                Verdict::No(refusal) => {
                    self.inbox.push_back(Event::Failed(refusal.reason));
                    active.refusal = Some(refusal);
                }
                Verdict::Already => {}
            }
        } else if let Some((reason, words)) =
            switch.target.and_then(|id| self.sessions.get(&id)).and_then(Session::withdrawn)
        {
            if let Some(active) = &mut self.active {
                active.words = words;
            }
            self.inbox.push_back(Event::Unfit(reason));
        }
    }

    /// Whether `target` reads what is there now; answers with a fingerprint of all schemas.
    pub(super) fn look(&mut self, target: Option<Id>) -> Result<u64, (Reason, String)> {
        let present = self.ground.present().map_err(|fault| (fault.reason, fault.message))?;
        if let Some(session) = target.and_then(|id| self.sessions.get(&id)) {
            verdict(&session.needs, &present)?;
        }
        let mut sum = 0_u64;
        for object in &present {
            let mut crc = crc32fast::Hasher::new();
            crc.update(object.object.as_bytes());
            object.schemas.iter().for_each(|schema| crc.update(&schema.to_le_bytes()));
            // A sum, so that the order of objects does not matter.
            sum = sum.wrapping_add(u64::from(crc.finalize()).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        Ok(sum)
    }

    /// The region as a verdict sees it.
    pub(super) fn view(&self) -> View {
        let candidates = self.sessions.values().filter(|s| s.row.is_some() && !s.left);
        View {
            region: self.ground.identity().name,
            generation: self.machine.generation(),
            owner: self.machine.living(),
            running: self.active.as_ref().map(|a| a.number),
            candidates: candidates
                .map(|s| Candidate {
                    incarnation: s.at.incarnation,
                    instance: s.at.instance.clone(),
                    version: s.at.version.clone(),
                    fresh: s.owned == 0,
                    unfit: s.unfit(),
                })
                .collect(),
        }
    }
}

//! What a request to roll back means now: a pure verdict over the journal and the region's view.
//!
//! A rollback names the handover that it undoes, and is made once: repeated, it is answered with the switch that undid it for as
//! long as that stands, and never undoes the undoing.

use super::journal::Journal;
use super::message::{Refusal, Target};
use super::policy::{Verdict, View, judge};
use super::reason::Reason;
use super::record::Record;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Undo<'j> {
    /// It was undone by this one, and who owned before it owns again.
    Already(&'j Record),
    /// A switch back to `target` is judged so.
    Judged { undone: u64, target: Target, verdict: Verdict },
    /// There is nothing to undo.
    No(Refusal),
}

/// Judges the rollback of a handover, or of the last committed one.
pub(crate) fn undo<'j>(
    journal: &'j Journal,
    view: &View,
    handover: Option<u64>,
    expected_generation: Option<u64>,
) -> Undo<'j> {
    let undone = match journal.to_undo(handover) {
        Ok(record) => record,
        Err(refusal) => return Undo::No(refusal),
    };
    let (source, target) = (undone.source.clone().unwrap_or_default(), undone.target.clone().unwrap_or_default());
    let owner = view.candidates.iter().find(|c| Some(c.incarnation) == view.owner);
    let found = || owner.map_or("nobody".to_owned(), |o| o.instance.clone());
    if let Some(by) = undone.rolled_back_by.and_then(|by| journal.get(by)) {
        if view.owner == Some(source.incarnation) {
            return Undo::Already(by);
        }
        // It was, but that did not last: to say "already" would name an owner who is none.
        let words = format!("handover {} was rolled back by {}, and {} owns since", undone.number, by.number, found());
        let refusal = Refusal::new(Reason::NothingToRollBack, words).compare(source.instance, found());
        return Undo::No(refusal.about(undone.number));
    }
    let back = Target::Instance(source.instance);
    let verdict = match judge(view, &back, expected_generation) {
        Verdict::Go(_) | Verdict::NotYet(_) if view.owner != Some(target.incarnation) => {
            let words = format!("{}, the target of handover {}, owns no more", target.instance, undone.number);
            let refusal = Refusal::new(Reason::NothingToRollBack, words).compare(target.instance, found());
            Verdict::No(refusal.about(undone.number))
        }
        verdict => verdict,
    };
    Undo::Judged { undone: undone.number, target: back, verdict }
}

//! The real ground: a region held by its keeper.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::feed::OnEvent;
use super::ground::{Checks, Closed, Closing, Fault, Ground, Identity, Newcomer, NotClosed, Row, Sealed, Slice};
use super::handle::{Arbiter, FaultReport, VerifyReport};
use super::message::HookSet;
use super::needs::Present;
use super::policy::Policy;
use super::reason::Reason;
use super::restart;
use crate::deaths;
use crate::digest::{self, FreezeError, Keeper, Next, RoundStep, Verification};
use crate::error::{Error, Misuse};
use crate::history::RECORD_MAX;
use crate::inspect;
use crate::instances::{self, InstanceRow, NewInstance, Seat};
use crate::recover::DeathProof;

impl Arbiter {
    /// Takes a region up and arbitrates over it on a thread of its own, until the last handle is dropped or
    /// [`Arbiter::shutdown`]. `on_event` hears every change, on that thread, and must not block.
    ///
    /// # Errors
    /// `Io` if there is no thread or no descriptor for it, `Misuse` for a policy that cannot do what it says.
    pub fn spawn(keeper: Keeper, policy: Policy, on_event: OnEvent) -> Result<Self, Error> {
        restart::spawn(Box::new(keeper), policy, on_event)
    }
}

impl Ground for Keeper {
    fn identity(&self) -> Identity {
        let mapping = self.mapping();
        Identity { name: mapping.name().to_owned(), uuid: mapping.uuid(), limit_bytes: mapping.limit_bytes() }
    }

    fn sealed(&self) -> Sealed {
        let current = self.superblock();
        Sealed {
            generation: current.generation,
            owner: current.owner_incarnation,
            root_digest: current.root_digest,
            unix_ms: current.sealed_unix_ms,
            reset: current.opened_by_reset().then_some(current.former_generation),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.mapping().used_bytes()
    }

    fn begin_round(&mut self) -> Result<(), Fault> {
        Ok(Keeper::begin_round(self)?)
    }

    fn round_slice(&mut self, pages_max: u32) -> Result<Slice, Fault> {
        Ok(match self.round_step(pages_max)? {
            RoundStep::Done { pages } => Slice::Done(pages),
            RoundStep::More => Slice::More,
            RoundStep::GraceBlocked { .. } => Slice::Blocked,
        })
    }

    fn dirty_pages(&self) -> u64 {
        Keeper::dirty_pages(self)
    }

    fn left_pages(&self) -> u64 {
        Keeper::left_pages(self)
    }
    fn pages_within(&self, budget: Duration) -> u64 {
        self.freeze_fits(budget)
    }

    fn note_totals(&mut self) -> Result<(), Fault> {
        Ok(self.record_totals()?)
    }

    fn set_budget(&mut self, budget: Duration) {
        self.set_freeze_budget(budget);
    }

    fn close(
        &mut self,
        budget: Duration,
        owner: u64,
        schemas: u64,
        go: &mut dyn FnMut(Closing) -> bool,
    ) -> Result<Closed, NotClosed> {
        let frozen = self.freeze(budget)?;
        if !go(Closing::Frozen) {
            return Err(NotClosed::Stopped);
        }
        let sealed = frozen.seal(Next { owner_incarnation: owner, schema_fingerprint: schemas })?;
        if !go(Closing::Sealed) {
            return Err(NotClosed::Stopped);
        }
        let done = sealed.commit()?;
        // In builds that read everything while the gate is frozen: no page was missed.
        assert!(done.recomputed_root.is_none_or(|root| root == done.root_digest), "a page was missed: {done:?}");
        Ok(Closed {
            generation: done.generation.get(),
            attempt: done.attempt.into(),
            root_digest: done.root_digest,
            frozen_pages: done.frozen_pages,
            closed: done.closed,
        })
    }

    fn blackout(&self, attempt: u64) -> Option<Duration> {
        self.read_blackout(u32::try_from(attempt).ok()?)
    }

    fn rows(&self) -> Vec<Row> {
        let rows = instances::rows(self.mapping());
        rows.filter_map(|row| row.inspect_err(|fault| tracing::error!("instance table: {fault}")).ok())
            .map(row)
            .collect()
    }

    fn is_mapped_by(&self, pid: u32) -> bool {
        // On the heap everyone who is attached is this process.
        self.mapping().fd().is_none() || crate::os::boot::has_mapped(pid, self.mapping().identity())
    }

    fn seat(&mut self, newcomer: &Newcomer) -> Result<(Row, Option<OwnedFd>), Fault> {
        let new = NewInstance {
            version: newcomer.version.clone(),
            pid: newcomer.pid,
            uid: newcomer.uid,
            start_ticks: newcomer.start_ticks,
            resume_token: newcomer.token,
        };
        let (seat, liveness) = Keeper::seat(self, &new)?;
        match instances::read(self.mapping(), seat.row).map_err(Error::from)? {
            Some(found) if found.seat == seat => Ok((row(found), liveness)),
            _ => {
                let message = format!("row {} does not hold who was just seated in it", seat.row);
                Err(Fault::new(Reason::RegionCorrupt, message))
            }
        }
    }

    fn note_hooks(&mut self, row: u32, incarnation: u64, hooks: HookSet) {
        if let Err(error) = instances::declare(self.mapping(), Seat { row, incarnation }, hooks.bits()) {
            tracing::error!(row, %error, "the hooks that an instance declared are not kept");
        }
    }

    fn is_dead(&self, row: u32) -> bool {
        self.instance_dead(row)
    }

    fn reclaim(&mut self, row: u32, incarnation: u64, pidfd: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        let proof = pidfd.and_then(|pidfd| DeathProof::by_pidfd(Seat { row, incarnation }, pidfd));
        let done = match proof {
            Some(proof) => self.reclaim_proved(proof),
            None => Keeper::reclaim(self, row),
        };
        match done {
            // Somebody else sits there by now, so the dead one's row was freed.
            Err(Error::Misuse(Misuse::Argument { .. })) => Ok(()),
            done => Ok(done?),
        }
    }

    fn deaths(&self) -> Vec<(u64, u64)> {
        deaths::read(self.mapping())
    }

    fn note_death(&mut self, generation: u64, unix_ms: u64) {
        deaths::note(self.mapping(), generation, unix_ms);
    }

    fn forget_deaths(&mut self) {
        deaths::forget(self.mapping());
    }

    fn history_len_max(&self) -> usize {
        RECORD_MAX
    }

    fn history(&self) -> Vec<(u64, Vec<u8>)> {
        Keeper::history(self).newest(usize::MAX)
    }

    fn put_history(&mut self, number: u64, bytes: &[u8]) -> Result<(), Fault> {
        Ok(Keeper::history(self).put(number, bytes)?)
    }

    fn present(&mut self) -> Result<Vec<Present>, Fault> {
        if let Some(lost) = self.mapping().poisoned() {
            return Err(Error::from(lost).into());
        }
        // A value that nobody can read (torn, rotten) is no ground to keep one instance from owning rather than another.
        let present = |(name, schemas): (&str, &[u32])| Present {
            object: name.to_owned(),
            kind: "cell".into(),
            schemas: schemas.to_vec(),
        };
        Ok(self.cell_schemas().map(present).collect())
    }

    fn object_counts(&self) -> BTreeMap<String, u64> {
        inspect::object_counts(self.mapping())
    }

    fn verification(&self) -> Box<dyn Checks> {
        Box::new(Keeper::verification(self))
    }
}

impl Checks for Verification {
    fn step(&mut self) -> bool {
        Verification::step(self)
    }

    fn progress(&self) -> (u64, u64) {
        Verification::progress(self)
    }

    fn report(self: Box<Self>) -> VerifyReport {
        let found = self.finish();
        let fault = |fault: digest::Fault| FaultReport {
            reason: Reason::from_word(fault.reason()),
            structure: fault.structure,
            offset_bytes: fault.offset_bytes,
            expected: fault.expected,
            found: fault.found,
        };
        VerifyReport {
            fault_count: found.faults.len() as u64,
            faults: found.faults.into_iter().take(VerifyReport::FAULTS_MAX).map(fault).collect(),
            checked_bytes: found.checked_bytes,
            unverifiable_bytes: found.unverifiable.iter().map(|run| run.end - run.start).sum(),
            unverifiable: found.unverifiable.into_iter().take(VerifyReport::FAULTS_MAX).collect(),
        }
    }
}

impl From<FreezeError> for NotClosed {
    fn from(error: FreezeError) -> Self {
        match error {
            FreezeError::Region(error) => NotClosed::Failed(error.into()),
            FreezeError::Exhausted { .. } => NotClosed::Failed(Fault::new(Reason::TableFull, error.to_string())),
            FreezeError::BarrierFailed(_) => NotClosed::Failed(Fault::new(Reason::Io, error.to_string())),
            FreezeError::Stuck { .. } => NotClosed::Stuck(error.to_string()),
            FreezeError::Lost { .. } | FreezeError::Overrun { .. } | FreezeError::Late { .. } => {
                NotClosed::Late(error.to_string())
            }
        }
    }
}

fn row(found: InstanceRow) -> Row {
    Row {
        row: found.seat.row,
        incarnation: found.seat.incarnation,
        number: found.number,
        instance: found.name(),
        version: found.instance.version,
        pid: found.instance.pid,
        uid: found.instance.uid,
        start_ticks: found.instance.start_ticks,
        attach_unix_ms: found.attach_unix_ms,
        token: found.instance.resume_token,
        leaving: found.flags & instances::flag::LEAVING != 0,
        hooks: found.declared.map(HookSet::from_bits),
    }
}

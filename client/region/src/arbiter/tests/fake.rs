//! A ground without a region: it does on demand what a real one does rarely.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::arbiter::ground::{
    Checks, Closed, Closing, Fault, Ground, Identity, Newcomer, NotClosed, Row, Sealed, Slice,
};
use crate::arbiter::handle::VerifyReport;
use crate::arbiter::message::HookSet;
use crate::arbiter::needs::Present;
use crate::arbiter::reason::Reason;

/// What the region holds and what goes wrong with it. Outlives its arbiters.
#[derive(Default)]
pub(in crate::arbiter) struct World {
    pub(in crate::arbiter) sealed: Sealed,
    pub(in crate::arbiter) rows: Vec<Row>,
    pub(in crate::arbiter) dead: BTreeSet<u32>,
    /// How often a lock was asked.
    pub(in crate::arbiter) locks_asked: u64,
    pub(in crate::arbiter) history: BTreeMap<u64, Vec<u8>>,
    pub(in crate::arbiter) deaths: BTreeMap<u64, u64>,
    pub(in crate::arbiter) present: Vec<Present>,
    /// Pages left after each round; then 0.
    pub(in crate::arbiter) dirty: VecDeque<u64>,
    /// Pages left after every round.
    pub(in crate::arbiter) always_dirty: Option<u64>,
    /// Writers never leave their sections.
    pub(in crate::arbiter) stuck: bool,
    /// The freezer is too slow.
    pub(in crate::arbiter) late: bool,
    pub(in crate::arbiter) blocked: bool,
    /// Every second look at a round meets a writer, and rounds never end.
    pub(in crate::arbiter) busy: bool,
    pub(in crate::arbiter) looks: u64,
    /// Slices of a check.
    pub(in crate::arbiter) slices: Option<u64>,
    pub(in crate::arbiter) round_fault: Option<Fault>,
    pub(in crate::arbiter) seats: u64,
    /// Rows of the instance table.
    pub(in crate::arbiter) rows_max: Option<usize>,
    pub(in crate::arbiter) reclaimed: Vec<u64>,
    /// The arbiter is killed right after it has put such a record.
    pub(in crate::arbiter) killed_at: Option<fn(&[u8]) -> bool>,
}

/// The ground.
#[derive(Clone, Default)]
pub(in crate::arbiter) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(in crate::arbiter) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics with it")
    }
}

impl Ground for Fake {
    fn identity(&self) -> Identity {
        Identity { name: "shop".into(), uuid: [7; 16], limit_bytes: 1 << 30 }
    }
    fn sealed(&self) -> Sealed {
        self.world().sealed
    }
    fn used_bytes(&self) -> u64 {
        4096
    }
    fn begin_round(&mut self) -> Result<(), Fault> {
        self.world().round_fault.clone().map_or(Ok(()), Err)
    }
    fn round_slice(&mut self, _: u32) -> Result<Slice, Fault> {
        let mut world = self.world();
        world.looks += 1;
        Ok(match (world.blocked, world.busy, world.looks % 2) {
            (true, ..) | (_, true, 0) => Slice::Blocked,
            (_, true, _) => Slice::More,
            _ => Slice::Done(10),
        })
    }
    fn dirty_pages(&self) -> u64 {
        let mut world = self.world();
        world.always_dirty.or_else(|| world.dirty.pop_front()).unwrap_or(0)
    }
    fn pages_within(&self, _: Duration) -> u64 {
        100
    }
    fn note_totals(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn set_budget(&mut self, _: Duration) {}
    fn close(
        &mut self,
        _: Duration,
        owner: u64,
        _: u64,
        go: &mut dyn FnMut(Closing) -> bool,
    ) -> Result<Closed, NotClosed> {
        if self.world().stuck {
            return Err(NotClosed::Stuck("thread 1 is in a section".into()));
        }
        if self.world().late {
            return Err(NotClosed::Late("the freezer was not given its processor".into()));
        }
        assert!(go(Closing::Frozen) && go(Closing::Sealed));
        let mut world = self.world();
        let generation = world.sealed.generation + 1;
        let root_digest = 0xd1_9e57 + generation;
        world.sealed = Sealed { generation, owner, root_digest, unix_ms: 1, reset: None };
        let closed = Duration::from_micros(58);
        Ok(Closed { generation, attempt: 1, root_digest, frozen_pages: 41, closed })
    }
    fn blackout(&self, _: u64) -> Option<Duration> {
        Some(Duration::from_micros(63))
    }
    fn rows(&self) -> Vec<Row> {
        self.world().rows.clone()
    }
    fn seat(&mut self, n: &Newcomer) -> Result<(Row, Option<OwnedFd>), Fault> {
        let mut world = self.world();
        if world.rows_max.is_some_and(|max| world.rows.len() >= max) {
            return Err(Fault { reason: Reason::TableFull, message: "instances".into(), limit: None });
        }
        world.seats += 1;
        let number = world.seats;
        let row = Row {
            row: number as u32,
            incarnation: 100 + number,
            number,
            instance: format!("i-{number}"),
            version: n.version.clone(),
            pid: n.pid,
            uid: n.uid,
            start_ticks: 0,
            attach_unix_ms: number,
            token: n.token,
            leaving: false,
            hooks: None,
        };
        world.rows.push(row.clone());
        Ok((row, None))
    }
    fn note_hooks(&mut self, row: u32, incarnation: u64, hooks: HookSet) {
        let mut world = self.world();
        let found = world.rows.iter_mut().find(|r| r.row == row && r.incarnation == incarnation);
        found.expect("attached").hooks = Some(hooks);
    }
    fn is_dead(&self, row: u32) -> bool {
        let mut world = self.world();
        world.locks_asked += 1;
        world.dead.contains(&row)
    }
    fn reclaim(&mut self, row: u32, incarnation: u64, _: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        let mut world = self.world();
        world.rows.retain(|r| r.row != row);
        world.reclaimed.push(incarnation);
        Ok(())
    }
    fn deaths(&self) -> Vec<(u64, u64)> {
        self.world().deaths.iter().map(|(&generation, &ms)| (generation, ms)).collect()
    }
    fn note_death(&mut self, generation: u64, unix_ms: u64) {
        self.world().deaths.entry(generation).or_insert(unix_ms);
    }
    fn forget_deaths(&mut self) {
        self.world().deaths.clear();
    }
    fn history_len_max(&self) -> usize {
        2024
    }
    fn history(&self) -> Vec<(u64, Vec<u8>)> {
        self.world().history.iter().map(|(&number, bytes)| (number, bytes.clone())).collect()
    }
    fn put_history(&mut self, number: u64, bytes: &[u8]) -> Result<(), Fault> {
        assert!(bytes.len() <= self.history_len_max() && !bytes.is_empty());
        let mut world = self.world();
        world.history.insert(number, bytes.to_vec());
        let is_killed = world.killed_at.is_some_and(|killed_at| killed_at(bytes));
        drop(world);
        assert!(!is_killed, "as if killed: whoever waits for it hears nothing more");
        Ok(())
    }
    fn present(&mut self) -> Result<Vec<Present>, Fault> {
        Ok(self.world().present.clone())
    }
    fn object_counts(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("cell".into(), 1)])
    }
    fn verification(&self) -> Box<dyn Checks> {
        Box::new(Slices { world: self.clone(), done: 0 })
    }
}

/// A check of as many slices as the world says; without a number it never ends.
struct Slices {
    world: Fake,
    done: u64,
}

impl Checks for Slices {
    fn step(&mut self) -> bool {
        self.done += 1;
        self.world.world().slices.is_none_or(|slices| self.done < slices)
    }
    fn progress(&self) -> (u64, u64) {
        (4096 * self.done, 4096 * self.world.world().slices.unwrap_or(self.done + 1))
    }
    fn report(self: Box<Self>) -> VerifyReport {
        VerifyReport { checked_bytes: 4096 * self.done, ..VerifyReport::default() }
    }
}

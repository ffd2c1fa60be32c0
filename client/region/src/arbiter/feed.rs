//! Telling those who listen: numbered events of the region, a bounded replay, and the observers of single handovers.

use std::collections::VecDeque;

use super::message::{Observer, Refusal, Watcher};
use super::reason::Reason;
use super::record::Record;
use super::status::{HandoverEvent, RegionEvent, RegionStatus};

/// Hears every event of the region.
pub(crate) type OnEvent = Box<dyn Fn(RegionEvent) + Send>;

/// Listeners at most; more are refused.
const LISTENERS_MAX: usize = 1024;

pub(crate) struct Feed {
    sequence: u64,
    replay: VecDeque<RegionEvent>,
    replay_max: usize,
    watchers: Vec<Watcher>,
    observers: Vec<(u64, Observer)>,
    on_event: OnEvent,
}

impl Feed {
    pub(crate) fn new(replay_max: usize, on_event: OnEvent) -> Self {
        let (replay, watchers, observers) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { sequence: 0, replay, replay_max, watchers, observers, on_event }
    }

    /// Tells everyone; the handover's observers too, if it is about one.
    pub(crate) fn publish(
        &mut self,
        status: RegionStatus,
        record: Option<Record>,
        drained: Option<String>,
        unix_ms: u64,
    ) {
        self.sequence += 1;
        let event = RegionEvent { sequence: self.sequence, unix_ms, status, record, drained };
        (self.on_event)(event.clone());
        self.watchers.retain_mut(|watcher| watcher(event.clone()));
        if let Some(record) = &event.record {
            self.observe(record, unix_ms, 0, 0);
        }
        self.replay.push_back(event);
        while self.replay.len() > self.replay_max {
            self.replay.pop_front();
        }
    }

    /// Tells the observers of one handover alone; the last time if it is over.
    pub(crate) fn observe(&mut self, record: &Record, unix_ms: u64, dirty_pages: u64, target_pages: u64) {
        let event = HandoverEvent {
            sequence: self.sequence,
            unix_ms,
            record: record.clone(),
            precopy_dirty_pages: dirty_pages,
            precopy_target_pages: target_pages,
        };
        self.observers.retain_mut(|(number, observer)| {
            *number != record.number || (observer(Some(event.clone())) && !record.is_over())
        });
    }

    /// Adds an observer of this handover, which hears it as it is now at once.
    ///
    /// # Errors
    /// `TABLE_FULL` if so many follow already.
    pub(crate) fn follow(&mut self, record: &Record, observer: Observer, unix_ms: u64) -> Result<(), Refusal> {
        if self.observers.len() >= LISTENERS_MAX {
            self.observers.retain_mut(|(_, observer)| observer(None));
        }
        if !record.is_over() && self.observers.len() >= LISTENERS_MAX {
            let words = "no more followers of handovers are taken";
            let limit = format!("at most {LISTENERS_MAX} followers");
            return Err(Refusal::new(Reason::TableFull, words).compare(limit, self.observers.len()));
        }
        self.follow_own(record, observer, unix_ms);
        Ok(())
    }

    /// As [`Feed::follow`], for who began it: never refused, since nobody may keep others from handing over by following.
    pub(crate) fn follow_own(&mut self, record: &Record, mut observer: Observer, unix_ms: u64) {
        let (sequence, precopy_dirty_pages, precopy_target_pages) = (self.sequence, 0, 0);
        let goes_on = observer(Some(HandoverEvent {
            sequence,
            unix_ms,
            record: record.clone(),
            precopy_dirty_pages,
            precopy_target_pages,
        }));
        if goes_on && !record.is_over() {
            self.observers.push((record.number, observer));
        }
    }

    /// Adds a watcher: with what it missed, or with the state now.
    ///
    /// # Errors
    /// `INVALID_FIELD` if `after` is forgotten or in the future.
    pub(crate) fn watch(
        &mut self,
        after: Option<u64>,
        mut watcher: Watcher,
        status: RegionStatus,
        unix_ms: u64,
    ) -> Result<(), Refusal> {
        if self.watchers.len() >= LISTENERS_MAX {
            return Err(Refusal::new(Reason::TableFull, "watchers").compare(LISTENERS_MAX, self.watchers.len()));
        }
        let mut goes_on = true;
        match after {
            None => {
                goes_on = watcher(RegionEvent { sequence: self.sequence, unix_ms, status, record: None, drained: None })
            }
            Some(after) => {
                let first = self.replay.front().map_or(self.sequence + 1, |e| e.sequence);
                if after.saturating_add(1) < first || after > self.sequence {
                    let range = format!("{} to {}", first.saturating_sub(1), self.sequence);
                    let words = "that sequence number is not remembered: start anew";
                    return Err(Refusal::new(Reason::InvalidField, words).compare(after, range));
                }
                for event in self.replay.iter().filter(|e| e.sequence > after) {
                    goes_on = goes_on && watcher(event.clone());
                }
            }
        }
        if goes_on {
            self.watchers.push(watcher);
        }
        Ok(())
    }
}

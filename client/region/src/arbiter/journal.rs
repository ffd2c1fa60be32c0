//! The region's handovers: all that history remembers, with request ids and what a rollback needs.
//!
//! Every change that matters is put into the region before anybody is told of it. A put replaces one slot that has its own
//! checksum, so a crash leaves the record before or the record after.

use std::collections::{BTreeMap, HashMap};

use super::ground::Ground;
use super::message::Refusal;
use super::reason::Reason;
use super::record::{Kind, Outcome, Phase, Record};

/// No region has so many handovers; JSON's readers are exact up to here.
const NUMBER_MAX: u64 = 1 << 53;

#[derive(Debug, Default)]
pub(crate) struct Journal {
    records: BTreeMap<u64, Record>,
    requests: HashMap<String, u64>,
    next: u64,
    max: usize,
}

impl Journal {
    /// All that the region remembers, newest `max`.
    pub(crate) fn load(ground: &dyn Ground, max: usize) -> Self {
        let mut journal = Self { next: 1, max: max.max(1), ..Self::default() };
        for (number, bytes) in ground.history() {
            // Bytes in the region are input: a record must say its own number, and leave room for those to come.
            let record = Record::from_bytes(&bytes).filter(|r| r.number == number && (1..NUMBER_MAX).contains(&number));
            if let Some(record) = record {
                journal.next = journal.next.max(number + 1);
                journal.keep(record);
            }
        }
        journal
    }

    fn keep(&mut self, record: Record) {
        if !record.request_id.is_empty() {
            self.requests.insert(record.request_id.clone(), record.number);
        }
        self.records.insert(record.number, record);
        while self.records.len() > self.max {
            let Some((_, oldest)) = self.records.pop_first() else { break };
            if self.requests.get(&oldest.request_id) == Some(&oldest.number) {
                self.requests.remove(&oldest.request_id);
            }
        }
    }

    /// Gives the record the next number and stores it.
    pub(crate) fn open(&mut self, ground: &mut dyn Ground, mut record: Record) -> u64 {
        record.number = self.next;
        self.next += 1;
        let number = record.number;
        self.keep(record);
        self.save(ground, number);
        number
    }

    /// Changes a record; [`Journal::save`] stores it.
    pub(crate) fn edit(&mut self, number: u64, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(&number) {
            change(record);
        }
    }

    /// Stores a record as it is now. A failure costs history after the arbiter's next start, nothing else.
    pub(crate) fn save(&self, ground: &mut dyn Ground, number: u64) {
        let Some(record) = self.records.get(&number) else { return };
        if let Err(fault) = ground.put_history(number, &record.to_bytes(ground.history_len_max())) {
            tracing::error!(number, reason = %fault.reason, "history: {}", fault.message);
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Record> {
        self.records.get(&number)
    }

    /// # Errors
    /// `HANDOVER_NOT_FOUND`.
    pub(crate) fn find(&self, number: u64) -> Result<&Record, Refusal> {
        self.get(number).ok_or_else(|| {
            let range = match (self.records.keys().next(), self.records.keys().last()) {
                (Some(first), Some(last)) => format!("{first} to {last}"),
                _ => "none".into(),
            };
            let words = format!("handover {number} is not remembered");
            Refusal::new(Reason::HandoverNotFound, words).compare(number, range)
        })
    }

    pub(crate) fn by_request(&self, request_id: &str) -> Option<&Record> {
        self.requests.get(request_id).and_then(|number| self.get(*number))
    }

    pub(crate) fn newest(&self, count: usize, before: Option<u64>) -> Vec<Record> {
        let below = before.unwrap_or(u64::MAX);
        self.records.range(..below).rev().take(count).map(|(_, record)| record.clone()).collect()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.values()
    }

    /// The newest decided record's number.
    pub(crate) fn last_decided(&self) -> Option<u64> {
        self.iter().rev().find(|r| r.is_decided()).map(|r| r.number)
    }

    /// The switch that opened `generation`.
    pub(crate) fn opener(&self, generation: u64) -> Option<&Record> {
        self.iter().rev().find(|r| r.outcome == Outcome::Committed && r.generation == generation)
    }

    /// The record that a rollback means: by number, or the last committed handover.
    ///
    /// # Errors
    /// `HANDOVER_NOT_FOUND`, `NOTHING_TO_ROLL_BACK`.
    pub(crate) fn to_undo(&self, number: Option<u64>) -> Result<&Record, Refusal> {
        let record = match number {
            Some(number) => self.find(number)?,
            None => {
                let handover = |r: &&Record| r.outcome == Outcome::Committed && r.kind == Kind::Handover;
                let none = || Refusal::new(Reason::NothingToRollBack, "no handover has been committed");
                self.iter().rev().find(handover).ok_or_else(none)?
            }
        };
        if record.outcome != Outcome::Committed {
            let words = format!("handover {} was not committed", record.number);
            let refusal = Refusal::new(Reason::NothingToRollBack, words).about(record.number);
            return Err(refusal.compare(Outcome::Committed, record.outcome));
        }
        if record.source.is_none() || record.target.is_none() {
            let words = format!("{} {} had no owner before it, or none after it", record.kind, record.number);
            return Err(Refusal::new(Reason::NothingToRollBack, words).about(record.number));
        }
        Ok(record)
    }

    /// Closes what the arbiter before this one left running, as the region says it went. Answers with those numbers.
    pub(crate) fn close_running(&mut self, ground: &mut dyn Ground, now_ms: u64) -> Vec<u64> {
        let sealed = ground.sealed();
        let open: Vec<u64> = self.iter().filter(|r| !r.is_decided()).map(|r| r.number).collect();
        // A reset goes past whatever was sealed; only what was open when the host went was committed.
        let newest = sealed.reset.unwrap_or(sealed.generation);
        for &number in &open {
            self.edit(number, |record| {
                // One switch at a time: if the generation moved on, this is the one that moved it.
                if newest > record.previous_generation {
                    record.outcome = Outcome::Committed;
                    record.phase = Phase::Drain;
                    record.generation = record.previous_generation.saturating_add(1);
                    if record.generation == sealed.generation {
                        record.root_digest = sealed.root_digest;
                    }
                    record.message = "committed; its figures were lost with the arbiter".into();
                } else {
                    record.outcome = Outcome::Aborted;
                    record.reason = Some(Reason::SidecarRestarted);
                    record.generation = record.previous_generation;
                    // What began after the reset was not cut short by it.
                    record.message = match sealed.reset {
                        Some(_) if record.previous_generation < sealed.generation => {
                            "the host went down before a commit was on its disk".into()
                        }
                        _ => "the arbiter stopped before the commit".into(),
                    };
                    record.end_unix_ms = Some(now_ms);
                }
            });
            self.save(ground, number);
        }
        for &number in &open {
            let undone = self.get(number).filter(|r| r.outcome == Outcome::Committed).and_then(|r| r.rolls_back);
            if let Some(undone) = undone {
                self.edit(undone, |record| record.rolled_back_by = Some(number));
                self.save(ground, undone);
            }
        }
        open
    }
}

//! What one attachment shares between its handles, its control thread and its watcher.
//!
//! Invariants:
//! - **Ownership is learned from the region, never from a message**: [`Session::refresh`] asks gate and superblock, and
//!   anybody may call it at any time. `owned` is the newest generation learned to be ours and not given up since; it is
//!   stored after the change was published, so whoever holds a term finds the watch showing it.
//! - **Leaving is final.** Once `left` is set the role is `Left` for ever, no term is given out and hooks are gone.
//! - Nothing here blocks on the sidecar: the state's lock is held for a few loads and stores, never over a call into
//!   user code, the network, or a wait at the gate.
//!
//! If this process dies anywhere, the region knows nothing of all this: its row and lanes say what the arbiter needs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use heirloom_region::error::{Error, Generation, Misuse, NotOwner, Peer};
use heirloom_region::process::Process;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::facts::{Facts, FactsCache, Hint};
use crate::hooks::Hooks;
use crate::net::{Net, Shared};
use crate::registry::Registry;
use crate::role::{Link, Role, RoleChange};
use crate::series::Reader;
use crate::serving::Left;
use crate::term::Term;
use crate::work::Work;

/// Terms learned and not yet asked for; older ones are over anyhow.
const TERMS_MAX: usize = 16;

mod learn;

pub(crate) use learn::owner_peer;

pub(crate) struct Session {
    pub(crate) process: Arc<Process>,
    region: String,
    me: Peer,
    local: bool,
    /// Of the control thread: where hooks run that have no runtime of their own.
    pub(crate) control: Handle,
    owned: AtomicU64,
    /// Terms up to this generation are over for this process, whatever the gate says.
    over: AtomicU64,
    state: Mutex<State>,
    roles: watch::Sender<RoleChange>,
    outcome: watch::Sender<Option<Left>>,
    terms: Notify,
    told_ready: watch::Sender<bool>,
    /// The control thread has something to say, or to find out.
    pub(crate) poke: Notify,
    /// The last piece of work in flight is worth a poke: somebody waits for the drain.
    waits_for_work: AtomicBool,
    facts: FactsCache,
    pub(crate) work: Work,
    pub(crate) registry: Registry,
    /// All handles to the series share one index.
    pub(crate) series: OnceLock<Reader>,
    pub(crate) net: Arc<Net>,
}

pub(crate) struct State {
    pub(crate) hooks: Hooks,
    /// Where [`Attachment::ready`](crate::Attachment::ready) was awaited.
    pub(crate) runtime: Option<Handle>,
    pub(crate) ready: bool,
    pub(crate) leaving: Option<Leaving>,
    /// Kinds of work that a leaving instance waits for no longer than this.
    pub(crate) drain_within: BTreeMap<&'static str, Duration>,
    pub(crate) link: Link,
    /// Owned last, and not all work of it is done.
    draining: Option<Generation>,
    /// Left behind without a commit: not ours any more, whatever the gate says.
    given_up: u64,
    terms: VecDeque<Generation>,
    left: bool,
}

/// Asked to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    pub(crate) timeout: Duration,
    pub(crate) since: Instant,
    pub(crate) deadline: Instant,
}

/// Who a session is.
pub(crate) struct Identity {
    pub(crate) region: String,
    pub(crate) me: Peer,
    pub(crate) link: Link,
    /// Sockets kept in this process alone, where there is no sidecar.
    pub(crate) sockets: Option<Shared>,
}

impl Session {
    pub(crate) fn new(process: Arc<Process>, who: Identity, control: Handle) -> Arc<Self> {
        let now = RoleChange {
            role: Role::Standby { ready: false },
            generation: process.gate().generation(),
            owner: owner_peer(&process),
        };
        Arc::new(Self {
            net: Net::new(control.clone(), process.incarnation(), who.sockets),
            process,
            region: who.region,
            me: who.me,
            local: who.link == Link::Local,
            control,
            owned: AtomicU64::new(0),
            over: AtomicU64::new(0),
            state: Mutex::new(State {
                hooks: Hooks::new(),
                runtime: None,
                ready: false,
                leaving: None,
                drain_within: BTreeMap::new(),
                link: who.link,
                draining: None,
                given_up: 0,
                terms: VecDeque::new(),
                left: false,
            }),
            roles: watch::Sender::new(now),
            outcome: watch::Sender::new(None),
            terms: Notify::new(),
            told_ready: watch::Sender::new(false),
            poke: Notify::new(),
            waits_for_work: AtomicBool::new(false),
            facts: FactsCache::default(),
            work: Work::default(),
            registry: Registry::default(),
            series: OnceLock::new(),
        })
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }
    pub(crate) fn me(&self) -> &Peer {
        &self.me
    }
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn roles(&self) -> watch::Receiver<RoleChange> {
        self.roles.subscribe()
    }
    pub(crate) fn generation(&self) -> Generation {
        self.process.gate().generation()
    }
    pub(crate) fn link(&self) -> Link {
        self.state().link
    }
    pub(crate) fn set_link(&self, link: Link) {
        let mut state = self.state();
        if !state.left {
            state.link = link;
        }
    }
    /// Nobody else is attached, or will be.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }
    /// This process is a fork of the one that attached: its control thread is not there.
    pub(crate) fn refuse_a_fork(&self) -> Result<(), Misuse> {
        match self.process.is_forked_child() {
            true => Err(Misuse::Forked),
            false => Ok(()),
        }
    }

    /// Whether the open generation is this one, and ours.
    pub(crate) fn owns(&self, generation: Generation) -> bool {
        self.owned.load(Ordering::Acquire) == generation.get() && self.generation() == generation
    }
    /// Whether nothing may be written under `generation` any more: it was given up, or this instance has left. Where no
    /// arbiter is there to close the gate, this ends the work of who goes on until its term is fenced.
    #[inline]
    pub(crate) fn is_over(&self, generation: Generation) -> bool {
        generation.get() <= self.over.load(Ordering::Relaxed)
    }

    /// The role now, also where the watcher has not looked yet.
    pub(crate) fn role(&self) -> Role {
        let gate = self.process.gate();
        if gate.is_detached() {
            return Role::Left;
        }
        let known = self.roles.borrow().clone();
        if known.generation == gate.generation() || known.role == Role::Left {
            return known.role;
        }
        self.refresh();
        self.roles.borrow().role
    }

    /// A new unit of work under the open generation, if it is ours.
    pub(crate) fn term(self: &Arc<Self>) -> Result<Term, NotOwner> {
        let mut generation = self.generation();
        if !self.owns(generation) {
            self.refresh();
            generation = self.generation();
            if !self.owns(generation) {
                return Err(NotOwner { generation, owner: self.roles.borrow().owner.clone() });
            }
        }
        Ok(Term::new(self.clone(), generation))
    }

    /// Changes the state and shows the role that follows from it.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        if !state.left {
            self.publish(&state, self.owned.load(Ordering::Relaxed), self.generation());
        }
        drop(state);
        self.poke.notify_one();
        result
    }

    /// Withdraws or renews readiness.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.change(|s| s.ready = ready);
    }
    /// The arbiter knows that this instance is ready.
    pub(crate) fn tell_ready(&self) {
        self.told_ready.send_if_modified(|told| !std::mem::replace(told, true));
    }
    /// Waits for it; also ends when the instance has left.
    pub(crate) async fn told_ready(&self) {
        // The sender lives in `self`.
        let _ = self.told_ready.subscribe().wait_for(|told| *told).await;
    }
    /// Starts to leave, once.
    pub(crate) fn leave(&self, timeout: Duration) {
        self.process.note_leaving();
        self.change(|s| {
            let since = Instant::now();
            s.leaving.get_or_insert(Leaving { timeout, since, deadline: since + timeout });
        });
    }
    /// Why this instance is not for new traffic, in a word; none while it is: it owns, is ready, and does not leave.
    pub(crate) fn no_traffic(&self) -> Option<&'static str> {
        let role = self.role();
        let state = self.state();
        match role {
            Role::Left => Some("left"),
            _ if state.left => Some("left"),
            _ if state.leaving.is_some() => Some("leaving"),
            Role::Owner(_) if state.ready => None,
            Role::Owner(_) => Some("withdrawn"),
            Role::Draining(_) => Some("draining"),
            Role::Standby { .. } if !state.ready => Some("not_ready"),
            Role::Standby { .. } => Some("standby"),
        }
    }
    /// Owned before, and not everything of it is done.
    pub(crate) fn draining(&self) -> Option<Generation> {
        self.state().draining
    }
    /// What was begun under `generation` is done.
    pub(crate) fn drained(&self, generation: Generation) {
        self.change(|s| {
            if s.draining == Some(generation) {
                s.draining = None;
            }
        });
    }
    /// Ends the term without a commit: the flush is done, no arbiter is there, and this process is about to go.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        let owned = self.owned.swap(0, Ordering::AcqRel);
        state.given_up = state.given_up.max(owned);
        self.over.fetch_max(owned, Ordering::Relaxed);
        if owned != 0 {
            state.draining = Some(Generation::new(owned));
        }
        self.publish(&state, 0, self.generation());
        drop(state);
        self.poke.notify_one();
    }
    /// The last word: no more terms, no more hooks.
    pub(crate) fn finish(&self, mut left: Left) {
        let mut state = self.state();
        if std::mem::replace(&mut state.left, true) {
            return;
        }
        self.owned.store(0, Ordering::Release);
        self.over.store(u64::MAX, Ordering::Relaxed);
        state.link = Link::Closed(Instant::now());
        let hooks = std::mem::take(&mut state.hooks);
        if left.owner.is_none() {
            left.owner = self.roles.borrow().owner.clone().filter(|owner| *owner != self.me);
        }
        self.publish(&state, 0, self.generation());
        drop(state);
        drop(hooks); // may hold a region, whose last clone this may be
        self.net.disconnect();
        self.outcome.send_replace(Some(left));
        self.terms.notify_one();
        self.tell_ready();
        self.poke.notify_one();
    }
    /// Ends the session at once, with everything that it could still write.
    pub(crate) fn cut(&self, why: String) {
        self.finish(Left { owner: None, undrained: self.work.total(), why: Some(why) });
    }
    pub(crate) fn has_left(&self) -> bool {
        self.state().left
    }

    /// Waits for the last word.
    pub(crate) async fn left(&self) -> Left {
        let mut outcome = self.outcome.subscribe();
        loop {
            if let Some(left) = outcome.borrow_and_update().clone() {
                return left;
            }
            // The sender lives in `self`.
            let _ = outcome.changed().await;
        }
    }

    /// The next term learned and not yet given out; `None` after the last word.
    pub(crate) async fn next_term(self: &Arc<Self>) -> Option<Term> {
        loop {
            let more = self.terms.notified();
            {
                let mut state = self.state();
                if state.left {
                    return None;
                }
                if let Some(generation) = state.terms.pop_front() {
                    return Some(Term::new(self.clone(), generation));
                }
            }
            more.await;
        }
    }

    /// Called when nothing is in flight any more.
    pub(crate) fn last_work_done(&self) {
        if self.waits_for_work.load(Ordering::Acquire) {
            self.poke.notify_one();
        }
    }

    /// What is known of how `generation` began.
    pub(crate) fn facts(&self, generation: Generation) -> Facts {
        self.facts.of(&self.process, generation)
    }
    /// Keeps what a message says of a generation, for [`Session::facts`] alone.
    pub(crate) fn hint(&self, hint: Hint) {
        self.facts.hint(hint);
    }

    /// For calls that open objects.
    pub(crate) fn opens(&self) -> Result<&Arc<Process>, Error> {
        self.refuse_a_fork()?;
        Ok(&self.process)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("region", &self.region).field("me", &self.me.instance).finish()
    }
}

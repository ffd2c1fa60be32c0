//! How an embedded instance speaks to its arbiter: in order, and so that no full queue drops a word.
//!
//! The arbiter has room for one message of each stream whatever else waits for it, if the sender says nothing more until that
//! one was taken. So the next message is given to it when it has taken the one before, from its own thread. What is said is
//! coalesced by the control thread, so what waits here stays short though it has no bound.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom_region::arbiter::{FromInstance, Voice};

use super::ArbiterRef;

/// One instance's words.
pub(super) struct Speech {
    arbiter: ArbiterRef,
    /// The next word is given from the arbiter's own thread, which must never be the last to hold the arbiter: whoever drops it
    /// waits for that thread, and has the region free then.
    voice: Option<Voice>,
    incarnation: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<FromInstance>,
    /// One is under way.
    speaking: bool,
    /// Nothing more comes.
    ended: bool,
}

impl Speech {
    pub(super) fn new(arbiter: ArbiterRef, incarnation: u64) -> Arc<Self> {
        let voice = arbiter.get().map(|inner| inner.arbiter().voice());
        Arc::new(Self { arbiter, voice, incarnation, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something after all that was said before; `false` when the arbiter is gone.
    pub(super) fn say(self: &Arc<Self>, message: FromInstance) -> bool {
        if self.arbiter.get().is_none() {
            return false;
        }
        let mut state = self.state();
        state.waiting.push_back(message);
        if !std::mem::replace(&mut state.speaking, true) {
            drop(state);
            self.next();
        }
        true
    }

    /// The last word: the arbiter hears of the end after everything that was said.
    pub(super) fn end(self: &Arc<Self>) {
        let mut state = self.state();
        state.ended = true;
        if !std::mem::replace(&mut state.speaking, true) {
            drop(state);
            self.next();
        }
    }

    /// The arbiter has taken what was said.
    fn next(self: &Arc<Self>) {
        let Some(voice) = &self.voice else { return };
        let message = {
            let mut state = self.state();
            let message = state.waiting.pop_front();
            state.speaking = message.is_some();
            if message.is_none() && !state.ended {
                return;
            }
            message
        };
        match message {
            Some(message) => {
                let speech = Arc::clone(self);
                voice.message_taken(self.incarnation, message, Box::new(move |()| speech.next()));
            }
            None => voice.disconnected(self.incarnation),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heirloom_region::arbiter::{Arbiter, Hello, ToInstance};
    use tokio::sync::mpsc;

    use super::super::{Ear, Live};
    use super::*;
    use crate::in_process::InProcess;

    const SOON: Duration = Duration::from_secs(20);

    /// An arbiter that does nothing but wait, and a queue without room.
    fn overrun(arbiter: &Arbiter) -> std::sync::mpsc::Sender<()> {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = std::sync::mpsc::channel();
        arbiter.status(Box::new(move |_| {
            let _ = begun.send(());
            let _ = wait.recv_timeout(SOON);
        }));
        has_begun.recv_timeout(SOON).expect("the arbiter runs");
        (0..20_000).for_each(|_| arbiter.status(Box::new(|_| ())));
        go
    }

    #[test]
    fn a_full_queue_drops_no_word() {
        let inner = InProcess::on_the_heap("shop", None).unwrap();
        let (ear, incoming) = mpsc::unbounded_channel();
        let hello = Hello { version: "v1".into(), ..Hello::default() };
        let welcome = Arbiter::ask(SOON, |reply| inner.arbiter().attach(hello, None, Box::new(Ear(ear)), reply));
        let incarnation = welcome.unwrap().unwrap().incarnation;
        let mut live = Live::embedded(incoming, ArbiterRef::Owned(inner.clone()), incarnation);
        let ready = |ready| FromInstance::Ready { ready, message: String::new(), hooks: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let hear = |live: &mut Live| {
            let noted = async {
                loop {
                    if let ToInstance::ReadyNoted { ready } = live.hear().await.expect("a link") {
                        return ready;
                    }
                }
            };
            runtime.block_on(async { tokio::time::timeout(SOON, noted).await.expect("an answer") })
        };
        let go = overrun(inner.arbiter());
        for said in [true, false, true] {
            assert!(live.say(ready(said)));
        }
        go.send(()).unwrap();
        assert!(hear(&mut live) && !hear(&mut live) && hear(&mut live), "in order");

        // What is said before the link ends is heard, too; the end is heard last.
        let go = overrun(inner.arbiter());
        assert!(live.say(ready(false)) && live.say(ready(true)));
        drop(live);
        go.send(()).unwrap();
        // None while its queue is still full.
        let status = || Some(Arbiter::ask(SOON, |reply| inner.arbiter().status(reply))?.instances.remove(0));
        let deadline = std::time::Instant::now() + SOON;
        // The end is known as soon as an answer does not arrive, before the last word is heard.
        while !status().is_some_and(|last| !last.connected && last.ready) {
            assert!(std::time::Instant::now() < deadline, "the arbiter hears of the last word and of the end");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_said_does_not_keep_the_arbiter_while_it_hears() {
        let inner = InProcess::on_the_heap("shop", None).unwrap();
        let (ear, mut heard) = mpsc::unbounded_channel();
        let hello = Hello { version: "v1".into(), ..Hello::default() };
        let welcome = Arbiter::ask(SOON, |reply| inner.arbiter().attach(hello, None, Box::new(Ear(ear)), reply));
        let incarnation = welcome.unwrap().unwrap().incarnation;
        let speech = Speech::new(ArbiterRef::Owned(inner.clone()), incarnation);
        let go = overrun(inner.arbiter());
        assert!(speech.say(FromInstance::Ready { ready: true, message: String::new(), hooks: None }));
        let before = Arc::strong_count(&inner);
        let state = speech.state();
        go.send(()).unwrap();
        while !matches!(heard.blocking_recv(), Some(ToInstance::ReadyNoted { .. })) {}
        // Its thread comes to ask for the next word now, and waits here. Who drops the arbiter must be the last to hold it: only
        // then is it awaited, and its region free.
        let until = std::time::Instant::now() + Duration::from_millis(300);
        while std::time::Instant::now() < until {
            assert_eq!(Arc::strong_count(&inner), before, "its own thread holds it");
            std::thread::yield_now();
        }
        drop(state);
    }
}

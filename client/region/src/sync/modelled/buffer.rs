//! Store buffers, one for each thread that has asked for one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::PoisonError;

use loom::sync::atomic as checked;

use super::{Memory, Ordering, now};

/// Stores on their way to memory.
pub(crate) struct Buffer {
    pub(super) waiting: RefCell<VecDeque<(usize, u64)>>,
    /// One store on its way at a time.
    way: loom::sync::Mutex<()>,
    /// So that loom tries who drains before and after each store.
    pub(super) turn: checked::AtomicU64,
}

loom::thread_local! {
    static MINE: RefCell<Option<Rc<Buffer>>> = RefCell::new(None);
}

/// None also at the thread's very end: it has drained its buffer by then.
pub(super) fn my_buffer() -> Option<Rc<Buffer>> {
    MINE.try_with(|mine| mine.borrow().clone()).ok().flatten()
}

/// What `membarrier` does: every thread's stores so far are in memory, and each thread loads anew. False where there is none: it
/// acts on other threads, which C11 has no words for. `None` outside of a model.
pub(crate) fn membarrier() -> Option<bool> {
    let (memory, buffers) = now(|execution| (execution.memory, execution.buffers.clone()))?;
    buffers.iter().for_each(|buffer| buffer.drain());
    Some(memory == Memory::Tso)
}

/// The calling thread's stores wait in a buffer from here on, until it ends them by [`fence`].
pub(crate) fn buffer_stores(buffer: &Rc<Buffer>) {
    MINE.with(|mine| *mine.borrow_mut() = Some(Rc::clone(buffer)));
    now(|execution| execution.buffers.push(Rc::clone(buffer)));
}

impl Buffer {
    /// To be made before threads are.
    pub(crate) fn new() -> Rc<Self> {
        let (way, turn) = (loom::sync::Mutex::new(()), checked::AtomicU64::new(0));
        Rc::new(Self { waiting: RefCell::default(), way, turn })
    }
    /// Lets at most so many stores out, each whenever it likes.
    pub(crate) fn drain_some(&self, stores: usize) {
        for _ in 0..stores {
            self.turn.fetch_add(1, Ordering::AcqRel);
            self.pop();
        }
    }
}

impl Buffer {
    fn pop(&self) -> bool {
        let _way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, value)) = self.waiting.borrow().front().copied() else { return false };
        if let Some(Some(word)) = now(|execution| execution.words.get(&at).cloned()) {
            word.value.swap(value, Ordering::AcqRel);
        }
        // Its own thread has found it here until now.
        self.waiting.borrow_mut().pop_front();
        true
    }
    pub(super) fn drain(&self) {
        while self.pop() {}
    }
}

//! Running a future without an executor.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Runs one of this crate's futures to its end on the calling thread, without any executor.
///
/// ```
/// assert_eq!(heirloom_client::wait(async { 6 * 7 }), 42);
/// ```
///
/// # Panics
/// Within an async runtime's worker thread, where it would stall the worker. (tokio's are recognised; its blocking threads
/// are not workers.)
pub fn wait<F: Future>(future: F) -> F::Output {
    refuse_on_a_worker();
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            // A wake between the poll and this line is a token that makes `park` return at once.
            Poll::Pending => thread::park(),
        }
    }
}

/// tokio alone knows whether this thread may block: `blocking_recv` of a value that is there already asks it.
fn refuse_on_a_worker() {
    let (full, empty) = tokio::sync::oneshot::channel();
    let _ = full.send(());
    let _ = empty.blocking_recv();
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_from_another_thread() {
        let (send, receive) = tokio::sync::oneshot::channel();
        let other = thread::spawn(move || send.send(7));
        assert_eq!(wait(receive), Ok(7));
        assert_eq!(other.join().ok(), Some(Ok(())));
    }

    #[test]
    fn a_worker_is_refused_and_a_blocking_thread_is_not() {
        let rt = tokio::runtime::Runtime::new().expect("a runtime");
        let refused = rt.block_on(async { tokio::spawn(async { wait(async {}) }).await });
        assert!(refused.is_err_and(|e| e.is_panic()));
        let allowed = rt.block_on(async { tokio::task::spawn_blocking(|| wait(async { 1 })).await });
        assert!(allowed.is_ok_and(|n| n == 1));
    }
}

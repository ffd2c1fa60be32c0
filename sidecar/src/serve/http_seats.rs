//! Which connections keep us waiting, and since when: from their beginning, and again from when all of an answer was sent.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// The connections that we wait for, in the order in which that began.
#[derive(Default)]
pub(super) struct Seats {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    by_turn: BTreeMap<u64, Waits>,
}

struct Waits {
    since: Instant,
    /// How it is told to close.
    close: Arc<Notify>,
}

impl Seats {
    /// Closes the connection that has kept us waiting the longest, as soon as one has for longer than `fresh`; then completes
    /// never, for it is its end that makes room. Completes to be called again where that is not so yet.
    pub(super) async fn make_room(&self, fresh: Duration) {
        let oldest = self.lock().by_turn.first_key_value().map(|(_, waits)| waits.since);
        match oldest.map(|since| fresh.saturating_sub(since.elapsed())) {
            None => self.more.notified().await,
            Some(Duration::ZERO) => {
                if let Some((_, waits)) = self.lock().by_turn.pop_first() {
                    waits.close.notify_one();
                }
                std::future::pending().await
            }
            Some(left) => tokio::time::sleep(left).await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place among them.
pub(super) struct Seat {
    all: Arc<Seats>,
    close: Arc<Notify>,
    /// Its turn, if we wait for it.
    turn: Mutex<Option<u64>>,
    /// An answer is whole, and not all of it may have been sent.
    answered: AtomicBool,
}

impl Seat {
    /// Of a new connection, for whose first request we wait.
    pub(super) fn of(all: &Arc<Seats>) -> Arc<Seat> {
        let seat = Arc::new(Seat {
            all: Arc::clone(all),
            close: Arc::default(),
            turn: Mutex::default(),
            answered: AtomicBool::new(false),
        });
        seat.wait();
        seat
    }

    /// Its answer is whole: once that was sent we wait for its next request.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    fn sent(&self) {
        if self.answered.swap(false, Ordering::Relaxed) {
            self.wait();
        }
    }

    fn wait(&self) {
        let mut turn = self.turn();
        if turn.is_none() {
            let mut waiting = self.all.lock();
            waiting.last += 1;
            *turn = Some(waiting.last);
            let number = waiting.last;
            waiting.by_turn.insert(number, Waits { since: Instant::now(), close: Arc::clone(&self.close) });
            self.all.more.notify_one();
        }
    }

    /// It waits for us, and is not closed before it waits again; false: it is closing already.
    pub(super) fn serve(&self) -> bool {
        // Of the answer before this request: it makes no difference any more.
        self.answered.store(false, Ordering::Relaxed);
        let turn = self.turn().take();
        turn.is_none_or(|turn| self.all.lock().by_turn.remove(&turn).is_some())
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.turn().is_some()
    }

    /// Completes when it is to close.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    fn turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.serve();
    }
}

/// A connection's bytes; it tells the seat when all that was to be sent has been.
pub(super) struct Line<S> {
    stream: S,
    seat: Arc<Seat>,
}

impl<S> Line<S> {
    pub(super) fn new(stream: S, seat: Arc<Seat>) -> Self {
        Self { stream, seat }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when nothing is left in the buffers above.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.seat.sent();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

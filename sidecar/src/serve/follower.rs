//! The events of one handover on their way from the arbiter's thread to one caller: a bounded queue.
//!
//! Whoever reads too slowly is let go by the arbiter at once, gets what waits, and is told so at the end: no caller can make
//! this process hold more than [`EVENTS_MAX`] events for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;
use heirloom_region::arbiter::{HandoverEvent, Observer};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Events that wait for a follower at most.
const EVENTS_MAX: usize = 256;

/// The reading end.
pub(crate) struct Events {
    waiting: mpsc::Receiver<HandoverEvent>,
    lagged: Arc<AtomicBool>,
}

/// What the arbiter tells, and who reads it.
pub(crate) fn follower() -> (Observer, Events) {
    let (tell, waiting) = mpsc::channel(EVENTS_MAX);
    let lagged = Arc::new(AtomicBool::new(false));
    let lags = Arc::clone(&lagged);
    let observer =
        Box::new(move |event: Option<HandoverEvent>| match event.map_or(Ok(()), |event| tell.try_send(event)) {
            Ok(()) if tell.is_closed() => false,
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                lags.store(true, Ordering::Release);
                false
            }
            Err(TrySendError::Closed(_)) => false,
        });
    (observer, Events { waiting, lagged })
}

impl Events {
    /// The next event; `None` when the handover is over, the arbiter is gone, or this follower was let go.
    pub(crate) async fn recv(&mut self) -> Option<HandoverEvent> {
        self.waiting.recv().await
    }

    /// What waits already.
    pub(crate) fn try_recv(&mut self) -> Option<HandoverEvent> {
        self.waiting.try_recv().ok()
    }

    /// Why the events ended, if it was for reading too slowly.
    ///
    /// # Errors
    /// `TABLE_FULL`.
    pub(crate) fn complete(&self, region: &str) -> Result<(), Failure> {
        if !self.lagged.load(Ordering::Acquire) {
            return Ok(());
        }
        let failure = Failure::new(ErrorReason::TableFull, "this follower read too slowly and was let go: follow anew");
        Err(failure.expected(format!("at most {EVENTS_MAX} events waiting")).found("more").region(region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_nothing_is_let_go_and_told_so_at_the_end() {
        let (mut tell, mut events) = follower();
        for n in 0..EVENTS_MAX {
            assert!(tell(Some(HandoverEvent { sequence: n as u64, ..HandoverEvent::default() })));
        }
        assert_eq!(events.complete("shop"), Ok(()));
        assert!(!tell(Some(HandoverEvent::default())), "the arbiter lets it go");
        drop(tell);
        let mut read = 0;
        while let Some(event) = events.recv().await {
            assert_eq!(event.sequence, read);
            read += 1;
        }
        assert_eq!(read, EVENTS_MAX as u64, "what waited is not lost");
        let failure = events.complete("shop").unwrap_err();
        assert_eq!((failure.reason, failure.region.as_deref()), (ErrorReason::TableFull, Some("shop")));
    }

    #[tokio::test]
    async fn who_has_gone_is_let_go_without_a_word() {
        let (mut tell, events) = follower();
        let lagged = Arc::clone(&events.lagged);
        drop(events);
        assert!(!tell(None) && !tell(Some(HandoverEvent::default())) && !lagged.load(Ordering::Acquire));
    }
}

//! Descriptors: as many as this process may have, and a listener that cannot accept for want of one pauses instead of asking
//! again at once.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_stream::{Stream, StreamExt as _};

/// After a failed accept, which mostly is one for want of descriptors.
pub(super) const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Takes as many descriptors as this process may have: an instance costs two, and the usual soft limit is for `select`.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The same connections, with a pause after each that could not be accepted.
pub(super) fn paced<T: Send + 'static>(
    incoming: impl Stream<Item = io::Result<T>> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = io::Result<T>> + Send>> {
    Box::pin(incoming.then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
        accepted
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_cannot_accept_pauses() {
        let errors = std::iter::repeat_with(|| Err::<(), _>(io::Error::other("no descriptors"))).take(3);
        let begin = tokio::time::Instant::now();
        let all: Vec<_> = paced(tokio_stream::iter(errors.collect::<Vec<_>>())).collect().await;
        assert!(all.len() == 3 && begin.elapsed() >= 3 * ACCEPT_AGAIN);
    }
}

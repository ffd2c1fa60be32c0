//! `STREAMED_XOR_CHUNKS`: the region's chunk bytes as they are, framed. Nothing is decoded, and no more than a few frames are in
//! memory, however much is asked for.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use heirloom_client::Error;
use heirloom_client::error::Incompatible;
use heirloom_client::series::{Series, Store};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::read::{NoAnswer, Query, labels};
use super::wire::{self, Chunk, ChunkedReadResponse, ChunkedSeries, chunk::Encoding};

/// A frame of more chunk bytes than this ends; the series goes on in the next one. Prometheus' own limit.
const FRAME_BYTES: usize = 1 << 20;
/// Frames on their way.
const FRAMES_AHEAD: usize = 4;

type Frames = mpsc::Sender<Result<Bytes, Error>>;

/// The answer. What fails before the first frame has a status; a stream that fails later is cut, so that no client takes it for
/// whole.
pub(super) async fn answer(store: Store, queries: Vec<Query>) -> Response {
    let (frames, receiver) = mpsc::channel(FRAMES_AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(Ended::Failed(error)) = send_all(&store, &queries, &frames) {
            // Nobody listens: the client is gone, too.
            let _ = frames.blocking_send(Err(error));
        }
    });
    let mut stream = ReceiverStream::new(receiver);
    let first = match stream.next().await {
        Some(Err(error)) => return NoAnswer::Heirloom(error).into_response(),
        first => tokio_stream::iter(first),
    };
    ([(header::CONTENT_TYPE, wire::STREAMED)], Body::from_stream(first.chain(stream))).into_response()
}

enum Ended {
    ClientGone,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Ended::Failed(error.into())
    }
}

fn send_all(store: &Store, queries: &[Query], frames: &Frames) -> Result<(), Ended> {
    for (index, query) in queries.iter().enumerate() {
        for series in store.select(&query.matchers, query.range.clone())? {
            send_series(&series?, index as i64, frames)?;
        }
    }
    Ok(())
}

/// One series to a frame: readers that follow Prometheus' own server expect no more.
fn send_series(series: &Series, query_index: i64, frames: &Frames) -> Result<(), Ended> {
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    let send = |chunks: Vec<Chunk>| {
        let chunked_series = vec![ChunkedSeries { labels: labels(series.labels()), chunks }];
        let frame = wire::frame(&ChunkedReadResponse { chunked_series, query_index });
        frames.blocking_send(Ok(frame)).map_err(|_| Ended::ClientGone)
    };
    if let Some(encoding) = series.skipped().first() {
        let why = "no chunk encoding of this build".to_owned();
        let name = series.labels().to_string();
        return Err(Ended::Failed(Incompatible::Decode { name, schema: encoding.0.into(), why }.into()));
    }
    for chunk in series.chunks() {
        bytes += chunk.bytes.len();
        chunks.push(Chunk {
            min_time_ms: chunk.min_ms,
            max_time_ms: chunk.max_ms,
            r#type: Encoding::Xor.into(),
            data: chunk.bytes.clone(),
        });
        if bytes >= FRAME_BYTES {
            send(std::mem::take(&mut chunks))?;
            bytes = 0;
        }
    }
    if chunks.is_empty() { Ok(()) } else { send(chunks) }
}

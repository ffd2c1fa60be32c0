//! What a caller is told whose message is above `server.message_max`.
//!
//! The transport refuses such a message before any of our code sees it, as OUT_OF_RANGE and in a sentence. Here that becomes
//! RESOURCE_EXHAUSTED with the reason `MESSAGE_TOO_LARGE`, the limit and what was found.

use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;
use tonic::codegen::http::Response;
use tonic::{Code, Status};

/// The transport's sentence; a test sends a message that is too large and would show another wording.
const SENTENCE: &str = "decoded message length too large: found ";

/// The failure behind a status that the transport made, if it is this one.
pub(crate) fn failure(status: &Status) -> Option<Failure> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let (_, figures) = status.message().split_once(SENTENCE)?;
    let (found, limit) = figures.split_once(", the limit is: ")?;
    let failure = Failure::new(ErrorReason::MessageTooLarge, "the message is larger than this sidecar takes");
    Some(failure.expected(format!("at most {limit}")).found(found))
}

/// Names it in an answer that ends before it began: those that the transport makes by itself.
pub(super) fn named<B>(mut response: Response<B>) -> Response<B> {
    let failure = Status::from_header_map(response.headers()).as_ref().and_then(failure);
    if let Some(failure) = failure {
        // A header that does not fit leaves the transport's own answer, which is true, too.
        let mut headers = response.headers().clone();
        if failure.to_status().add_header(&mut headers).is_ok() {
            *response.headers_mut() = headers;
        }
    }
    response
}

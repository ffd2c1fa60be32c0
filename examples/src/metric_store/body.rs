//! A request's message: headers, size, snappy and protobuf, each with what was expected and what was found.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;

use super::wire::PROTOBUF;

/// Largest body, as it comes.
pub(super) const COMPRESSED_MAX: usize = 16 << 20;
/// Largest message. Asked of snappy's header before a byte is allocated.
pub(super) const MESSAGE_MAX: usize = 64 << 20;

const WRITE_VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// Why a request is not understood. The same request will not be understood later either, so all of these are 4xx.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("content-type: expected {PROTOBUF} with proto=prometheus.WriteRequest or none, found {0:?}")]
    ContentType(String),
    #[error("content-encoding: expected snappy, found {0:?}")]
    Encoding(String),
    #[error("x-prometheus-remote-write-version: expected 0.1.0 or another of 0.1 or 1, found {0:?}")]
    Version(String),
    #[error("the body: expected at most {COMPRESSED_MAX} bytes, found more")]
    BodyTooLarge,
    #[error("the message: expected at most {MESSAGE_MAX} bytes, found {0}")]
    MessageTooLarge(usize),
    #[error("the body: expected snappy's block format: {0}")]
    Snappy(#[from] snap::Error),
    #[error("the body: expected {message}: {error}")]
    Protobuf { message: &'static str, error: prost::DecodeError },
    #[error("the body was not received: {0}")]
    Cut(axum::Error),
}

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        let status = match &self {
            BadRequest::ContentType(_) | BadRequest::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            BadRequest::BodyTooLarge | BadRequest::MessageTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, format!("{self}\n")).into_response()
    }
}

fn value(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Checks that the request is protobuf in snappy, and of the message `proto` if it says which.
///
/// Remote write 2.0 is `application/x-protobuf;proto=io.prometheus.write.v2.Request`; 415 tells its sender to speak 1.0.
pub(super) fn check_media(headers: &HeaderMap, proto: &str) -> Result<(), BadRequest> {
    let found = value(headers, header::CONTENT_TYPE).unwrap_or_default();
    let mut parts = found.split(';').map(str::trim);
    let mut fits = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(PROTOBUF));
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        fits &= !name.trim().eq_ignore_ascii_case("proto") || value.trim().trim_matches('"') == proto;
    }
    if !fits {
        return Err(BadRequest::ContentType(found));
    }
    match value(headers, header::CONTENT_ENCODING) {
        Some(encoding) if encoding.trim().eq_ignore_ascii_case("snappy") => Ok(()),
        other => Err(BadRequest::Encoding(other.unwrap_or_default())),
    }
}

/// Checks the version of remote write. Senders older than the specification sent none.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), BadRequest> {
    match value(headers, WRITE_VERSION) {
        Some(version) if !version.starts_with("0.1.") && !version.starts_with("1.") => {
            Err(BadRequest::Version(version))
        }
        _ => Ok(()),
    }
}

/// Receives and decodes a message.
pub(super) async fn message<M: Message + Default>(
    headers: &HeaderMap,
    body: Body,
    name: &'static str,
) -> Result<M, BadRequest> {
    let announced = value(headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > COMPRESSED_MAX) {
        return Err(BadRequest::BodyTooLarge);
    }
    let body = to_bytes(body, COMPRESSED_MAX).await.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if inner.is::<http_body_util::LengthLimitError>() {
                return BadRequest::BodyTooLarge;
            }
            cause = inner.source();
        }
        BadRequest::Cut(error)
    })?;
    decode(&body, name)
}

fn decode<M: Message + Default>(body: &[u8], name: &'static str) -> Result<M, BadRequest> {
    let length = snap::raw::decompress_len(body)?;
    if length > MESSAGE_MAX {
        return Err(BadRequest::MessageTooLarge(length));
    }
    let bytes = snap::raw::Decoder::new().decompress_vec(body)?;
    M::decode(bytes.as_slice()).map_err(|error| BadRequest::Protobuf { message: name, error })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::super::wire::{TimeSeries, WriteRequest, compressed};
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn status(result: Result<impl Sized, BadRequest>) -> u16 {
        result.err().map_or(200, |bad| bad.into_response().status().as_u16())
    }

    #[test]
    fn media_types_of_other_protocols_are_415() {
        let table = [
            ("application/x-protobuf", "snappy", 200),
            ("application/x-protobuf;proto=prometheus.WriteRequest", "snappy", 200),
            ("Application/X-Protobuf; charset=x; proto=\"prometheus.WriteRequest\"", "Snappy", 200),
            ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "snappy", 415),
            ("application/json", "snappy", 415),
            ("application/x-protobuf", "gzip", 415),
            ("", "snappy", 415),
        ];
        for (kind, encoding, expected) in table {
            let headers = headers(&[("content-type", kind), ("content-encoding", encoding)]);
            assert_eq!(status(check_media(&headers, "prometheus.WriteRequest")), expected, "{kind} {encoding}");
        }
        assert_eq!(status(check_media(&headers(&[("content-type", PROTOBUF)]), "x")), 415, "no encoding");
        for (version, expected) in [("0.1.0", 200), ("1.0.0", 200), ("2.0.0", 400), ("", 400)] {
            let headers = headers(&[("x-prometheus-remote-write-version", version)]);
            assert_eq!(status(check_version(&headers)), expected, "{version}");
        }
        assert_eq!(status(check_version(&HeaderMap::new())), 200);
    }

    #[tokio::test]
    async fn bodies_that_are_none_are_named() {
        let take = async |body: Vec<u8>| {
            message::<WriteRequest>(&HeaderMap::new(), body.into(), "prometheus.WriteRequest").await
        };
        let request = WriteRequest { timeseries: vec![TimeSeries::default()], metadata: vec![] };
        let good = compressed(&request);
        assert_eq!(take(good.clone()).await.expect("good"), request);
        assert!(matches!(take(good[..good.len() - 1].to_vec()).await, Err(BadRequest::Snappy(_))));
        assert!(matches!(take(b"not snappy at all".to_vec()).await, Err(BadRequest::Snappy(_))));
        let no_message = snap::raw::Encoder::new().compress_vec(b"not protobuf").expect("short");
        assert!(matches!(take(no_message).await, Err(BadRequest::Protobuf { .. })));
        // A header that promises 4 GiB is refused before anything is allocated.
        let bomb = take(vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00]).await.expect_err("too large");
        assert!(matches!(bomb, BadRequest::MessageTooLarge(0xffff_ffff)), "{bomb}");
        assert_eq!(bomb.into_response().status(), 413);
        let long = take(vec![0; COMPRESSED_MAX + 1]).await.expect_err("too large");
        assert!(matches!(long, BadRequest::BodyTooLarge), "{long}");
    }
}

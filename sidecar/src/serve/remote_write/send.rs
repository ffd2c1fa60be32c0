//! One request over HTTP, and what its answer means by the remote write specification 1.0.
//!
//! 2xx: taken. 5xx, 429, and everything that is no answer: again, not before the store's Retry-After. Other 4xx: never again,
//! since the same request would be refused each time. A redirect is not followed, and asked again: nothing is given up for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::RemoteWrite;

/// The longest time that a store may ask us to stay away.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Bytes of an answer that are read, for the log.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Characters of an answer that are logged.
const ANSWER_CHARS_MAX: usize = 300;

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    /// Refused for good: the reason as a metric's label has it, and what the store said.
    Refused {
        reason: String,
        message: String,
    },
    /// Perhaps later.
    Again {
        message: String,
        after: Option<Duration>,
    },
}

/// The store, as all shards of all regions see it.
pub(super) struct Store {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    url: Uri,
    headers: HeaderMap,
    token_file: PathBuf,
    timeout: Duration,
}

impl Store {
    /// # Errors
    /// What is wrong with the configuration, in words.
    pub(super) fn new(config: &RemoteWrite) -> Result<Self, String> {
        let url: Uri = config.url.parse().map_err(|e| format!("{}: {e}", config.url))?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls(config)?).https_or_http().enable_http1().build();
        Ok(Store {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url,
            headers: headers(&config.headers)?,
            token_file: config.bearer_token_file.clone(),
            timeout: config.timeout,
        })
    }

    /// Sends one compressed request.
    pub(super) async fn post(&self, body: axum::body::Bytes) -> Answer {
        let again = |message: String| Answer::Again { message, after: None };
        let request = match self.request(body).await {
            Ok(request) => request,
            Err(message) => return again(message),
        };
        let asked = async {
            let answer = self.client.request(request).await.map_err(|e| with_causes(&e))?;
            let (head, body) = answer.into_parts();
            // Read, so that the connection can be used again.
            let body = to_bytes(Body::new(body), ANSWER_BYTES_MAX).await.unwrap_or_default();
            Ok((head, body))
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Err(_) => again(format!("no answer within {:?}", self.timeout)),
            Ok(Err(message)) => again(message),
            Ok(Ok((head, body))) => judge(head.status, &head.headers, &body, SystemTime::now()),
        }
    }

    async fn request(&self, body: axum::body::Bytes) -> Result<Request<Body>, String> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        if !self.token_file.as_os_str().is_empty() {
            let read = tokio::fs::read_to_string(&self.token_file).await;
            let token = read.map_err(|e| format!("{}: {e}", self.token_file.display()))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|e| format!("{}: {e}", self.token_file.display()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

fn headers(more: &BTreeMap<String, String>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in more {
        let name: HeaderName = name.parse().map_err(|e| format!("{name}: {e}"))?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("heirloom/", env!("CARGO_PKG_VERSION"))));
    headers.insert("x-prometheus-remote-write-version", HeaderValue::from_static("0.1.0"));
    Ok(headers)
}

fn tls(config: &RemoteWrite) -> Result<rustls::ClientConfig, String> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    if config.ca_file.as_os_str().is_empty() {
        use hyper_rustls::ConfigBuilderExt as _;
        // Without TLS nobody needs the system's certificates, and a small container has none.
        return match config.url.starts_with("https:") {
            true => Ok(builder.with_native_roots().map_err(|e| e.to_string())?.with_no_client_auth()),
            false => Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()),
        };
    }
    let wrong = |e: String| format!("{}: {e}", config.ca_file.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&config.ca_file).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("expected certificates in PEM, found none".into()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Answer {
    if status.is_success() {
        return Answer::Taken;
    }
    let said: String = String::from_utf8_lossy(body).trim().chars().take(ANSWER_CHARS_MAX).collect();
    let message = format!("{status}: {said}");
    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        return Answer::Refused { reason: format!("http_{}", status.as_u16()), message };
    }
    let after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    Answer::Again { message, after }
}

/// Seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let wait = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_as_the_specification_says() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let judged = |status: u16, after: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            after.map(|after| headers.insert(RETRY_AFTER, HeaderValue::from_static(after)));
            judge(StatusCode::from_u16(status).unwrap(), &headers, b" why\n", now)
        };
        for taken in [200, 204] {
            assert_eq!(judged(taken, None), Answer::Taken);
        }
        for refused in [400, 401, 404, 413] {
            let Answer::Refused { reason, message } = judged(refused, Some("1")) else {
                panic!("{refused} is repeated")
            };
            assert_eq!(reason, format!("http_{refused}"));
            assert!(message.ends_with(": why"), "{message}");
        }
        let seconds = |n| Some(Duration::from_secs(n));
        for (status, after, wait) in [
            (429, Some("7"), seconds(7)),
            (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), seconds(7)),
            (503, Some("Sun, 06 Nov 1994 08:49:00 GMT"), seconds(0)),
            (503, Some("999999999999"), seconds(300)),
            (500, Some("soon"), None),
            (502, None, None),
            (302, None, None),
        ] {
            let Answer::Again { after: found, .. } = judged(status, after) else { panic!("{status} is final") };
            assert_eq!(found, wait, "{status} {after:?}");
        }
    }
}

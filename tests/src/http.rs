//! One GET or POST over HTTP/1.0, without a runtime.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As in 200.
    pub status: u16,
    /// Head, as it came.
    pub head: String,
    /// Body, as text.
    pub body: String,
}

/// `GET path`, with headers such as `"accept: text/plain"`.
///
/// # Errors
/// What went wrong, in words; any status is an answer.
pub fn get(address: SocketAddr, path: &str, headers: &[&str]) -> Result<Answer, String> {
    ask(address, "GET", path, headers, "")
}

/// `POST path` with a body.
///
/// # Errors
/// As [`get`].
pub fn post(address: SocketAddr, path: &str, body: &str) -> Result<Answer, String> {
    ask(address, "POST", path, &["content-type: application/json"], body)
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> Result<Answer, String> {
    let fail = |e: std::io::Error| format!("{method} http://{address}{path}: {e}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(fail)?;
    let mut request = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).map_err(fail)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(fail)?;
    let text = String::from_utf8_lossy(&bytes);
    let found = || format!("{method} http://{address}{path}: expected an HTTP answer, found {text:?}");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(found)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(found)?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

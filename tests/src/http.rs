//! One GET or POST over HTTP/1.0, without a runtime.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer; its body is text, or as it came.
#[derive(Clone, Debug)]
pub struct Answer<B = String> {
    /// As in 200.
    pub status: u16,
    /// Head, as it came.
    pub head: String,
    /// Body.
    pub body: B,
}

/// `GET path`, with headers such as `"accept: text/plain"`.
///
/// # Errors
/// What went wrong, in words; any status is an answer.
pub fn get(address: SocketAddr, path: &str, headers: &[&str]) -> Result<Answer, String> {
    ask(address, "GET", path, headers, b"").map(Answer::into_text)
}

/// `POST path` with a body.
///
/// # Errors
/// As [`get`].
pub fn post(address: SocketAddr, path: &str, body: &str) -> Result<Answer, String> {
    ask(address, "POST", path, &["content-type: application/json"], body.as_bytes()).map(Answer::into_text)
}

/// `METHOD path` with headers and any body.
///
/// # Errors
/// As [`get`]; a body that is shorter than announced is an error too.
pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Result<Answer<Vec<u8>>, String> {
    let fail = |e: std::io::Error| format!("{method} http://{address}{path}: {e}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(fail)?;
    let mut request = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(&[request.as_bytes(), body].concat()).map_err(fail)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(fail)?;
    let found = || {
        let text = String::from_utf8_lossy(&bytes);
        format!("{method} http://{address}{path}: expected an HTTP answer, found {text:?}")
    };
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(found)?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(found)?;
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let body = bytes[end + 4..].to_vec();
    if announced.is_some_and(|length| length != body.len()) {
        return Err(found());
    }
    Ok(Answer { status, head, body })
}

impl Answer<Vec<u8>> {
    fn into_text(self) -> Answer {
        Answer { status: self.status, head: self.head, body: String::from_utf8_lossy(&self.body).into_owned() }
    }
}

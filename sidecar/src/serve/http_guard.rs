//! Who may use the HTTP verbs. Plain HTTP carries no credentials, so they are taken from elsewhere.
//!
//! - **A local process**: the kernel's table of TCP sockets says which uid holds the other end of a loopback connection;
//!   the same allow-list applies to it as on the Unix socket. Another user of this host is no stranger less.
//! - **Another host**: only with the secret of `server.http_token_file` as `Authorization: Bearer …`; without that file,
//!   never.
//! - **A browser** that is led here by a foreign page: a verb must be `application/json`, which such a page cannot send
//!   without a preflight that nobody answers; a foreign `Origin` or `Host` is refused, the latter against rebound names.
//!
//! Reading (`/metrics`, `/sd`, health) is open to whoever reaches the address; `/v1` wants a `Host` of ours.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::{HeaderMap, header};
use heirloom_proto::Failure;
use heirloom_proto::v1::ErrorReason;

use super::peer::AllowList;

/// Decides over the HTTP verbs.
pub(crate) struct Guard {
    pub(crate) allow: AllowList,
    pub(crate) token: Option<String>,
    /// Host name of `server.http_listen`.
    pub(crate) host: String,
}

impl Guard {
    /// The caller's name, as records have it.
    ///
    /// # Errors
    /// `CALLER_DENIED` or `CALLER_UNKNOWN`, with what was wanted.
    pub(crate) fn verb(&self, peer: SocketAddr, local: SocketAddr, headers: &HeaderMap) -> Result<String, Failure> {
        self.same_site(headers)?;
        let json = text(headers, header::CONTENT_TYPE);
        if json.split(';').next().unwrap_or_default().trim() != "application/json" {
            return Err(denied("verbs want a Content-Type that no foreign page may send", "application/json", json));
        }
        if let (Some(token), Some(found)) = (&self.token, text(headers, header::AUTHORIZATION).strip_prefix("Bearer "))
        {
            // Compared whole: the time it takes says nothing about where they differ.
            let same =
                token.len() == found.len() && token.bytes().zip(found.bytes()).fold(0, |d, (a, b)| d | (a ^ b)) == 0;
            return if same {
                Ok("token".into())
            } else {
                Err(denied("the bearer token is wrong", "the configured token", "another"))
            };
        }
        if !peer.ip().to_canonical().is_loopback() {
            let failure =
                denied("verbs from other hosts need server.http_token_file", "a local caller or a token", peer);
            return Err(Failure { reason: ErrorReason::CallerUnknown, ..failure });
        }
        match uid_of(peer, local) {
            Some(uid) if self.allow.allows_uid(uid) => Ok(format!("uid:{uid}")),
            Some(uid) => Err(denied("this caller may not use the sidecar", &self.allow, format!("uid {uid}"))),
            None => Err(denied("nobody on this host holds the other end", &self.allow, peer)),
        }
    }

    /// Refuses what a browser sends on behalf of a foreign page.
    ///
    /// # Errors
    /// `CALLER_DENIED`.
    pub(crate) fn same_site(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let host = text(headers, header::HOST);
        if !self.is_ours(host) {
            return Err(denied("the Host is not this sidecar's", format!("{} or a loopback name", self.host), host));
        }
        if let Some(origin) = headers.get(header::ORIGIN).map(|o| o.to_str().unwrap_or("unreadable")) {
            let expected = format!("http://{host}");
            if origin != expected {
                return Err(denied("the Origin is foreign", expected, origin));
            }
        }
        Ok(())
    }

    /// An address cannot be rebound; a name must be `localhost` or the configured one.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name.parse::<IpAddr>().is_ok() || name == "localhost" || (!self.host.is_empty() && name == self.host)
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn denied(message: &str, expected: impl ToString, found: impl ToString) -> Failure {
    let found = found.to_string();
    Failure::new(ErrorReason::CallerDenied, message).expected(expected).found(if found.is_empty() {
        "none".into()
    } else {
        found
    })
}

/// The uid that holds the socket `peer` with `local` as its other end, both on this host; `None` if nobody does.
fn uid_of(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| uid_in(line, peer, local))
    })
}

/// Only an established socket has a holder: others are the kernel's own and show uid 0.
fn uid_in(line: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (from, to, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != ESTABLISHED || !same(from, peer) || !same(to, local) {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?;
    (inode != "0").then_some(uid)
}

/// `0100007F:1F90` is 127.0.0.1:8080: words of the address in the host's byte order, the port as people write it.
fn same(text: &str, address: SocketAddr) -> bool {
    let Some((ip, port)) = text.split_once(':') else { return false };
    if u16::from_str_radix(port, 16) != Ok(address.port()) {
        return false;
    }
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|i| u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_le_bytes))
        .collect();
    let found = match words.as_deref() {
        Some([word]) => IpAddr::V4(Ipv4Addr::from(*word)),
        Some([a, b, c, d]) => {
            let mut octets = [0; 16];
            [a, b, c, d].iter().enumerate().for_each(|(i, word)| octets[i * 4..i * 4 + 4].copy_from_slice(*word));
            IpAddr::from(octets).to_canonical()
        }
        _ => return false,
    };
    found == address.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn guard(uids: &[u32], token: Option<&str>) -> Guard {
        Guard { allow: AllowList::only(uids), token: token.map(str::to_owned), host: "sidecar.local".into() }
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in [("host", "127.0.0.1:7431"), ("content-type", "application/json")].iter().chain(pairs) {
            all.insert(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        all
    }

    /// Both ends of a real connection, and our uid.
    fn connection(address: &str) -> (TcpStream, TcpStream, u32) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server, nix::unistd::geteuid().as_raw())
    }

    #[test]
    fn a_local_caller_is_known_by_its_uid() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server, uid) = connection(address);
            let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(guard(&[uid], None).verb(peer, local, &headers(&[])).unwrap(), format!("uid:{uid}"));
            let other = guard(&[uid + 1], None).verb(peer, local, &headers(&[])).unwrap_err();
            assert_eq!((other.reason, other.found), (ErrorReason::CallerDenied, Some(format!("uid {uid}"))));
            drop(client);
            assert!(guard(&[0, uid], None).verb(peer, local, &headers(&[])).is_err(), "nobody holds the other end");
        }
    }

    #[test]
    fn another_host_needs_the_token() {
        let (peer, local) = ("192.0.2.7:4000".parse().unwrap(), "192.0.2.1:7431".parse().unwrap());
        let bearer = headers(&[("authorization", "Bearer 0123456789abcdef")]);
        let wrong = headers(&[("authorization", "Bearer 0123456789abcdeX")]);
        let with = guard(&[0], Some("0123456789abcdef"));
        assert_eq!(with.verb(peer, local, &bearer).unwrap(), "token");
        assert_eq!(with.verb(peer, local, &wrong).unwrap_err().reason, ErrorReason::CallerDenied);
        assert_eq!(with.verb(peer, local, &headers(&[])).unwrap_err().reason, ErrorReason::CallerUnknown);
        assert_eq!(guard(&[0], None).verb(peer, local, &bearer).unwrap_err().reason, ErrorReason::CallerUnknown);
    }

    #[test]
    fn what_a_foreign_page_can_send_is_refused() {
        let guard = guard(&[0], None);
        let (peer, local) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        for (bad, found) in [
            (("content-type", "text/plain"), "text/plain"),
            (("origin", "http://evil.example"), "http://evil.example"),
            (("origin", "null"), "null"),
            (("host", "evil.example:7431"), "evil.example:7431"),
        ] {
            let refused = guard.verb(peer, local, &headers(&[bad])).unwrap_err();
            assert_eq!(refused.found.as_deref(), Some(found));
        }
        for host in ["localhost", "localhost:7431", "[::1]:7431", "127.0.0.1", "10.0.0.7:7431", "sidecar.local:7431"] {
            let origin = format!("http://{host}");
            assert_eq!(guard.same_site(&headers(&[("host", host), ("origin", &origin)])), Ok(()), "{host}");
        }
    }
}

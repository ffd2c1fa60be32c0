//! HAProxy's configuration for metric-store: writes go to the owner, reads to every instance that runs.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// The configuration, for [`Gateway::configured`](crate::gateway::Gateway::configured).
///
/// A write may reach the version that does not own, between the commit and the next health check. It is answered 503 and
/// has changed nothing, so HAProxy sends it again, to the other one; so it does with one whose answer was cut off, since a
/// sample that is in already is accepted. For that HAProxy has to keep the request: hence the large buffers.
pub fn configuration(listen: SocketAddr, servers: &[SocketAddr]) -> String {
    let mut text = format!(
        "global
    maxconn 200
    log stdout format raw local0 notice
    spread-checks 0
    tune.bufsize 262144

defaults
    mode http
    timeout connect 100ms
    timeout client 30s
    timeout server 30s
    timeout check 500ms
    timeout queue 5s
    option redispatch 1
    retries 10
    retry-on conn-failure empty-response response-timeout 503

frontend metric-store
    bind {listen}
    acl to-the-owner path /api/v1/write /ready
    use_backend owner if to-the-owner
    default_backend all
"
    );
    for (backend, check) in [("owner", "/ready"), ("all", "/-/ready")] {
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "
backend {backend}
    balance roundrobin
    option httpchk
    http-check send meth GET uri {check}
    http-check expect status 200
    default-server check inter 20ms fall 3 rise 1 init-addr none
"
        );
        for (i, server) in servers.iter().enumerate() {
            let _ = writeln!(text, "    server v{} {server}", i + 1);
        }
    }
    text
}

//! The axum adapter over real loopback sockets: no request is cut by a switch, strays end at the owner.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use heirloom_client::axum::{Refused, probe, probe_standing, serve};
use heirloom_client::embedded::Embedded;
use heirloom_client::{Cell, Error, Hooks, Left, Region, Serving, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tower::ServiceExt;

type Result<T = (), E = Box<dyn StdError + Send + Sync>> = std::result::Result<T, E>;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct App {
    region: Region,
    log: Cell<Vec<String>>,
    /// Held by a request of `/slow` until it is told to go on.
    slow: Arc<Notify>,
    began: Arc<Notify>,
}

impl FromRef<App> for Region {
    fn from_ref(app: &App) -> Region {
        app.region.clone()
    }
}

async fn put(term: Term, State(app): State<App>, line: String) -> Result<String, Refused> {
    app.log.update(&term, |log| log.push(line))?;
    Ok(app.region.me().version.clone())
}

/// Takes its term first and writes last: a switch in between fences it.
async fn slow(term: Term, State(app): State<App>, line: String) -> Result<String, Refused> {
    app.began.notify_one();
    app.slow.notified().await;
    app.log.update(&term, |log| log.push(line))?;
    Ok(app.region.me().version.clone())
}

async fn show(State(app): State<App>) -> Result<String, Refused> {
    Ok(app.log.load()?.join(","))
}

struct Version {
    app: App,
    at: SocketAddr,
    listener: Arc<TcpListener>,
    stop: Arc<Notify>,
    served: JoinHandle<Result<Left, Error>>,
}

/// An instance that serves; `other` is where the other one does.
async fn version(arbiter: &Embedded, v: &str, listener: TcpListener, other: Option<SocketAddr>) -> Result<Version> {
    let (at, listener) = (listener.local_addr()?, Arc::new(listener));
    let shop = arbiter.attach(v).await?;
    let app = App {
        region: shop.region().clone(),
        log: shop.region().cell("log").open()?,
        slow: Arc::default(),
        began: Arc::default(),
    };
    let routes = Router::new().route("/", get(show).post(put)).route("/slow", post(slow)).with_state(app.clone());
    let serving = shop.ready(Hooks::new()).await?;
    // The first one is made owner by a switch, and a second one is refused while it lasts.
    let mut roles = app.region.roles();
    while roles.current().owner.is_none() {
        tokio::time::timeout(SOON, roles.changed()).await?.ok_or("left")?;
    }
    let stop = Arc::new(Notify::new());
    serving.leave_when(stop.clone().notified_owned());
    let http = listener.clone();
    let served = tokio::spawn(serving.run(move |term| {
        let serve = serve(term, &http, routes.clone()).linger(Duration::from_millis(300));
        match other {
            Some(other) => serve.owner_at(move |_| Some(other)),
            None => serve,
        }
    }));
    Ok(Version { app, at, listener, stop, served })
}

async fn listener() -> Result<TcpListener> {
    Ok(TcpListener::bind("127.0.0.1:0").await?)
}

struct Answer {
    status: StatusCode,
    closes: bool,
    retry_after: Option<String>,
    body: String,
}

/// A kept-alive HTTP/1.1 connection, by hand, so that nothing retries behind the test's back.
struct Client(TcpStream);

impl Client {
    async fn to(at: SocketAddr) -> Result<Self> {
        Ok(Client(TcpStream::connect(at).await?))
    }
    async fn send(&mut self, method: &str, path: &str, body: &str) -> Result {
        let len = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {len}\r\n\r\n{body}");
        Ok(self.0.write_all(request.as_bytes()).await?)
    }
    async fn answer(&mut self) -> Result<Answer> {
        tokio::time::timeout(SOON, async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await?);
            }
            let head = String::from_utf8(head)?.to_lowercase();
            let header = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.map(str::to_owned)
            };
            let mut body = vec![0; header("content-length").ok_or("no length")?.parse()?];
            self.0.read_exact(&mut body).await?;
            let status = StatusCode::from_bytes(head.split(' ').nth(1).ok_or("no status")?.as_bytes())?;
            let (closes, retry_after) = (header("connection").as_deref() == Some("close"), header("retry-after"));
            Ok(Answer { status, closes, retry_after, body: String::from_utf8(body)? })
        })
        .await?
    }
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.send(method, path, body).await?;
        self.answer().await
    }
    /// Waits for the other side to close.
    async fn closed(&mut self) -> Result {
        match tokio::time::timeout(SOON, self.0.read_u8()).await? {
            Ok(byte) => Err(format!("a byte: {byte}").into()),
            Err(_) => Ok(()),
        }
    }
}

#[tokio::test]
async fn strays_are_done_by_the_owner() -> Result {
    let arbiter = Embedded::new("shop")?;
    let (one, two) = (listener().await?, listener().await?);
    let (at1, at2) = (one.local_addr()?, two.local_addr()?);
    let v1 = version(&arbiter, "v1", one, Some(at2)).await?;
    let v2 = version(&arbiter, "v2", two, Some(at1)).await?;

    let (mut idle, mut busy) = (Client::to(v1.at).await?, Client::to(v1.at).await?);
    let first = idle.ask("POST", "/", "tea").await?;
    assert_eq!((first.status, first.body.as_str(), first.closes), (StatusCode::OK, "v1", false));
    busy.send("POST", "/slow", "milk").await?;
    tokio::time::timeout(SOON, v1.app.began.notified()).await?;

    arbiter.handover("v2").await?;
    // A request that was on its way over an idle connection, when its term ended.
    let late = idle.ask("POST", "/", "cup").await?;
    assert_eq!((late.status, late.body.as_str(), late.closes), (StatusCode::OK, "v2", true));
    // One that was at work, and had written nothing: its second try runs at the owner.
    v1.app.slow.notify_one();
    v2.app.slow.notify_one();
    let fenced = busy.answer().await?;
    assert_eq!((fenced.status, fenced.body.as_str(), fenced.closes), (StatusCode::OK, "v2", true));
    idle.closed().await?;
    assert_eq!(Client::to(v2.at).await?.ask("GET", "/", "").await?.body, "tea,cup,milk");

    v1.stop.notify_one();
    v2.stop.notify_one();
    assert_eq!(tokio::time::timeout(SOON, v1.served).await???.undrained, 0);
    assert_eq!(tokio::time::timeout(SOON, v2.served).await???.undrained, 0);
    Ok(())
}

#[tokio::test]
async fn without_an_address_a_stray_is_told_to_come_again() -> Result {
    let arbiter = Embedded::new("shop")?;
    let v1 = version(&arbiter, "v1", listener().await?, None).await?;
    let v2 = version(&arbiter, "v2", listener().await?, None).await?;
    let mut client = Client::to(v1.at).await?;
    assert_eq!(client.ask("POST", "/", "tea").await?.status, StatusCode::OK);
    arbiter.handover("v2").await?;
    let stray = client.ask("POST", "/", "cup").await?;
    assert_eq!((stray.status, stray.retry_after.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    assert!(stray.body.contains("not the owner"), "{}", stray.body);
    // What only reads is answered by any version; and the connection closed after its first answer.
    client.closed().await?;
    drop(v2);
    Ok(())
}

/// After a rollback the same unit of work is done again here, not at the owner that was.
#[tokio::test]
async fn who_owns_again_does_it_again() -> Result {
    let arbiter = Embedded::new("shop")?;
    let v1 = version(&arbiter, "v1", listener().await?, None).await?;
    let _v2 = version(&arbiter, "v2", listener().await?, None).await?;
    let mut client = Client::to(v1.at).await?;
    client.send("POST", "/slow", "tea").await?;
    tokio::time::timeout(SOON, v1.app.began.notified()).await?;
    arbiter.handover("v2").await?;
    arbiter.rollback().await?;
    v1.app.slow.notify_one();
    tokio::time::timeout(SOON, v1.app.began.notified()).await?; // the second try
    v1.app.slow.notify_one();
    let answer = client.answer().await?;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "v1"));
    Ok(())
}

/// Between terms the listener stays open and nobody accepts from it: what comes then is served in the next term.
#[tokio::test]
async fn a_listener_outlives_its_terms() -> Result {
    let arbiter = Embedded::new("shop")?;
    let v1 = version(&arbiter, "v1", listener().await?, None).await?;
    let _v2 = version(&arbiter, "v2", listener().await?, None).await?;
    arbiter.handover("v2").await?;
    let mut roles = v1.app.region.roles();
    while matches!(roles.current().role, heirloom_client::Role::Owner(_) | heirloom_client::Role::Draining(_)) {
        tokio::time::timeout(SOON, roles.changed()).await?.ok_or("left")?;
    }
    let mut client = Client::to(v1.at).await?; // into the backlog
    client.send("GET", "/", "").await?;
    assert!(Arc::strong_count(&v1.listener) > 1);
    arbiter.rollback().await?;
    assert_eq!(client.answer().await?.status, StatusCode::OK);
    Ok(())
}

/// A client that sends half a request and no more holds up nobody's leaving; one that waits for its answer gets it.
#[tokio::test]
async fn half_a_request_does_not_keep_a_term() -> Result {
    let arbiter = Embedded::new("shop")?;
    let v1 = version(&arbiter, "v1", listener().await?, None).await?;
    let (mut half, mut slow) = (Client::to(v1.at).await?, Client::to(v1.at).await?);
    half.0.write_all(b"GET / HTTP/1.1\r\nHo").await?;
    slow.send("POST", "/slow", "late").await?;
    tokio::time::timeout(SOON, v1.app.began.notified()).await?;
    v1.stop.notify_one();
    half.closed().await?;
    v1.app.slow.notify_one();
    assert_eq!(slow.answer().await?.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(slow);
    tokio::time::timeout(SOON, v1.served).await???;
    Ok(())
}

#[tokio::test]
async fn a_body_too_large_is_tried_once() -> Result {
    let arbiter = Embedded::new("shop")?;
    let v1 = version(&arbiter, "v1", listener().await?, None).await?;
    let mut client = Client::to(v1.at).await?;
    assert_eq!(client.ask("POST", "/", &"x".repeat(100_000)).await?.status, StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(client.ask("GET", "/", "").await?.body, "");
    Ok(())
}

/// A client that announces a body and stops in the middle of it keeps neither a term nor a leaving.
#[tokio::test]
async fn half_a_body_does_not_keep_a_term() -> Result {
    let arbiter = Embedded::new("shop")?;
    let v1 = version(&arbiter, "v1", listener().await?, None).await?;
    let (mut known, mut unknown) = (Client::to(v1.at).await?, Client::to(v1.at).await?);
    known.0.write_all(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\nhal").await?;
    // Of unknown length, so the handler itself reads it.
    let chunked = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n";
    unknown.0.write_all(chunked).await?;
    // Both have been begun once a third one is answered on a connection that came later.
    let mut third = Client::to(v1.at).await?;
    assert_eq!(third.ask("GET", "/", "").await?.status, StatusCode::OK);
    v1.stop.notify_one();
    for client in [&mut known, &mut unknown] {
        let late = client.answer().await?;
        assert_eq!((late.status, late.retry_after.as_deref()), (StatusCode::REQUEST_TIMEOUT, Some("1")));
        assert!(late.closes, "what is left of the body cannot be told from a request");
    }
    tokio::time::timeout(SOON, v1.served).await???;
    Ok(())
}

/// Kept-alive connections under load, back and forth between two versions: no request fails, none is done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_alive_load_goes_through_switches() -> Result {
    const CLIENTS: usize = 4;
    const SWITCHES: usize = 10;
    let arbiter = Embedded::new("shop")?;
    let (one, two) = (listener().await?, listener().await?);
    let (at1, at2) = (one.local_addr()?, two.local_addr()?);
    let v1 = version(&arbiter, "v1", one, Some(at2)).await?;
    let v2 = version(&arbiter, "v2", two, Some(at1)).await?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<JoinHandle<Result<usize>>> = (0..CLIENTS)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let (mut client, mut done) = (Client::to(at1).await?, 0);
                while !*stopped.borrow() {
                    let answer = client.ask("POST", "/", "x").await?;
                    if answer.status != StatusCode::OK {
                        return Err(format!("{} {}", answer.status, answer.body).into());
                    }
                    done += 1;
                    if answer.closes {
                        // As a gateway does: on to whoever serves.
                        client = Client::to(if answer.body == "v1" { at1 } else { at2 }).await?;
                    }
                }
                Ok(done)
            })
        })
        .collect();
    for n in 0..SWITCHES {
        arbiter.handover(if n % 2 == 0 { "v2" } else { "v1" }).await?;
    }
    stop.send_replace(true);
    let mut done = 0;
    for client in clients {
        done += tokio::time::timeout(SOON, client).await???;
    }
    assert!(done > 0);
    assert_eq!(v1.app.log.load()?.len(), done, "as many lines as answers");
    drop((v1, v2));
    Ok(())
}

/// 200 or 503, and the word.
async fn probed(routes: Router, path: &str) -> Result<(u16, String)> {
    let answer = routes.oneshot(axum::http::Request::get(path).body(axum::body::Body::empty())?).await?;
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 100).await?;
    Ok((status, String::from_utf8(body.to_vec())?.trim().to_owned()))
}

#[tokio::test]
async fn the_probe_tells_for_whom_new_traffic_is() -> Result {
    let arbiter = Embedded::new("shop")?;
    let attach = async |v: &str| -> Result<(Router, Serving)> {
        let attached = arbiter.attach(v).await?;
        let region = attached.region().clone();
        let routes = Router::new().route("/ready", probe(&region)).route("/standing", probe_standing(&region));
        Ok((routes, attached.ready(Hooks::new()).await?))
    };
    let (v1, mut first) = attach("v1").await?;
    let term = first.next_term().await.ok_or("a term")?;
    let (v2, mut second) = attach("v2").await?;
    let both = async |routes: &Router| -> Result<[(u16, String); 2]> {
        Ok([probed(routes.clone(), "/ready").await?, probed(routes.clone(), "/standing").await?])
    };
    let said = |ready: u16, standing: u16, word: &str| [(ready, word.to_owned()), (standing, word.to_owned())];
    assert_eq!(both(&v1).await?, said(200, 200, "owner"));
    assert_eq!(both(&v2).await?, said(503, 200, "standby"));
    second.set_ready(false);
    assert_eq!(both(&v2).await?, said(503, 503, "not_ready"));
    second.set_ready(true);
    first.set_ready(false);
    assert_eq!(both(&v1).await?, said(503, 503, "withdrawn"));
    assert!(term.is_current(), "it owns, and serves what comes");
    first.set_ready(true);
    assert_eq!(both(&v1).await?, said(200, 200, "owner"));

    let held = first.region().in_flight("requests");
    // The arbiter hears a moment later that it is ready again.
    until(async || arbiter.handover("v2").await.is_ok()).await?;
    second.next_term().await.ok_or("a term")?;
    assert_eq!((both(&v1).await?, both(&v2).await?), (said(503, 503, "draining"), said(200, 200, "owner")));
    let leaves = tokio::spawn(first.leave());
    until(async || both(&v1).await.is_ok_and(|found| found == said(503, 503, "leaving"))).await?;
    drop(held);
    leaves.await??;
    assert_eq!(both(&v1).await?, said(503, 503, "left"));
    Ok(())
}

/// A kind that has less time than the rest holds nobody up longer.
#[tokio::test]
async fn a_leaving_instance_waits_for_each_kind_as_long_as_it_may_take() -> Result {
    let arbiter = Embedded::new("shop")?;
    let serving = arbiter.attach("v1").await?.ready(Hooks::new()).await?;
    serving.drain_within("connections", Duration::from_millis(100));
    let region = serving.region().clone();
    let (connection, request) = (region.in_flight("connections"), region.in_flight("requests"));
    let mut leaves = tokio::spawn(serving.leave());
    let early = tokio::time::timeout(Duration::from_millis(600), &mut leaves).await;
    assert!(early.is_err(), "requests have their time still");
    drop(request);
    let left = tokio::time::timeout(SOON, leaves).await???;
    assert_eq!(left.undrained, 1, "the connection, which is not cut");
    drop(connection);
    Ok(())
}

async fn until(mut state: impl AsyncFnMut() -> bool) -> Result {
    let wait = async {
        while !state().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(SOON, wait).await?)
}

use std::io;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::http_input;
use super::*;

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(200);

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Server {
    async fn start(bounds: Bounds, router: Router) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(serve(listener, bounds, router, async move { drop(stopped.await) }));
        Server { address, stop, done }
    }

    async fn says(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = self.says(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        rest(&mut stream).await
    }
}

/// What comes until the other end closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut text)).await.expect("the connection ends");
    match read {
        Ok(_) => {}
        // It was closed with something of ours unread.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("{e}"),
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn patient() -> Bounds {
    Bounds { connections: 4, fresh: Duration::ZERO, head: NEVER, kept: NEVER, body: NEVER, taken: NEVER }
}

fn hello() -> Router {
    let whole = |http_input::Body(body): http_input::Body| async move { format!("{} bytes", body.len()) };
    Router::new().route("/", get(|| async { "hello" })).route("/post", post(whole))
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n";

#[tokio::test]
async fn half_a_head_and_none_at_all_are_not_waited_for() {
    let server = Server::start(Bounds { head: SHORT, ..patient() }, hello()).await;
    for text in ["", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: h\r\n"] {
        let mut stream = server.says(text).await;
        assert!(!rest(&mut stream).await.contains("200 OK"), "{text:?}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_those_who_come_by_the_clock() {
    let server = Server::start(Bounds { head: SHORT, kept: 3 * SHORT, ..patient() }, hello()).await;
    let mut stream = server.says(ASK).await;
    for asked in 1..=3 {
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed before answer {asked}");
        }
        // Longer than a first head may take.
        tokio::time::sleep(2 * SHORT).await;
        stream.write_all(ASK.as_bytes()).await.unwrap();
    }
    assert!(rest(&mut stream).await.ends_with("hello"), "answered, kept for a while, and closed");
    assert!(Bounds::default().kept > Duration::from_secs(60), "Prometheus' own interval, if none is said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_when_its_connection_makes_room_is_answered_or_not_and_never_with_nothing() {
    let server = Server::start(Bounds { connections: 1, ..patient() }, hello()).await;
    let mut told = [0; 2];
    for _ in 0..400 {
        let mut kept = server.says("").await;
        let other = async { TcpStream::connect(server.address).await.unwrap() };
        let (wrote, other) = tokio::join!(kept.write_all(ASK.as_bytes()), other);
        let answer = match wrote {
            Ok(()) => rest(&mut kept).await,
            Err(_) => String::new(),
        };
        told[usize::from(answer.is_empty())] += 1;
        assert!(answer.is_empty() || answer.ends_with("hello"), "{answer:?} after {told:?}");
        drop(other);
    }
}

#[tokio::test]
async fn stopping_and_making_room_cut_no_answer_that_is_being_taken() {
    const LEN: usize = 16 << 20;
    let (given, mut is_given) = mpsc::channel(2);
    let large = move || {
        let given = given.clone();
        async move {
            given.send(()).await.unwrap();
            vec![b'x'; LEN]
        }
    };
    let router = hello().route("/large", get(large));
    let server = Server::start(Bounds { connections: 2, ..patient() }, router).await;
    let mut first = server.says("GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
    is_given.recv().await.unwrap();
    for _ in 0..8 {
        // Each takes the place of the one before, though that has waited for less long.
        assert!(server.get("/").await.ends_with("hello"));
        drop(server.says("").await);
    }
    server.stop.send(()).unwrap();
    let text = rest(&mut first).await;
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body.len(), LEN);
    tokio::time::timeout(SOON, server.done).await.expect("nothing is left").unwrap();
}

#[tokio::test]
async fn half_a_body_is_answered_with_408() {
    let server = Server::start(Bounds { body: SHORT, ..patient() }, hello()).await;
    let mut stream = server.says(&format!("{POST}12345")).await;
    let text = rest(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("a whole body within 200ms"), "{text}");
    let mut stream = server.says(&format!("{POST}1234567890")).await;
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn who_takes_nothing_of_the_answer_is_cut_off() {
    let (alive, mut cut) = mpsc::channel::<()>(1);
    let (begun, mut has_begun) = mpsc::channel(1);
    let endless = move || {
        let (alive, begun) = (alive.clone(), begun.clone());
        async move {
            begun.send(()).await.unwrap();
            let chunk = vec![b'x'; 1 << 16];
            let chunks = std::iter::repeat_with(move || {
                let _alive = &alive;
                Ok::<_, Infallible>(chunk.clone())
            });
            Body::from_stream(tokio_stream::iter(chunks))
        }
    };
    let server =
        Server::start(Bounds { taken: SHORT, ..patient() }, Router::new().route("/endless", get(endless))).await;
    let _stream = server.says("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
    has_begun.recv().await.unwrap();
    server.stop.send(()).unwrap();
    tokio::time::timeout(SOON, server.done).await.expect("it is not waited for").unwrap();
    assert_eq!(cut.recv().await, None, "its answer is gone");
}

#[tokio::test]
async fn idle_ones_make_room_and_those_that_are_answered_do_not() {
    let (go, gone) = watch::channel(false);
    let slow = move || {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            "slow"
        }
    };
    let server = Server::start(patient(), hello().route("/slow", get(slow))).await;
    let mut asking = server.says("GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    // One kept alive after its answer, many that say nothing, and as many with half a head or half a body.
    let mut idle = vec![server.says("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await];
    for n in 0..60 {
        idle.push(server.says(["", "GET / HT", POST][n % 3]).await);
        if n % 20 == 0 {
            assert!(server.get("/").await.ends_with("hello"), "among {n} that wait");
        }
    }
    let mut closed = 0;
    for stream in &mut idle[..50] {
        rest(stream).await;
        closed += 1;
    }
    assert_eq!(closed, 50, "those that waited the longest");
    go.send_replace(true);
    assert!(rest(&mut asking).await.ends_with("slow"), "it was asked before all of them");
}

#[tokio::test]
async fn where_all_are_being_answered_or_have_just_come_the_next_waits() {
    let (go, gone) = watch::channel(false);
    let (begun, mut has_begun) = mpsc::channel(2);
    let slow = move || {
        let (mut gone, begun) = (gone.clone(), begun.clone());
        async move {
            begun.send(()).await.unwrap();
            gone.wait_for(|go| *go).await.unwrap();
            "slow"
        }
    };
    let bounds = Bounds { connections: 3, fresh: NEVER, ..patient() };
    let server = Server::start(bounds, hello().route("/slow", get(slow))).await;
    let slow = async {
        let (a, b) = tokio::join!(server.get("/slow"), server.get("/slow"));
        assert!(a.ends_with("slow") && b.ends_with("slow"));
    };
    let next = async {
        for _ in 0..2 {
            has_begun.recv().await.unwrap();
        }
        let fresh = server.says("").await;
        let mut next = server.says("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        let mut byte = [0];
        let early = tokio::time::timeout(SHORT, next.peek(&mut byte)).await;
        assert!(early.is_err(), "there is no room yet: {early:?}");
        go.send_replace(true);
        assert!(rest(&mut next).await.ends_with("hello"));
        drop(fresh);
    };
    tokio::join!(slow, next);
}

#[tokio::test]
async fn stopping_waits_for_answers_and_not_for_requests() {
    let (go, gone) = watch::channel(false);
    let (begun, mut has_begun) = mpsc::channel(1);
    let slow = move || {
        let (mut gone, begun) = (gone.clone(), begun.clone());
        async move {
            begun.send(()).await.unwrap();
            gone.wait_for(|go| *go).await.unwrap();
            "slow"
        }
    };
    let server = Server::start(patient(), hello().route("/slow", get(slow))).await;
    let mut half = server.says("GET / HTTP/1.1\r\nHo").await;
    let mut asking = server.says("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    has_begun.recv().await.unwrap();
    server.stop.send(()).unwrap();
    assert_eq!(rest(&mut half).await, "");
    go.send_replace(true);
    assert!(rest(&mut asking).await.ends_with("slow"));
    tokio::time::timeout(SOON, server.done).await.expect("nothing is left").unwrap();
}

//! Parcels within one process: what crosses, and what comes back.

use std::net::{TcpListener, TcpStream as StdStream};
use std::time::Duration;

use heirloom_client::embedded::Embedded;
use heirloom_client::{Error, Hooks, Parcel, Parcels, Returned, Serving, Stream, Tracked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

type Outcome = Result<(), Box<dyn std::error::Error>>;

type State = (u64, String);

const SOON: Duration = Duration::from_secs(20);

async fn pair(arbiter: &Embedded) -> Result<(Serving, Serving), Error> {
    let mut v1 = arbiter.attach("v1").await?.ready(Hooks::new()).await?;
    v1.next_term().await;
    let v2 = arbiter.attach("v2").await?.ready(Hooks::new()).await?;
    Ok((v1, v2))
}

/// A connection and its client.
fn connection() -> std::io::Result<(Stream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = StdStream::connect(listener.local_addr()?)?;
    let (served, _) = listener.accept()?;
    let tokio = |stream: StdStream| stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    Ok((Stream::Tcp(tokio(served)?), tokio(client)?))
}

fn parcel(stream: Stream, bytes: usize) -> Parcel<State> {
    Parcel { stream, unread: vec![1; bytes], unsent: vec![2; bytes / 2], state: (7, "x".repeat(bytes / 3)) }
}

async fn send<S>(tracked: &mut Tracked<S>, parcel: Parcel<S>) -> Result<(), Returned<S>>
where
    S: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    timeout(SOON, tracked.departure()).await.expect("another owns").send(parcel).await
}

#[tokio::test]
async fn everything_crosses_small_and_large() -> Outcome {
    let arbiter = Embedded::new("shop")?;
    let (v1, v2) = pair(&arbiter).await?;
    let (from, to): (Parcels<State>, Parcels<State>) = (v1.region().parcels("p", 1)?, v2.region().parcels("p", 1)?);
    arbiter.handover("v2").await?;
    for bytes in [0, 10, 1 << 20] {
        let (stream, mut client) = connection()?;
        client.write_all(b"late").await?;
        let mut tracked = from.track();
        let (sent, arrived) = tokio::join!(send(&mut tracked, parcel(stream, bytes)), async {
            timeout(SOON, to.arrival()).await.expect("it arrives").accept()
        });
        sent?;
        let (mut conn, _tracked) = arrived?;
        let expected = (vec![1; bytes], vec![2; bytes / 2], (7, "x".repeat(bytes / 3)));
        assert!((conn.unread, conn.unsent, conn.state) == expected, "{bytes} bytes");
        let mut late = [0; 4];
        conn.stream.read_exact(&mut late).await?;
        assert_eq!(&late, b"late");
        conn.stream.write_all(b"answer").await?;
        drop(conn.stream);
        let mut answer = String::new();
        timeout(SOON, client.read_to_string(&mut answer)).await??;
        assert_eq!(answer, "answer", "the sender let go, too: or this would not end");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_taken_comes_back_as_it_was() -> Outcome {
    let arbiter = Embedded::new("shop")?;
    let (v1, v2) = pair(&arbiter).await?;
    let from: Parcels<State> = v1.region().parcels("p", 1)?;
    let other: Parcels<u64> = v2.region().parcels("p", 2)?;
    arbiter.handover("v2").await?;
    let (stream, mut client) = connection()?;
    let mut tracked = from.track();
    // Nobody there knows this schema.
    let back = send(&mut tracked, parcel(stream, 100)).await.expect_err("another schema");
    assert_eq!(back.reason, "SCHEMA_UNREADABLE", "{back}");
    drop(other);

    // Somebody does, and drops it; or cannot decode it.
    let from: Parcels<State> = v1.region().parcels("q", 1)?;
    let to: Parcels<(u64, u64)> = v2.region().parcels("q", 1)?;
    let mut tracked = from.track();
    let mut conn = back.parcel;
    for decode in [false, true] {
        let (sent, arrived) = tokio::join!(send(&mut tracked, conn), async {
            let arrival = timeout(SOON, to.arrival()).await.expect("it arrives");
            if decode { arrival.accept().err() } else { None }
        });
        assert_eq!(arrived.map(|e| e.reason()), decode.then_some("SCHEMA_UNREADABLE"));
        let back = sent.expect_err("it was dropped");
        assert_eq!(back.reason, if decode { "SCHEMA_UNREADABLE" } else { "INVALID_FIELD" }, "{back}");
        conn = back.parcel;
        assert_eq!((conn.unread.len(), conn.unsent.len(), conn.state.0), (100, 50, 7));
    }
    conn.stream.write_all(b"x").await?;
    assert_eq!(client.read_u8().await?, b'x', "it is served on");
    Ok(())
}

#[tokio::test]
async fn one_that_was_taken_back_cannot_be_accepted() -> Outcome {
    let arbiter = Embedded::new("shop")?;
    let (v1, v2) = pair(&arbiter).await?;
    let (from, to): (Parcels<State>, Parcels<State>) = (v1.region().parcels("p", 1)?, v2.region().parcels("p", 1)?);
    arbiter.handover("v2").await?;
    let (stream, mut client) = connection()?;
    let mut tracked = from.track();
    // Longer than an offer stands: it comes back though the other one has it in hands.
    let (sent, arrival) = tokio::join!(send(&mut tracked, parcel(stream, 10)), timeout(SOON, to.arrival()));
    let back = sent.expect_err("nobody took it in time");
    assert_eq!(back.reason, "TARGET_NOT_READY", "{back}");
    let mut conn = back.parcel;
    let late = arrival?.accept().expect_err("it is the sender's");
    assert_eq!((late.reason(), late.is_retryable()), ("HANDOVER_IN_PROGRESS", true));
    conn.stream.write_all(b"x").await?;
    assert_eq!(client.read_u8().await?, b'x');
    // The next one is tried alone, and taken.
    let (sent, arrived) = tokio::join!(send(&mut tracked, conn), async {
        timeout(SOON, to.arrival()).await.expect("it arrives").accept()
    });
    sent?;
    assert_eq!(arrived?.0.state.0, 7);
    Ok(())
}

#[tokio::test]
async fn a_connection_stays_where_the_owner_is() -> Outcome {
    let arbiter = Embedded::new("shop")?;
    let (v1, _v2) = pair(&arbiter).await?;
    let mut tracked = v1.region().parcels::<u64>("p", 1)?.track();
    assert!(timeout(Duration::from_millis(50), tracked.departure()).await.is_err(), "this instance owns");
    arbiter.handover("v2").await?;
    let _ = timeout(SOON, tracked.departure()).await?;
    arbiter.rollback().await?;
    assert!(timeout(Duration::from_millis(50), tracked.departure()).await.is_err(), "it owns again");
    Ok(())
}

/// A connection that always has something else to do is asked as well: its protocol looks for a departure beside a step that is
/// ready at once, again and again.
#[tokio::test]
async fn a_connection_that_never_rests_departs() -> Outcome {
    let arbiter = Embedded::new("shop")?;
    let (v1, v2) = pair(&arbiter).await?;
    let (from, to): (Parcels<u64>, Parcels<u64>) = (v1.region().parcels("p", 1)?, v2.region().parcels("p", 1)?);
    arbiter.handover("v2").await?;
    for first_returns in [false, true] {
        let (stream, _client) = connection()?;
        let mut tracked = from.track();
        let mut conn = Parcel { stream, unread: Vec::new(), unsent: Vec::new(), state: 0 };
        let busy = async {
            loop {
                conn.state += 1;
                let departure = tokio::select! {
                    () = tokio::task::yield_now() => continue,
                    departure = tracked.departure() => departure,
                };
                match departure.send(conn).await {
                    Ok(()) => return,
                    Err(back) => conn = back.parcel,
                }
            }
        };
        let arrives = async {
            if first_returns {
                drop(to.arrival().await);
            }
            to.arrival().await.accept()
        };
        let ((), arrived) = timeout(SOON, async { tokio::join!(busy, arrives) }).await?;
        assert!(arrived?.0.state > 0);
    }
    Ok(())
}

/// Thousands that want to move do not wait for one another: each is served until there is room for its own offer.
#[tokio::test]
async fn no_more_are_on_their_way_than_there_is_room_for() -> Outcome {
    let arbiter = Embedded::new("shop")?;
    let (v1, v2) = pair(&arbiter).await?;
    let (from, to): (Parcels<u64>, Parcels<u64>) = (v1.region().parcels("p", 1)?, v2.region().parcels("p", 1)?);
    arbiter.handover("v2").await?;
    let mut clients = Vec::new();
    let under_way = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for state in 0..200 {
        let (stream, client) = connection()?;
        clients.push(client);
        let (mut tracked, under_way) = (from.track(), under_way.clone());
        tokio::spawn(async move {
            let departure = tracked.departure().await;
            under_way.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let _ = departure.send(Parcel { stream, unread: Vec::new(), unsent: Vec::new(), state }).await;
            under_way.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        });
    }
    let mut arrived = Vec::new();
    for _ in 0..200 {
        let arrival = timeout(SOON, to.arrival()).await?;
        assert!(under_way.load(std::sync::atomic::Ordering::Relaxed) <= 64, "served until their turn comes");
        arrived.push(arrival.accept()?.0.state);
    }
    arrived.sort_unstable();
    assert!(arrived.into_iter().eq(0..200), "each once");
    Ok(())
}

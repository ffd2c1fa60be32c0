//! Those who follow a handover: too many of them, and such as do not read.

use std::process::{Command, Output};

use heirloom_proto::names;
use heirloom_proto::v1::attach_request::{InFlight, Message};
use heirloom_proto::v1::control_service_client::ControlServiceClient;
use heirloom_proto::v1::region::State;
use heirloom_proto::v1::{self, ErrorReason};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::support::{Attached, Daemon, SOON, failure, until};

/// Followers of a region's handovers, as the arbiter has it.
const FOLLOWERS_MAX: usize = 1024;
/// Streams on one connection; a server takes 200.
const STREAMS: usize = 128;

/// What the draining instance reports last.
const LAST: u64 = 4000;
/// The handover's request.
const ONE: &str = "6f4c2d8e-31f5-4d27-9a3a-5b8f0f6f6a11";

fn in_flight(count: u64) -> Message {
    Message::InFlight(InFlight { counts: [("connection".to_owned(), count)].into(), ..Default::default() })
}

/// A committed handover whose drain goes on, and its name.
async fn draining(daemon: &Daemon) -> (Attached, Attached, String) {
    let first = daemon.ready("shop", "1.0.0").await;
    until(daemon, "shop", |r| r.state() == State::Owned).await;
    first.say(in_flight(1)).await;
    let second = daemon.ready("shop", "2.0.0").await;
    until(daemon, "shop", |r| r.instances.iter().filter(|i| i.eligible).count() == 2).await;
    let options = v1::SwitchOptions { request_id: ONE.into(), ..Default::default() };
    let request = v1::HandoverRequest { name: names::region("shop"), target: None, options: Some(options) };
    let mut events = daemon.control().await.handover(request).await.unwrap().into_inner();
    let mut name = String::new();
    while let Some(event) = tokio::time::timeout(SOON, events.message()).await.expect("it is decided").unwrap() {
        name = event.handover.unwrap().name;
    }
    (first, second, name)
}

async fn follow(
    client: &mut ControlServiceClient<Channel>,
    name: &str,
) -> Result<Streaming<v1::HandoverEvent>, tonic::Status> {
    Ok(client.watch_handover(v1::WatchHandoverRequest { name: name.to_owned() }).await?.into_inner())
}

async fn heirloom(daemon: &Daemon, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    command.args(line.split_whitespace()).arg("--socket").arg(&daemon.config.server.socket);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_too_many_is_refused_by_name() {
    let daemon = Daemon::start().await;
    let (_first, _second, name) = draining(&daemon).await;
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for n in 0..FOLLOWERS_MAX {
        if n % STREAMS == 0 {
            clients.push(daemon.control().await);
        }
        streams.push(follow(clients.last_mut().unwrap(), &name).await.expect("there is room"));
    }
    let status = follow(&mut daemon.control().await, &name).await.map(|_| ());
    assert_eq!(status.as_ref().unwrap_err().code(), tonic::Code::ResourceExhausted);
    let refused = failure(status);
    assert_eq!((refused.reason, refused.expected.as_deref()), (ErrorReason::TableFull, Some("at most 1024 followers")));

    // A caller that joins, and would follow the drain.
    let ran = heirloom(&daemon, &format!("handover shop --request-id {ONE} --follow-drain -o json")).await;
    let object: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((ran.status.code(), object["reason"].as_str()), (Some(3), Some("TABLE_FULL")), "{object}");

    // Those who go make room, without anything having to happen.
    drop((streams, clients));
    let mut control = daemon.control().await;
    let again = async { while follow(&mut control, &name).await.is_err() {} };
    tokio::time::timeout(SOON, again).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_does_not_read_is_let_go_and_told() {
    let daemon = Daemon::start().await;
    let (first, _second, name) = draining(&daemon).await;
    // As small a window as there is, so that little waits on this side.
    let uri = format!("unix://{}", daemon.config.server.socket.display());
    let narrow = Endpoint::from_shared(uri).unwrap().initial_stream_window_size(65_535).connect().await.unwrap();
    let mut stalled = follow(&mut ControlServiceClient::new(narrow), &name).await.unwrap();
    // More than the queues and the connection's window hold.
    for n in 2..=LAST {
        first.say(in_flight(n)).await;
    }
    let mut control = daemon.control().await;
    let heard = async {
        loop {
            let region = control.get_region(v1::GetRegionRequest { name: names::region("shop") }).await.unwrap();
            if region.get_ref().instances.iter().any(|i| i.in_flight_counts.get("connection") == Some(&LAST)) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, heard).await.expect("the arbiter hears it all");
    let end = async {
        loop {
            match stalled.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => return status,
            }
        }
    };
    let end = tokio::time::timeout(SOON, end).await.expect("it ends");
    assert_eq!(end.code(), tonic::Code::ResourceExhausted);
    let told = failure::<()>(Err(end));
    assert_eq!(told.reason, ErrorReason::TableFull);
    assert!(told.message.contains("read too slowly"), "{told}");
}

//! Several threads each, because redeeming a ticket blocks.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use heirloom_proto::v1::attach_request::{self, Hello};
use heirloom_proto::v1::instance::Role;
use heirloom_proto::v1::region::State;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_proto::{frame, names};
use heirloom_region::mapping::Mapping;

use crate::support::{Attached, Daemon, SOON, failure, hello, http, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_attaches_with_real_descriptors_and_owns_a_new_region() {
    let daemon = Daemon::start().await;
    let attached = daemon.ready("shop", "1.0.0").await;
    let name = attached.instance().to_owned();
    let region = until(&daemon, "shop", |r| r.state() == State::Owned).await;
    assert_eq!((names::short(&region.owner), region.instances.len()), (name.as_str(), 1));
    let instance = &region.instances[0];
    assert_eq!((instance.pid, instance.uid), (std::process::id(), nix::unistd::geteuid().as_raw()));
    assert_eq!((instance.role(), instance.connected, instance.version.as_str()), (Role::Owner, true, "1.0.0"));
    let again = UnixTicket::of(&attached);
    assert!(matches!(again.redeem(), Err(frame::FrameError::Refused)), "a ticket works once");
    let traffic = http(daemon.http(), &format!("GET /v1/regions/shop/instances/{name}/traffic"), "").await;
    assert_eq!(traffic.status, 200);
    assert_eq!(http(daemon.http(), "GET /v1/regions/shop/instances/i-0/traffic", "").await.status, 503);
}

struct UnixTicket {
    socket: String,
    ticket: Vec<u8>,
}

impl UnixTicket {
    fn of(attached: &Attached) -> Self {
        UnixTicket {
            socket: attached.welcome.descriptor_socket.clone(),
            ticket: attached.welcome.descriptor_ticket.clone(),
        }
    }

    fn redeem(&self) -> Result<frame::Answer, frame::FrameError> {
        frame::request(&std::os::unix::net::UnixStream::connect(&self.socket).unwrap(), &self.ticket, SOON)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_live_side_by_side_and_survive_the_daemon() {
    let daemon = Daemon::start().await;
    let shop = daemon.ready("shop", "1.0.0").await;
    let cart = daemon.attach(Hello { replica: "0".into(), ..hello("cart", "1.0.0") }).await.unwrap();
    assert_ne!(shop.welcome.region_uid, cart.welcome.region_uid);
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    let list = daemon.control().await.list_regions(v1::ListRegionsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = list.regions.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["regions/cart.0", "regions/shop"]);
    let groups = http(daemon.http(), "GET /sd", "").await.json();
    assert_eq!(groups.as_array().unwrap().len(), 3);
    assert_eq!(groups[1]["labels"]["__metrics_path__"], "/metrics/cart.0");
    assert_eq!(groups[1]["labels"]["__meta_heirloom_service"], "cart");

    let (name, token, uid) =
        (shop.welcome.instance.clone(), shop.welcome.resume_token.clone(), shop.welcome.region_uid.clone());
    let generation = until(&daemon, "shop", |_| true).await.generation;
    let daemon = daemon.again().await;
    let back = Hello { resume_instance: name.clone(), resume_token: token.clone(), ..hello("shop", "1.0.0") };
    let resumed = daemon.attach(back).await.expect("it comes back");
    let channel = resumed.descriptors();
    assert!(resumed.welcome.resumed && channel.len() == 1, "it has all but a socket channel");
    assert!(heirloom_region::sockets::is_socket(&channel[0]));
    assert_eq!((&resumed.welcome.instance, &resumed.welcome.region_uid), (&name, &uid));
    let region = until(&daemon, "shop", |r| r.instances.iter().any(|i| i.connected)).await;
    assert_eq!((region.owner.as_str(), region.generation), (name.as_str(), generation));
    let stranger = Hello { resume_instance: name, resume_token: vec![7; 16], ..hello("shop", "1.0.0") };
    assert_eq!(failure(daemon.attach(stranger).await.map(|a| a.welcome)).reason, ErrorReason::CallerDenied);
    drop(shop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecar_chooses_a_replica() {
    let daemon = Daemon::start().await;
    let auto = |version: &str| Hello { replica: "auto".into(), ..hello("shop", version) };
    let mut places = Vec::new();
    let mut kept = Vec::new();
    for version in ["1", "1", "2", "2"] {
        let mut attached = daemon.attach(auto(version)).await.unwrap();
        attached.map();
        attached.say(attach_request::Message::Ready(attach_request::Ready { ready: true, ..Default::default() })).await;
        let region = names::parse_instance(&attached.welcome.instance).unwrap().0.to_owned();
        let name = attached.welcome.instance.clone();
        until(&daemon, &region, |r| r.instances.iter().any(|i| i.name == name && i.eligible)).await;
        until(&daemon, &region, |r| r.state() == State::Owned).await;
        places.push(region);
        kept.push(attached);
    }
    assert_eq!(places, ["shop.0", "shop.1", "shop.0", "shop.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_reads_and_cannot_write() {
    let daemon = Daemon::start().await;
    let observer = Hello { read_only: true, ..hello("shop", "1.0.0") };
    let missing = failure(daemon.attach(observer.clone()).await.map(|a| a.welcome));
    assert_eq!(missing.reason, ErrorReason::RegionNotFound, "an observer makes no region");
    let _owner = daemon.ready("shop", "1.0.0").await;
    let observer = daemon.attach(observer).await.unwrap();
    let descriptors = observer.descriptors();
    assert_eq!(descriptors.len(), 1);
    let mut file = File::from(descriptors.into_iter().next().unwrap());
    assert!(file.write_all(b"x").is_err(), "the descriptor is for reading");
    assert!(Mapping::from_fd(file.into(), None).unwrap().is_read_only());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_hello_is_refused_and_changes_nothing() {
    let daemon = Daemon::start().await;
    for (bad, reason) in [
        (hello("Shop", "1"), ErrorReason::InvalidName),
        (hello("shop", "a b"), ErrorReason::InvalidName),
        (Hello { replica: "../x".into(), ..hello("shop", "1") }, ErrorReason::InvalidName),
        (Hello { region_format_majors: vec![99], ..hello("shop", "1") }, ErrorReason::FormatIncompatible),
        (Hello { limit_bytes: 1, ..hello("shop", "1") }, ErrorReason::InvalidField),
        (Hello { resume_instance: "shop".into(), ..hello("shop", "1") }, ErrorReason::InvalidName),
        (
            Hello { resume_instance: names::instance("shop", "i-1"), resume_token: vec![1; 16], ..hello("shop", "1") },
            ErrorReason::InstanceNotFound,
        ),
        (
            Hello { resume_instance: names::instance("shop", "i-1"), resume_token: vec![1], ..hello("shop", "1") },
            ErrorReason::InvalidField,
        ),
    ] {
        let refused = failure(daemon.attach(bad.clone()).await.map(|a| a.welcome));
        assert_eq!(refused.reason, reason, "{bad:?}: {refused:?}");
    }
    let list = daemon.control().await.list_regions(v1::ListRegionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.regions, []);
}

/// A copy under another name, whole in its header; the file is sparse and large.
fn copy_head(dir: &Path, from: &str, to: &str) {
    let mut head = vec![0; 256 << 10];
    let mut file = File::open(dir.join(from)).unwrap();
    file.read_exact(&mut head).unwrap();
    let copy = File::create(dir.join(to)).unwrap();
    (&copy).write_all(&head).unwrap();
    copy.set_len(file.metadata().unwrap().len()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_set_aside_while_others_serve() {
    let daemon = Daemon::start().await;
    let owner = daemon.ready("shop", "1.0.0").await;
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    std::fs::write(daemon.config.server.region_dir.join("foreign"), "no region at all").unwrap();
    copy_head(&daemon.config.server.region_dir, "shop", "copied");
    let daemon = daemon.again().await;
    let list = daemon.control().await.list_regions(v1::ListRegionsRequest::default()).await.unwrap().into_inner();
    let states: Vec<_> = list.regions.iter().map(|r| (names::short(&r.name), r.state())).collect();
    assert_eq!(states, [("copied", State::Quarantined), ("foreign", State::Quarantined), ("shop", State::Owned)]);
    assert!(list.regions[1].quarantine_fault.as_ref().is_some_and(|f| !f.found.is_empty()));
    let refused = failure(daemon.attach(hello("foreign", "1")).await.map(|a| a.welcome));
    assert_eq!(refused.reason, ErrorReason::RegionQuarantined);
    let metrics = http(daemon.http(), "GET /metrics", "").await.body;
    assert!(metrics.contains("heirloom_regions{state=\"quarantined\"} 2"), "{metrics}");
    drop(owner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_verified_while_it_serves() {
    let daemon = Daemon::start().await;
    let _owner = daemon.ready("shop", "1.0.0").await;
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    let request = v1::VerifyRegionRequest { name: "regions/shop".into() };
    let mut events = daemon.control().await.verify_region(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = events.message().await.expect("it is intact") {
        last = Some(event);
    }
    let last = last.expect("a verdict");
    assert_eq!((last.fault_count, last.checked_bytes == last.total_bytes), (0, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_the_only_instance_is_refused_and_the_stop_ends_every_stream() {
    let daemon = Daemon::start().await;
    let owner = daemon.ready("shop", "1.0.0").await;
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    let request = v1::DrainInstanceRequest { name: owner.welcome.instance.clone(), ..Default::default() };
    assert_eq!(failure(daemon.control().await.drain_instance(request).await).reason, ErrorReason::OwnerWouldVacate);
    let request = v1::WatchRegionsRequest { name: "regions/-".into(), after_sequence: 0 };
    let mut watch = daemon.control().await.watch_regions(request).await.unwrap().into_inner();
    daemon.running.stop().await;
    let end = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(failure(end).reason, ErrorReason::ShuttingDown);
    let end = tokio::time::timeout(SOON, owner.ended).await.expect("the stream ends").unwrap();
    assert_eq!(failure(end).reason, ErrorReason::ShuttingDown);
    // The data plane goes on: the region is mapped and owned still.
    assert!(owner.process.is_some_and(|p| !p.is_forked_child()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_left_hears_it_by_the_end_of_its_stream() {
    let daemon = Daemon::start().await;
    let owner = daemon.ready("shop", "1.0.0").await;
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    let standby = daemon.ready("shop", "2.0.0").await;
    standby.say(attach_request::Message::Leave(attach_request::Leave::default())).await;
    let ended = tokio::time::timeout(SOON, standby.ended).await.expect("a standby is let go");
    assert!(ended.unwrap().is_ok());
    owner.say(attach_request::Message::Leave(attach_request::Leave::default())).await;
    until(&daemon, "shop", |r| r.state() == State::Vacant).await;
    owner
        .say(attach_request::Message::InFlight(attach_request::InFlight { drained: true, ..Default::default() }))
        .await;
    let ended = tokio::time::timeout(SOON, owner.ended).await.expect("an owner is let go once it is drained");
    assert!(ended.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_memory_fails_is_set_aside_while_others_serve() {
    let daemon = Daemon::start().await;
    let _shop = daemon.ready("shop", "1.0.0").await;
    let cart = daemon.attach(hello("cart", "1.0.0")).await.unwrap();
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    // What a broken host or a careless hand does; every page behind it is SIGBUS now.
    File::options().write(true).open(daemon.config.server.region_dir.join("cart")).unwrap().set_len(4096).unwrap();
    http(daemon.http(), "GET /metrics/cart", "").await;
    let region = until(&daemon, "cart", |r| r.state() == State::Quarantined).await;
    assert!(region.quarantine_fault.is_some());
    let end = tokio::time::timeout(SOON, cart.ended).await.expect("its stream ends").unwrap();
    assert_eq!(failure(end).reason, ErrorReason::RegionQuarantined);
    assert_eq!(until(&daemon, "shop", |_| true).await.state(), State::Owned);
    assert_eq!(http(daemon.http(), "GET /metrics/cart", "").await.json()["reason"], "REGION_QUARANTINED");
}

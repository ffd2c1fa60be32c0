use heirloom_proto::v1::attach_request::{self, Hello};
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_sidecar::config::ByteCount;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{Daemon, SOON, failure, hello};

#[tokio::test]
async fn it_says_who_it_is() {
    let daemon = Daemon::start().await;
    let info = daemon.control().await.get_server_info(v1::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.pid, info.version.as_str()), (std::process::id(), env!("CARGO_PKG_VERSION")));
    assert!(info.start_time.is_some() && !info.region_format_majors.is_empty());
    assert_eq!(info.region_dir, daemon.config.server.region_dir.display().to_string());
}

#[tokio::test]
async fn health_and_reflection_are_the_standard_ones() {
    let daemon = Daemon::start().await;
    let channel = daemon.channel().await;
    for service in ["", "heirloom.v1.ControlService", "heirloom.v1.InstanceService"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status();
        assert_eq!(status.as_str_name(), "SERVING", "{service}");
    }
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    for service in ["heirloom.v1.ControlService", "heirloom.v1.InstanceService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|n| n == service), "{service} in {names:?}");
    }
}

#[tokio::test]
async fn bad_names_and_unknown_things_are_named() {
    let daemon = Daemon::start().await;
    let mut control = daemon.control().await;
    for name in
        ["", "shop", "regions/", "regions/Shop", "regions/a/b", "regions/../etc", "regions/shop.0.1", "regions/-"]
    {
        let refused = failure(control.get_region(v1::GetRegionRequest { name: name.into() }).await);
        assert_eq!(refused.reason, ErrorReason::InvalidName, "{name}");
        assert!(refused.expected.is_some() && refused.found.is_some(), "{name}: {refused:?}");
    }
    let request = v1::GetRegionRequest { name: "regions/shop".into() };
    let status = control.get_region(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let refused = failure::<()>(Err(status));
    assert_eq!((refused.reason, refused.found.as_deref()), (ErrorReason::RegionNotFound, Some("shop")));
    assert_eq!(refused.expected.as_deref(), Some("the name of a region; there is none yet"));
    for refused in [
        failure(
            control
                .handover(v1::HandoverRequest { name: "regions/shop".into(), ..Default::default() })
                .await
                .map(|_| ()),
        ),
        failure(
            control
                .rollback(v1::RollbackRequest { name: "regions/shop".into(), ..Default::default() })
                .await
                .map(|_| ()),
        ),
        failure(control.verify_region(v1::VerifyRegionRequest { name: "regions/shop".into() }).await.map(|_| ())),
        failure(control.get_handover(v1::GetHandoverRequest { name: "regions/shop/handovers/1".into() }).await),
        failure(
            control
                .abort_handover(v1::AbortHandoverRequest {
                    name: "regions/shop/handovers/-".into(),
                    ..Default::default()
                })
                .await,
        ),
        failure(
            control
                .drain_instance(v1::DrainInstanceRequest {
                    name: "regions/shop/instances/i-1".into(),
                    ..Default::default()
                })
                .await,
        ),
        failure(
            control
                .watch_regions(v1::WatchRegionsRequest { name: "regions/shop".into(), after_sequence: 0 })
                .await
                .map(|_| ()),
        ),
        failure(
            control
                .list_handovers(v1::ListHandoversRequest { parent: "regions/shop".into(), ..Default::default() })
                .await,
        ),
    ] {
        assert_eq!(refused.reason, ErrorReason::RegionNotFound, "{refused:?}");
    }
}

#[tokio::test]
async fn pages_and_sequences_out_of_range_are_refused() {
    let daemon = Daemon::start().await;
    let mut control = daemon.control().await;
    let refused = failure(control.list_regions(v1::ListRegionsRequest { page_size: -1, ..Default::default() }).await);
    assert_eq!((refused.reason, refused.found.as_deref()), (ErrorReason::InvalidField, Some("-1")));
    let request = v1::WatchRegionsRequest { name: "regions/-".into(), after_sequence: 7 };
    let status = control.watch_regions(request).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(failure::<()>(Err(status)).found.as_deref(), Some("7"));
}

#[tokio::test]
async fn a_missing_region_is_answered_with_those_that_there_are() {
    let daemon = Daemon::start().await;
    for service in ["cart", "shop"] {
        daemon.attach(hello(service, "1.0.0")).await.unwrap();
    }
    let request = v1::GetRegionRequest { name: "regions/shp".into() };
    let refused = failure(daemon.control().await.get_region(request).await);
    assert_eq!((refused.expected.as_deref(), refused.found.as_deref()), (Some("one of cart, shop"), Some("shp")));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_named_with_the_limit() {
    let daemon = Daemon::with(|config| config.server.message_max = ByteCount(64 << 10)).await;
    let large = "x".repeat(65 << 10);
    let request = v1::GetRegionRequest { name: large.clone() };
    let status = daemon.control().await.get_region(request).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let refused = failure::<()>(Err(status));
    assert_eq!(refused.reason, ErrorReason::MessageTooLarge);
    assert_eq!(refused.expected.as_deref(), Some("at most 65536 bytes"));
    assert!(refused.found.as_deref() == Some("66564 bytes"), "{refused:?}");
    // On a stream, first and later.
    let refused = failure(daemon.attach(Hello { version: large.clone(), ..hello("shop", "1.0.0") }).await.map(|_| ()));
    assert_eq!(refused.reason, ErrorReason::MessageTooLarge);
    let attached = daemon.attach(hello("shop", "1.0.0")).await.unwrap();
    attached.say(attach_request::Message::Ready(attach_request::Ready { message: large, ..Default::default() })).await;
    let end = tokio::time::timeout(SOON, attached.ended).await.expect("the stream ends").unwrap();
    assert_eq!(failure(end).reason, ErrorReason::MessageTooLarge);
}

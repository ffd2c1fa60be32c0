//! Handovers by gRPC and by HTTP, and what is counted over them.

use std::time::Duration;

use heirloom_proto::names;
use heirloom_proto::v1::handover_record::Outcome;
use heirloom_proto::v1::region::State;
use heirloom_proto::v1::{self, ErrorReason};
use heirloom_region::objects::{MetricDesc, open_counter};

use crate::support::{Attached, Daemon, SOON, failure, http, until};

fn handover(region: &str, version: &str) -> v1::HandoverRequest {
    v1::HandoverRequest {
        name: names::region(region),
        target: Some(v1::handover_request::Target::TargetVersion(version.into())),
        options: None,
    }
}

/// Runs a handover to its decision and gives the last record.
async fn hand_over(daemon: &Daemon, request: v1::HandoverRequest) -> Result<v1::HandoverRecord, tonic::Status> {
    let mut events = daemon.control().await.handover(request).await?.into_inner();
    let mut last = None;
    while let Some(event) = tokio::time::timeout(SOON, events.message()).await.expect("it is decided")? {
        last = event.handover;
    }
    Ok(last.expect("a record"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ownership_passes_by_grpc_and_by_http() {
    let daemon = Daemon::start().await;
    let _first = daemon.ready("shop", "1.0.0").await;
    let before = until(&daemon, "shop", |r| r.state() == State::Owned).await;
    let _second = daemon.ready("shop", "2.0.0").await;
    until(&daemon, "shop", |r| r.instances.iter().filter(|i| i.eligible).count() == 2).await;

    let mut wrong = handover("shop", "2.0.0");
    wrong.options = Some(v1::SwitchOptions { expected_generation: Some(99), ..Default::default() });
    let refused = failure(hand_over(&daemon, wrong).await);
    let found = before.generation.to_string();
    assert_eq!((refused.reason, refused.expected.as_deref()), (ErrorReason::GenerationMismatch, Some("99")));
    assert_eq!((refused.found.as_deref(), refused.region.as_deref()), (Some(found.as_str()), Some("shop")));

    let record = hand_over(&daemon, handover("shop", "2.0.0")).await.expect("it commits");
    assert_eq!((record.outcome(), record.generation), (Outcome::Committed, before.generation + 1));
    assert_eq!(record.caller, format!("uid:{}", nix::unistd::geteuid()));
    let again = hand_over(&daemon, handover("shop", "2.0.0")).await.expect("it is so already");
    assert_eq!(again.outcome(), Outcome::Already);

    let json = "Content-Type: application/json";
    let back = http(daemon.http(), &format!("POST /v1/regions/shop:rollback\n{json}"), "{}").await;
    let answer = back.json();
    assert_eq!((back.status, answer["outcome"].as_str()), (200, Some("committed")), "{answer}");
    assert_eq!((answer["owner"]["version"].as_str(), answer["kind"].as_str()), (Some("1.0.0"), Some("rollback")));
    let wrong =
        http(daemon.http(), &format!("POST /v1/regions/shop:handover?version=2.0.0&expect_generation=1\n{json}"), "")
            .await;
    assert_eq!((wrong.status, wrong.json()["reason"].as_str()), (409, Some("GENERATION_MISMATCH")));
    let late = http(daemon.http(), &format!("POST /v1/regions/shop:abort\n{json}"), "{}").await;
    assert!(late.status == 404 || late.status == 409, "{late:?}");

    let list = v1::ListHandoversRequest { parent: "regions/shop".into(), page_size: 1, page_token: String::new() };
    let page = daemon.control().await.list_handovers(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.handovers.len(), 1);
    let next = v1::ListHandoversRequest { page_token: page.next_page_token, ..list };
    let older = daemon.control().await.list_handovers(next).await.unwrap().into_inner();
    assert_ne!(older.handovers[0].name, page.handovers[0].name);
    let history = http(daemon.http(), "GET /v1/regions/shop/handovers?n=2", "").await.json();
    assert_eq!(history[0]["kind"], "rollback");

    let metrics = http(daemon.http(), "GET /metrics/shop", "").await.body;
    assert!(
        metrics.contains("heirloom_handovers_total{region=\"shop\",outcome=\"committed\",reason=\"\"}"),
        "{metrics}"
    );
    assert!(
        metrics
            .contains("heirloom_handovers_total{region=\"shop\",outcome=\"refused\",reason=\"GENERATION_MISMATCH\"} 2")
    );
    assert!(
        metrics.contains("heirloom_owner_info{region=\"shop\",instance=") && metrics.contains("version=\"1.0.0\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_instances_count_is_scraped_and_goes_on_over_a_handover() {
    let daemon = Daemon::start().await;
    let first = daemon.ready("shop", "1.0.0").await;
    until(&daemon, "shop", |r| r.state() == State::Owned).await;
    let second = daemon.ready("shop", "2.0.0").await;
    until(&daemon, "shop", |r| r.instances.iter().filter(|i| i.eligible).count() == 2).await;
    let desc = MetricDesc { name: "requests_total", help: "Requests.", unit: "", labels: &[("region", "eu")] };
    let count = |attached: &Attached, n| open_counter(attached.process.as_ref().unwrap(), &desc).unwrap().add(n);
    count(&first, 3);
    count(&second, 4);
    hand_over(&daemon, handover("shop", "2.0.0")).await.expect("it commits");
    let line = "requests_total{region=\"shop\",exported_region=\"eu\"} 7\n";
    for path in ["/metrics", "/metrics/shop"] {
        let text = http(daemon.http(), &format!("GET {path}"), "").await.body;
        assert!(text.contains(line) && !text.contains("_created"), "{text}");
    }
    let open = http(daemon.http(), "GET /metrics\nAccept: application/openmetrics-text;version=1.0.0", "").await.body;
    assert!(open.contains("# TYPE requests counter\n# HELP requests Requests.\n"), "{open}");
    let created =
        open.lines().find_map(|l| l.strip_prefix("requests_created{region=\"shop\",exported_region=\"eu\"} "));
    assert!(created.and_then(|c| c.parse::<f64>().ok()).is_some_and(|c| c > 1.6e9), "{open}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_stream_neither_aborts_nor_repeats_a_handover() {
    let daemon = Daemon::start().await;
    let _first = daemon.ready("shop", "1.0.0").await;
    let before = until(&daemon, "shop", |r| r.state() == State::Owned).await.generation;
    let mut request = handover("shop", "2.0.0");
    let wait = v1::SwitchOptions { ready_timeout_ms: Some(9000), request_id: "one".into(), ..Default::default() };
    request.options = Some(wait);
    // It waits for its target, and nobody waits for it any more.
    let mut control = daemon.control().await;
    let lost = tokio::time::timeout(Duration::from_millis(300), control.handover(request.clone())).await;
    drop(lost);
    let _second = daemon.ready("shop", "2.0.0").await;
    let region = until(&daemon, "shop", |r| r.generation == before + 1 && r.state() == State::Owned).await;
    assert!(region.instances.iter().any(|i| i.name == region.owner && i.version == "2.0.0"));
    let joined = hand_over(&daemon, request).await.expect("the same request is done already");
    assert_eq!(joined.generation, before + 1);
    assert_eq!(until(&daemon, "shop", |_| true).await.generation, before + 1);
}

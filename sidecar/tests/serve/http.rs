use crate::support::{Daemon, http};

#[tokio::test]
async fn health_says_when_it_stops() {
    let daemon = Daemon::start().await;
    assert_eq!(http(daemon.http(), "GET /healthz", "").await.status, 200);
    assert_eq!(http(daemon.http(), "GET /readyz", "").await.status, 200);
    assert_eq!(http(daemon.http(), "GET /nothing", "").await.status, 404);
}

/// As many idle connections as this process may hold, or 10,000: who asks is answered, over HTTP and gRPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_disturb_nobody() {
    let daemon = Daemon::start().await;
    let open_max = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().0;
    let mut idle = Vec::new();
    for n in 0..open_max.saturating_sub(2_000).min(10_000) {
        idle.push(tokio::net::TcpStream::connect(daemon.http()).await.expect("it is accepted"));
        if n % 1_000 == 999 {
            assert_eq!(http(daemon.http(), "GET /healthz", "").await.status, 200, "among {n}");
        }
    }
    assert!(http(daemon.http(), "GET /metrics", "").await.body.contains("heirloom_build_info"));
    let attached = daemon.ready("shop", "1.0.0").await;
    crate::support::until(&daemon, "shop", |region| region.owner.ends_with(attached.instance())).await;
}

#[tokio::test]
async fn the_scrape_has_the_format_that_was_asked_for() {
    let daemon = Daemon::start().await;
    let text = http(daemon.http(), "GET /metrics", "").await;
    assert!(text.headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", text.headers);
    assert!(text.body.contains("# TYPE heirloom_build_info gauge\n") && !text.body.contains("# EOF"), "{}", text.body);
    let open = http(daemon.http(), "GET /metrics\nAccept: application/openmetrics-text;version=1.0.0", "").await;
    assert!(open.headers.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("heirloom_quarantined_created "), "{}", open.body);
    let missing = http(daemon.http(), "GET /metrics/shop", "").await;
    assert_eq!((missing.status, missing.json()["reason"].as_str()), (404, Some("REGION_NOT_FOUND")));
    assert_eq!(http(daemon.http(), "GET /metrics?scope=moon", "").await.status, 400);
}

#[tokio::test]
async fn verbs_are_refused_to_browsers_and_bad_requests_are_named() {
    let daemon = Daemon::start().await;
    let json = "Content-Type: application/json";
    for (head, body, status, reason) in [
        ("POST /v1/regions/shop:handover\nContent-Type: text/plain", "{}", 403, "CALLER_DENIED"),
        (
            "POST /v1/regions/shop:handover\nOrigin: http://evil.example\nContent-Type: application/json",
            "{}",
            403,
            "CALLER_DENIED",
        ),
        (
            "POST /v1/regions/shop:handover\nHost: evil.example\nContent-Type: application/json",
            "{}",
            403,
            "CALLER_DENIED",
        ),
        (&format!("POST /v1/regions/shop:handover\n{json}"), "{\"expect\": 7}", 400, "INVALID_FIELD"),
        (&format!("POST /v1/regions/shop:handover?nonsense=1\n{json}"), "", 400, "INVALID_FIELD"),
        (&format!("POST /v1/regions/Shop:handover\n{json}"), "{}", 400, "INVALID_NAME"),
        (&format!("POST /v1/regions/shop:handover\n{json}"), "{}", 404, "REGION_NOT_FOUND"),
        (&format!("POST /v1/regions/shop:rollback\n{json}"), "{}", 404, "REGION_NOT_FOUND"),
        (&format!("POST /v1/regions/shop:abort\n{json}"), "{}", 404, "REGION_NOT_FOUND"),
    ] {
        let answer = http(daemon.http(), head, body).await;
        let found = answer.json();
        assert_eq!((answer.status, found["reason"].as_str()), (status, Some(reason)), "{head}: {found}");
        assert_eq!(found["outcome"], "refused");
    }
    let rebound = http(daemon.http(), "GET /v1/regions\nHost: evil.example", "").await;
    assert_eq!(rebound.status, 403);
    assert_eq!(http(daemon.http(), "GET /v1/regions", "").await.json(), serde_json::json!([]));
}

#[tokio::test]
async fn what_the_framework_refuses_is_an_object_too() {
    let daemon = Daemon::start().await;
    let json = "Content-Type: application/json";
    let large = format!("{{\"note\":\"{}\"}}", "x".repeat(64 << 10));
    for (head, body, status, reason) in [
        ("GET /nothing".to_owned(), "", 404, "INVALID_NAME"),
        ("DELETE /metrics".to_owned(), "", 405, "INVALID_FIELD"),
        (format!("PUT /v1/regions/shop\n{json}"), "{}", 405, "INVALID_FIELD"),
        (format!("POST /v1/regions/shop:handover\n{json}"), large.as_str(), 413, "MESSAGE_TOO_LARGE"),
        ("GET /metrics/%FF".to_owned(), "", 400, "INVALID_FIELD"),
        ("GET /v1/regions/shop/handovers?n=%FF".to_owned(), "", 400, "INVALID_FIELD"),
        (format!("POST /v1/regions/shop:handover?note=%FF\n{json}"), "{}", 400, "INVALID_FIELD"),
        ("GET /metrics?scope=%FF".to_owned(), "", 400, "INVALID_FIELD"),
    ] {
        let answer = http(daemon.http(), &head, body).await;
        let found = answer.json();
        assert_eq!((answer.status, found["reason"].as_str()), (status, Some(reason)), "{head}: {found}");
        assert!(found["expected"].is_string() && found["found"].is_string(), "{found}");
        assert!(status != 405 || answer.headers.contains("allow: "), "{}", answer.headers);
    }
}

#[tokio::test]
async fn prometheus_finds_the_sidecar_itself() {
    let daemon = Daemon::start().await;
    let found = http(daemon.http(), "GET /sd", "").await;
    assert!(found.headers.contains("content-type: application/json"));
    let groups = found.json();
    let group = &groups.as_array().unwrap()[0];
    assert_eq!(group["targets"][0], daemon.http().to_string());
    assert_eq!(group["labels"]["__metrics_path__"], "/metrics");
    let own = http(daemon.http(), "GET /metrics?scope=sidecar", "").await;
    assert!(own.body.contains("heirloom_build_info{version="));
}

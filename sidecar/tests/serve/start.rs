use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;

use heirloom_proto::v1::{self, ErrorReason};
use heirloom_sidecar::config::ConfigError;
use heirloom_sidecar::serve::{self, ServeError};

use crate::support::{self, Daemon, SOON, failure, http};

#[tokio::test]
async fn sockets_have_their_mode_and_go_with_the_daemon() {
    let daemon = Daemon::start().await;
    let (socket, descriptors) = (daemon.config.server.socket.clone(), daemon.config.descriptor_socket());
    for path in [&socket, &descriptors] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o660);
    }
    daemon.running.stop().await;
    assert!(!socket.exists() && !descriptors.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_socket_is_noticed_and_who_is_there_goes_on() {
    let daemon = Daemon::start().await;
    let mut control = daemon.control().await;
    assert!(http(daemon.http(), "GET /metrics", "").await.body.contains("heirloom_socket_missing 0\n"));
    std::fs::remove_file(&daemon.config.server.socket).unwrap();
    let noticed = async {
        loop {
            let ready = http(daemon.http(), "GET /readyz", "").await;
            if ready.status != 200 {
                return ready;
            }
        }
    };
    let ready = tokio::time::timeout(SOON, noticed).await.expect("it is noticed");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(&daemon.config.server.socket.display().to_string()), "{ready:?}");
    assert!(http(daemon.http(), "GET /metrics?scope=sidecar", "").await.body.contains("heirloom_socket_missing 1\n"));
    control.get_server_info(v1::GetServerInfoRequest {}).await.expect("who is connected goes on");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_second_daemon_is_refused() {
    let dir = support::directory();
    let config = support::config(dir.path());
    std::fs::create_dir_all(config.server.socket.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&config.server.socket).unwrap());
    let running = serve::start(config.clone()).await.expect("a stale socket is no obstacle");

    let second = serve::start(config.clone()).await.err().expect("somebody is there");
    let own = format!("pid {}", std::process::id());
    assert!(matches!(&second, ServeError::Busy { holder, .. } if *holder == own), "{second}");
    let mut elsewhere = config.clone();
    elsewhere.server.socket = dir.path().join("run/other.sock");
    let second = serve::start(elsewhere).await.err().expect("the regions are somebody's");
    assert!(matches!(&second, ServeError::Busy { what, .. } if what.contains("region directory")), "{second}");
    running.stop().await;
    serve::start(config).await.expect("it is free again").stop().await;
}

#[tokio::test]
async fn drafts_of_a_killed_creation_are_removed_and_nothing_else() {
    let dir = support::directory();
    let config = support::config(dir.path());
    let regions = &config.server.region_dir;
    std::fs::create_dir_all(regions).unwrap();
    let at = |name: &str| regions.join(name);
    let (dead, living) = (at(".shop.00112233aabbccdd.tmp"), at(".shop.ffeeddccbbaa9988.tmp"));
    let strange = [at(".shop.tmp"), at(".lock"), at("notes.txt")];
    for path in strange.iter().chain([&dead, &living]) {
        std::fs::write(path, "draft").unwrap();
    }
    let maker = std::fs::File::open(&living).unwrap();
    maker.lock().unwrap();
    let running = serve::start(config.clone()).await.expect("drafts are no obstacle");
    assert!(!dead.exists(), "nobody is making it");
    assert!(living.exists() && strange.iter().all(|path| path.exists()));
    running.stop().await;
    drop(maker);
    serve::start(config).await.expect("it starts").stop().await;
    assert!(!living.exists());
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_lock_and_one_that_is_refused_takes_none_away() {
    let dir = support::directory();
    let config = support::config(dir.path());
    let locks = [dir.path().join("run/h.sock.lock"), config.server.region_dir.join(".sidecar.lock")];
    let mut taken = config.clone();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    taken.server.http_listen = holder.local_addr().unwrap().to_string();
    let refused = serve::start(taken).await.err().expect("the address is somebody's");
    assert!(matches!(refused, ServeError::Io { .. }), "{refused}");
    assert!(locks.iter().all(|lock| !lock.exists()), "left behind");
    let running = serve::start(config.clone()).await.expect("nothing is in the way");
    serve::start(config).await.err().expect("somebody is there");
    assert!(locks.iter().all(|lock| lock.exists()), "the holder's");
    running.stop().await;
    assert!(locks.iter().all(|lock| !lock.exists()), "left behind");
}

#[tokio::test]
async fn what_forbids_a_start_is_named() {
    let dir = support::directory();
    let mut config = support::config(dir.path());
    config.server.grpc_listen = "127.0.0.1:0".into();
    let refused = serve::start(config).await.err().expect("TLS is missing");
    assert!(
        matches!(&refused, ServeError::Config(ConfigError::Refused(v)) if v.key == "server.grpc_listen"),
        "{refused}"
    );
}

/// Runs as another user when started again by the test below; otherwise does nothing.
#[tokio::test]
async fn as_another_user() {
    let Ok(socket) = std::env::var("HEIRLOOM_TEST_DENIED_SOCKET") else { return };
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix://{socket}")).unwrap();
    let channel = endpoint.connect().await.expect("the mode lets everybody connect");
    let mut control = v1::control_service_client::ControlServiceClient::new(channel.clone());
    let refused = failure(control.get_server_info(v1::GetServerInfoRequest {}).await);
    assert_eq!(refused.reason, ErrorReason::CallerDenied);
    assert!(refused.found.as_deref().is_some_and(|f| f.contains("uid 65534")), "{refused:?}");
    let mut instances = v1::instance_service_client::InstanceServiceClient::new(channel.clone());
    let refused = failure(instances.attach(tokio_stream::empty()).await.map(|_| ()));
    assert_eq!(refused.reason, ErrorReason::CallerDenied);
    let request = tonic_health::pb::HealthCheckRequest::default();
    let refused = failure(tonic_health::pb::health_client::HealthClient::new(channel).check(request).await);
    assert_eq!(refused.reason, ErrorReason::CallerDenied);
}

#[tokio::test]
async fn a_uid_that_is_not_listed_is_denied_on_every_call() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can become another user.
    }
    let daemon = Daemon::with(|c| c.server.socket_mode = "0666".parse().unwrap()).await;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(daemon.dir.path(), open).unwrap();
    // A copy, because the way to this binary may be closed to others.
    let binary = daemon.dir.path().join("as-another-user");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let mut command = std::process::Command::new(&binary);
    command.args(["--exact", "start::as_another_user"]).current_dir("/").uid(65534).gid(65534);
    command.env("HEIRLOOM_TEST_DENIED_SOCKET", &daemon.config.server.socket);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    daemon.control().await.get_server_info(v1::GetServerInfoRequest {}).await.expect("we are still let in");
}

use super::*;

fn refused(text: &str) -> String {
    Config::parse(text, "heirloom.toml").expect_err("the text is bad").to_string()
}

#[test]
fn the_defaults_read_back_from_their_own_text() {
    let text = toml::to_string(&Config::default()).unwrap();
    assert_eq!(Config::parse(&text, "defaults").unwrap(), Config::default(), "{text}");
    assert!(text.contains("limit = \"1GiB\"") && text.contains("freeze_timeout = \"50ms\""), "{text}");
}

#[test]
fn an_unknown_key_names_file_line_and_key() {
    let error = refused("[server]\nsocket = \"/run/x\"\nsocket_moed = \"0660\"\n");
    assert!(error.starts_with("heirloom.toml:3: ") && error.contains("socket_moed"), "{error}");
    let error = refused("\n[regions.shop]\nvacansy = \"hold\"\n");
    assert!(error.starts_with("heirloom.toml:3: ") && error.contains("vacansy"), "{error}");
}

#[test]
fn sizes_and_durations_need_their_unit() {
    for (text, found) in [
        ("[region]\nlimit = 1073741824", "integer"),
        ("[region]\nlimit = \"1073741824\"", "1073741824"),
        ("[region]\nlimit = \"much\"", "much"),
        ("[region]\nfreeze_timeout = 50", "integer"),
        ("[region]\nfreeze_timeout = \"50\"", "\"50\""),
        ("[server]\nsocket_mode = \"rw\"", "rw"),
        ("[region]\nvacancy = \"perhaps\"", "perhaps"),
    ] {
        let error = refused(text);
        assert!(error.starts_with("heirloom.toml:2: ") && error.contains(found), "{text}: {error}");
    }
}

#[test]
fn a_region_takes_what_it_does_not_override() {
    let config =
        Config::parse("[region]\nlimit = \"64MiB\"\n[regions.shop]\nvacancy = \"hold\"\nflush_timeout = \"3s\"", "t")
            .unwrap();
    let (shop, cart) = (config.policy("shop"), config.policy("cart"));
    assert_eq!(
        (shop.vacancy, shop.flush_timeout, shop.limit),
        (Vacancy::Hold, Duration::from_secs(3), ByteCount(64 << 20))
    );
    assert_eq!(
        (cart.vacancy, cart.flush_timeout, cart.limit),
        (Vacancy::Promote, Duration::from_secs(10), ByteCount(64 << 20))
    );
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heirloom.toml");
    std::fs::write(&file, "[server]\nsocket = \"/run/file.sock\"\nhttp_listen = \"\"\n").unwrap();
    let flags =
        Overrides { socket: Some("/run/flag.sock".into()), log_format: Some(LogFormat::Json), ..Overrides::default() };
    let config = Config::load(Some(&file), flags).unwrap();
    assert_eq!((config.server.socket.to_str(), config.log.format), (Some("/run/flag.sock"), LogFormat::Json));
    assert_eq!((config.server.http_listen.as_str(), config.server.message_max), ("", ByteCount(4 << 20)));
    assert_eq!(config.descriptor_socket().to_str(), Some("/run/flag.sock.fd"));

    let missing =
        Config::load(Some(&dir.path().join("none")), Overrides::default()).expect_err("a named file must exist");
    assert!(matches!(missing, ConfigError::Unreadable { .. }), "{missing}");
}

#[test]
fn the_check_names_every_value_that_forbids_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.socket = dir.path().join("h.sock");
    config.server.region_dir = dir.path().join("regions");
    assert_eq!(config.check().into_iter().find(|v| !v.ok), None);

    std::fs::write(dir.path().join("h.sock"), "a file").unwrap();
    std::fs::write(dir.path().join("regions"), "a file").unwrap();
    config.server.grpc_listen = "127.0.0.1:0".into();
    config.server.http_listen = "nowhere".into();
    config.region.freeze_timeout = Duration::from_secs(2);
    config.region.quarantine_deaths = 17;
    config.regions.insert("Shop!".into(), RegionOverride::default());
    let bad: Vec<String> = config.check().into_iter().filter(|v| !v.ok).map(|v| v.key).collect();
    assert_eq!(
        bad,
        [
            "server.socket",
            "server.grpc_listen",
            "server.http_listen",
            "server.region_dir",
            "region.freeze_timeout",
            "region.quarantine_deaths",
            "regions.Shop!"
        ]
    );
    assert!(matches!(config.checked(), Err(ConfigError::Refused(v)) if v.key == "server.socket"));
}

#[test]
fn an_address_is_no_path_to_listen_on() {
    let mut config = Config::default();
    config.server.region_dir = "/dev/shm".into();
    for address in ["https://sidecar:7432", "http://sidecar"] {
        config.server.socket = address.into();
        let refused = config.checked().expect_err("a socket is a path").to_string();
        assert!(refused.contains("expected a path") && refused.contains("server.grpc_listen"), "{refused}");
    }
}

#[test]
fn a_check_tells_a_living_socket_from_a_stale_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.socket = dir.path().join("h.sock");
    config.server.region_dir = dir.path().into();
    let said = || config.check().into_iter().find(|v| v.key == "server.socket").map(|v| (v.ok, v.message)).unwrap();
    let living = std::os::unix::net::UnixListener::bind(&config.server.socket).unwrap();
    assert!(said().0 && said().1.contains("a living process listens there"), "{:?}", said());
    drop(living);
    assert!(said().0 && said().1.contains("a stale socket"), "{:?}", said());
}

//! Who may call: an absent socket, another user, mutual TLS.

use std::fs;
use std::os::unix::process::CommandExt;

use heirloom_tests::cli::{call, helper};
use heirloom_tests::host::{Host, tmpfs_dir};
use heirloom_tests::http;
use heirloom_tests::instance::free_address;
use heirloom_tests::wait::until;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

#[test]
fn nobody_listens() {
    let dir = tmpfs_dir();
    let socket = dir.path().join("nothing.sock");
    let mut command = helper("heirloom");
    command.arg("--socket").arg(&socket);
    let answer = call(&mut command, &["status"]);
    assert_eq!(answer.exit_code, 5, "{} {}", answer.json, answer.stderr);
    assert!(
        answer.stderr.contains("nothing.sock") || answer.json.to_string().contains("nothing.sock"),
        "names the socket"
    );
    let mut command = helper("heirloom");
    command.arg("--socket").arg(&socket);
    call(&mut command, &["handover", "shop", "2.0.0"]).expect_reason("UNREACHABLE", 5);
}

/// Without root nobody can call as another user; the allow-list's own tests stand beside it in the sidecar.
#[test]
fn another_user_is_refused() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: calling as another user is left out");
        return;
    }
    let mut host = Host::prepared("socket_mode = \"0666\"", "[region]\nlimit = \"64MiB\"\n");
    host.start_sidecar();
    let (_old, _new) = host.pair("shop");
    // The directory is private to its owner; let the other user come as far as the socket, and run the program.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(host.dir(), open).expect("open the directory");
    let program = host.dir().join("heirloom-as-nobody");
    fs::copy(helper("heirloom").get_program(), &program).expect("copy the program");
    let mut command = std::process::Command::new(&program);
    command.arg("heirloom").arg("--socket").arg(host.socket()).uid(65534).gid(65534);
    let answer = call(&mut command, &["handover", "shop", "2.0.0"]);
    let answer = answer.expect_reason("CALLER_DENIED", 3);
    assert!(answer.word("found").contains("65534"), "says who called: {}", answer.json);
    assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
}

/// The socket's own mode keeps this user out, before the sidecar hears of it.
#[test]
fn a_socket_that_this_user_may_not_open_is_named() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: calling as another user is left out");
        return;
    }
    let host = Host::start();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(host.dir(), open).expect("open the directory");
    let program = host.dir().join("heirloom-as-nobody");
    fs::copy(helper("heirloom").get_program(), &program).expect("copy the program");
    for verb in [&["status"][..], &["handover", "shop", "2.0.0"]] {
        let mut command = std::process::Command::new(&program);
        command.arg("heirloom").arg("--socket").arg(host.socket()).uid(65534).gid(65534);
        let answer = call(&mut command, verb).expect_reason("CALLER_DENIED", 3);
        assert_eq!(answer.word("found"), "uid 65534", "{}", answer.json);
        assert!(answer.word("message").contains("heirloom.sock"), "{}", answer.json);
    }
}

#[test]
fn mutual_tls_admits_who_its_ca_signed() {
    let dir = tmpfs_dir();
    let file = |name: &str| dir.path().join(name);
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().expect("a key")).expect("a CA");
    let stranger = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("another CA");
    fs::write(file("ca.pem"), ca.pem()).expect("write");
    for (name, issuer) in [("server", &ca), ("deploy", &ca), ("stranger", &stranger)] {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, issuer).expect("a certificate");
        fs::write(file(&format!("{name}.pem")), cert.pem()).expect("write");
        fs::write(file(&format!("{name}.key")), key.serialize_pem()).expect("write");
    }
    let address = free_address();
    let tables = format!(
        "[tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n[region]\nlimit = \"64MiB\"\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let mut host = Host::prepared(&format!("grpc_listen = \"{address}\""), &tables);
    host.start_sidecar();
    let (_old, _new) = host.pair("shop");
    let as_client = |who: Option<&str>| {
        let mut command = helper("heirloom");
        command.arg("--socket").arg(format!("https://{address}")).arg("--tls-ca").arg(file("ca.pem"));
        if let Some(who) = who {
            command
                .arg("--tls-cert")
                .arg(file(&format!("{who}.pem")))
                .arg("--tls-key")
                .arg(file(&format!("{who}.key")));
        }
        command
    };
    for who in [None, Some("stranger")] {
        let answer = call(&mut as_client(who), &["handover", "shop", "2.0.0"]);
        assert!([3, 5].contains(&answer.exit_code), "{who:?}: {} {}", answer.json, answer.stderr);
        assert_eq!(host.status("shop")["owner"]["version"], "1.0.0");
    }
    let answer = call(&mut as_client(Some("deploy")), &["handover", "shop", "2.0.0"]).expect("committed", 0);
    assert_eq!(answer.json["owner"]["version"], "2.0.0");
    assert!(answer.word("caller").contains("deploy"), "names the certificate: {}", answer.json);
    let back = call(&mut as_client(Some("deploy")), &["rollback", "shop"]).expect("committed", 0);
    assert_eq!(back.json["owner"]["version"], "1.0.0");
    let history = call(&mut as_client(Some("deploy")), &["history", "shop", "-n", "2"]);
    for record in history.json.as_array().expect("two records") {
        assert_eq!(record["caller"], answer.json["caller"], "the record has it, too: {record}");
    }
}

#[test]
fn the_sockets_are_private_by_default() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start();
    let _shop = host.ready("shop", "1.0.0");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&host.socket()), 0o660);
    assert_eq!(mode(&host.region_file("shop")), 0o600);
    until("/healthz", || http::get(host.http(), "/healthz", &[]).map(drop));
}

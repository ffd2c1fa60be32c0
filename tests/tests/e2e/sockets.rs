//! Kept sockets: one queue of connections over handovers, restarts and deaths.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use heirloom_tests::grpc::Control;
use heirloom_tests::host::Host;
use heirloom_tests::instance::{Instance, free_address};
use heirloom_tests::storm::{Storm, Tally};
use heirloom_tests::wait::{holds, until};

const ANY: &str = "127.0.0.1:0";

fn listen(instance: &mut Instance, name: &str, address: &str, n: usize) -> SocketAddr {
    let opened = instance.tell(&format!("listen {name} {address} {n}"));
    assert_eq!(opened["value"]["count"], n, "{opened}");
    opened["value"]["address"].as_str().and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("{opened}"))
}

/// Who answers at `to`.
fn ask(to: SocketAddr) -> String {
    let mut stream = TcpStream::connect(to).expect("the socket listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"who\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// An owner and a standby that both serve `http`.
fn serving_pair(host: &Host) -> (Instance, Instance, SocketAddr) {
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let to = listen(&mut old, "http", ANY, 1);
    let mut new = host.ready("shop", "2.0.0");
    host.await_eligible("shop", "2.0.0");
    assert_eq!(listen(&mut new, "http", &to.to_string(), 1), to, "one name, one socket");
    old.tell("answer http");
    new.tell("answer http");
    (old, new, to)
}

fn calm(tally: &Tally) {
    assert!(tally.failures.is_empty() && tally.answered() == tally.begun, "refused, reset or lost: {tally:#?}");
}

#[test]
fn no_connection_is_refused_or_reset_over_handovers_and_rollbacks() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rate, switches) = (number("HEIRLOOM_STORM_PER_SECOND", 1000), number("HEIRLOOM_STORM_SWITCHES", 40));
    let host = Host::start();
    let (mut old, mut new, to) = serving_pair(&host);
    let mut control = Control::connect(&host);
    let storm = Storm::start(to, rate);
    for n in 0..switches {
        let version = if n % 2 == 0 { "2.0.0" } else { "1.0.0" };
        let done = control.handover("shop", version).expect("a handover under load");
        assert!(done.generation > u64::from(n));
        std::thread::sleep(Duration::from_millis(50)); // the load is on in between, too
    }
    let tally = storm.stop();
    println!(
        "{} connections in {:?}, {} switches: longest gap {:?}, slowest {:?}",
        tally.begun, tally.lasted, switches, tally.longest_gap, tally.slowest
    );
    calm(&tally);
    assert!(tally.answers.len() == 2, "both served: {tally:#?}");
    let drained = host.await_status("shop", "no connection left", |status| {
        let instances = status["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        instances.iter().all(|i| i["in_flight"].as_object().is_none_or(|counts| counts.is_empty()))
    });
    drop(drained);
    assert_eq!((old.tell("role")["ok"].clone(), new.tell("role")["ok"].clone()), (true.into(), true.into()));
}

#[test]
fn an_aborted_handover_leaves_the_old_one_accepting() {
    let host = Host::start();
    let mut old = host.attach("shop", "1.0.0");
    old.tell("hook flush veto");
    old.tell("ready");
    host.await_owner("shop", "1.0.0");
    let to = listen(&mut old, "http", ANY, 1);
    let mut new = host.ready("shop", "2.0.0");
    listen(&mut new, "http", ANY, 1);
    old.tell("answer http");
    new.tell("answer http");
    host.await_eligible("shop", "2.0.0");
    let storm = Storm::start(to, 200);
    for _ in 0..5 {
        host.handover("shop", "2.0.0", &[]).expect("aborted", 4);
    }
    let tally = storm.stop();
    calm(&tally);
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["1.0.0"]);
}

#[test]
fn connections_wait_in_the_queue_while_nobody_owns() {
    let host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let to = listen(&mut old, "http", ANY, 1);
    old.tell("answer http");
    assert_eq!(ask(to), "1.0.0");
    old.leave();
    let storm = Storm::start(to, 100);
    until("some connections to wait", || TcpStream::connect(to).map(drop).map_err(|e| e.to_string()));
    let mut new = host.ready("shop", "1.0.1");
    assert_eq!(listen(&mut new, "http", &to.to_string(), 1), to, "the sidecar kept it");
    new.tell("answer http");
    assert_eq!(ask(to), "1.0.1");
    let tally = storm.stop();
    calm(&tally);
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["1.0.1"]);
}

#[test]
fn instances_put_sockets_back_into_a_sidecar_that_was_killed() {
    let mut host = Host::start();
    let (mut old, new, to) = serving_pair(&host);
    let group = listen(&mut old, "group", ANY, 300);
    let storm = Storm::start(to, 200);
    host.kill_sidecar();
    assert_eq!(ask(to), "1.0.0", "the data plane needs no sidecar");
    assert_eq!(listen(&mut old, "http", &to.to_string(), 1), to, "nor does a name that is kept here");
    host.start_sidecar();
    until("the sidecar to keep them again", || {
        let kept = host.metric("heirloom_kept_sockets");
        holds(kept == 301.0, kept)
    });
    calm(&storm.stop());
    drop(new);
    old.leave(); // nobody but the sidecar keeps them now
    let mut next = host.ready("shop", "3.0.0");
    assert_eq!(listen(&mut next, "http", ANY, 1), to);
    assert_eq!(listen(&mut next, "group", ANY, 300), group);
}

#[test]
fn a_group_of_more_than_one_packet_comes_whole_and_every_queue_is_served() {
    let host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let many = listen(&mut old, "many", ANY, 300);
    let few = listen(&mut old, "few", ANY, 4);
    let mut new = host.ready("shop", "2.0.0");
    host.await_eligible("shop", "2.0.0");
    assert_eq!(listen(&mut new, "many", &many.to_string(), 300), many);
    assert_eq!(listen(&mut new, "few", &few.to_string(), 4), few);
    old.tell("answer few");
    new.tell("answer few");
    let storm = Storm::start(few, 200);
    for version in ["2.0.0", "1.0.0", "2.0.0"] {
        host.handover("shop", version, &[]).expect("committed", 0);
    }
    let tally = storm.stop();
    calm(&tally);
}

#[test]
fn another_address_type_or_number_is_refused_with_both() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    let to = listen(&mut old, "http", ANY, 1);
    let udp = old.tell(&format!("datagrams metrics {ANY}"))["value"].as_str().unwrap().to_owned();
    for instance in [&mut old, &mut new] {
        let refused = instance.tell_refused("listen http 127.0.0.1:1 1", "SOCKET_MISMATCH");
        let message = refused["message"].as_str().unwrap();
        assert_eq!(message, format!("socket http: address is {to}, asked for was 127.0.0.1:1"));
        instance.tell_refused(&format!("listen http {to} 2"), "SOCKET_MISMATCH");
        instance.tell_refused(&format!("datagrams http {to}"), "SOCKET_MISMATCH");
        instance.tell_refused("listen a.b 127.0.0.1:0 1", "INVALID_NAME");
        instance.tell_refused("listen web nowhere 1", "INVALID_FIELD");
        instance.tell_refused(&format!("listen web {to} 1"), "IO"); // another name at a bound address
    }
    assert_eq!(new.tell(&format!("datagrams metrics {udp}"))["value"], udp.as_str());
    let client = UdpSocket::bind(ANY).unwrap();
    client.send_to(b"x", &udp).expect("it is bound");
}

#[test]
fn two_that_bind_a_name_at_once_have_one_socket() {
    let host = Host::start();
    let mut all: Vec<Instance> = (0..4).map(|n| host.attach("shop", &format!("1.0.{n}"))).collect();
    for round in 0..10 {
        for instance in &mut all {
            instance.send(&format!("listen n{round} {ANY} 2"));
        }
        let answers: Vec<_> = all.iter_mut().map(|instance| instance.hear()).collect();
        assert!(answers.iter().all(|a| a["ok"] == true && a == &answers[0]), "{answers:?}");
    }
}

#[test]
fn a_unix_sockets_file_stays_when_its_binder_leaves() {
    let host = Host::start();
    let (mut old, mut new) = host.pair("shop");
    let path = host.dir().join("shop.sock");
    let listen = format!("listen http {} 1", path.display());
    for instance in [&mut old, &mut new] {
        instance.tell(&listen);
        instance.tell("answer http");
    }
    let ask = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("the file leads to the socket");
        stream.write_all(b"who\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(ask(), "1.0.0");
    old.leave();
    assert_eq!(ask(), "2.0.0");
}

#[test]
fn a_handover_to_who_has_no_room_for_the_sockets_is_refused_with_the_limit() {
    let host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let mut new = host.ready("shop", "2.0.0");
    let limit = new.tell("room 60")["value"].as_u64().unwrap();
    host.await_eligible("shop", "2.0.0");
    let few = listen(&mut old, "few", ANY, 10);
    listen(&mut old, "many", ANY, 100);
    listen(&mut new, "few", &few.to_string(), 10);
    let refused = host.handover("shop", "2.0.0", &[]).expect_reason("VETOED", 3);
    let message = refused.word("message");
    assert!(message.contains("RLIMIT_NOFILE") && message.contains(&limit.to_string()), "{message}");
    let refused = new.tell_refused(&format!("listen many {ANY} 100"), "TABLE_FULL");
    assert!(refused["message"].as_str().unwrap().contains("RLIMIT_NOFILE"), "{refused}");
    new.tell("room 300");
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
}

/// Descriptor tables with hardly more room than the sockets need, and one with less.
#[test]
fn a_thousand_listeners_come_with_one_handover_or_it_is_refused_whole() {
    const N: usize = 1000;
    const BESIDES: usize = 40;
    let host = Host::start();
    let mut old = host.ready("shop", "1.0.0");
    host.await_owner("shop", "1.0.0");
    let mut new = host.ready("shop", "2.0.0");
    host.await_eligible("shop", "2.0.0");
    let limit = new.tell(&format!("room {}", N / 2))["value"].as_u64().unwrap();
    old.tell(&format!("room {}", 2 * N + BESIDES)); // it keeps each, and listens on each
    let name = |n: usize| format!("port-{n}");
    let all: Vec<SocketAddr> = (0..N).map(|n| listen(&mut old, &name(n), ANY, 1)).collect();

    let refused = host.handover("shop", "2.0.0", &[]).expect_reason("VETOED", 3);
    let message = refused.word("message");
    assert!(message.contains("RLIMIT_NOFILE") && message.contains(&limit.to_string()), "{message}");
    for n in [0, N / 2, N - 1] {
        old.tell(&format!("answer {}", name(n)));
        assert_eq!(ask(all[n]), "1.0.0", "nothing changed");
    }
    // What it has is counted in already.
    let kept = new.tell("room 0")["value"].as_u64().unwrap() as usize;
    new.tell(&format!("room {}", N + BESIDES - kept.min(N)));
    host.handover("shop", "2.0.0", &[]).expect("committed", 0);
    old.leave();
    new.tell(&format!("room {}", N + 2 * BESIDES)); // to listen, as well
    for (n, to) in all.iter().enumerate() {
        assert_eq!(listen(&mut new, &name(n), ANY, 1), *to, "the same socket");
        TcpStream::connect(to).expect("it listens");
    }
    for n in [0, N / 2, N - 1] {
        new.tell(&format!("answer {}", name(n)));
        assert_eq!(ask(all[n]), "2.0.0");
    }
}

#[test]
fn sockets_of_the_service_manager_are_kept_under_their_names() {
    let of_shop = TcpListener::bind(free_address()).unwrap();
    let of_any = TcpListener::bind(free_address()).unwrap();
    let mut host = Host::prepared("", "[region]\nlimit = \"64MiB\"\n");
    host.start_sidecar_with(&[("shop.http", &of_shop), ("admin", &of_any)]);
    let mut shop = host.ready("shop", "1.0.0");
    let (http, admin) = (of_shop.local_addr().unwrap(), of_any.local_addr().unwrap());
    shop.tell_refused("listen http 127.0.0.1:1 1", "SOCKET_MISMATCH");
    assert_eq!(listen(&mut shop, "http", &http.to_string(), 1), http);
    assert_eq!(listen(&mut shop, "admin", &admin.to_string(), 1), admin);
    shop.tell("answer http");
    host.await_owner("shop", "1.0.0");
    assert_eq!(ask(http), "1.0.0");
}

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use super::*;

fn shape(kind: Kind, address: &str, count: usize) -> Shape {
    Shape { kind, address: address.to_owned(), count }
}

fn bound(kind: Kind, address: &str, count: usize) -> (Shape, Vec<Arc<OwnedFd>>) {
    let (shape, sockets) = bind(&shape(kind, address, count)).unwrap();
    (shape, sockets.into_iter().map(Arc::new).collect())
}

#[test]
fn a_bound_socket_takes_nobody_until_it_listens() {
    let (shape, sockets) = bind(&shape(Kind::Tcp, "127.0.0.1:0", 1)).unwrap();
    assert!(TcpStream::connect(&shape.address).is_err(), "it was bound and listens already");
    listen(shape.kind, &sockets[0]).unwrap();
    let mut client = TcpStream::connect(&shape.address).unwrap();
    listen(shape.kind, &sockets[0]).unwrap(); // again, by another who opens it: what waits stays
    client.write_all(b"x").unwrap();
    let listener = TcpListener::from(sockets.into_iter().next().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let mut read = [0];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"x");
}

#[test]
fn a_group_shares_one_port_and_each_is_another_socket() {
    let (shape, sockets) = bound(Kind::Tcp, "127.0.0.1:0", 300);
    let mut table = Table::default();
    table.keep("http", shape.clone(), sockets.clone()).unwrap();
    assert_eq!((table.descriptors(), table.get("http").unwrap().shape.clone()), (300, shape.clone()));
    let twice = vec![sockets[0].clone(); 300];
    let error = Table::default().keep("http", shape, twice).unwrap_err();
    assert!(error.to_string().contains("one socket twice"), "{error}");
}

#[test]
fn another_address_type_number_or_name_is_an_error_that_says_both() {
    let mut table = Table::default();
    let (kept, sockets) = bound(Kind::Tcp, "127.0.0.1:0", 1);
    let address = kept.address.clone();
    table.keep("http", kept.clone(), sockets.clone()).unwrap();
    table.keep("http", kept.clone(), sockets.clone()).expect("the same again");
    assert!(table.find("http", &shape(Kind::Tcp, "127.0.0.1:0", 1)).unwrap().is_some(), "port 0 is any");
    assert!(table.find("https", &shape(Kind::Tcp, &address, 1)).unwrap().is_none());
    let refused = |asked: Shape| table.find("http", &asked).unwrap_err().to_string();
    assert_eq!(
        refused(shape(Kind::Tcp, "127.0.0.1:1", 1)),
        format!("socket http: address is {address}, asked for was 127.0.0.1:1")
    );
    assert_eq!(refused(shape(Kind::Udp, &address, 1)), "socket http: type is TCP, asked for was UDP");
    assert_eq!(refused(shape(Kind::Tcp, &address, 2)), "socket http: number is 1, asked for was 2");
    assert!(table.find("http", &shape(Kind::Tcp, "127.0.0.2:0", 1)).is_err(), "any port, not any host");

    let duplicate = table.keep("web", kept.clone(), sockets).unwrap_err();
    assert_eq!(duplicate.to_string(), "socket web: name is http, asked for was web");
    let (other, sockets) = bound(Kind::Tcp, "127.0.0.1:0", 1);
    let taken = table.keep("http", other, sockets).unwrap_err();
    assert_eq!(taken.reason(), "SOCKET_MISMATCH", "{taken}");
    assert_eq!(table.keep("a b", kept, Vec::new()).unwrap_err().reason(), "INVALID_NAME");
}

#[test]
fn what_is_no_socket_or_of_another_sort_is_not_kept() {
    let mut table = Table::default();
    let file: Arc<OwnedFd> = Arc::new(tempfile::tempfile().unwrap().into());
    let error = table.keep("http", shape(Kind::Tcp, "127.0.0.1:1", 1), vec![file]).unwrap_err();
    assert!(error.to_string().contains("not a socket"), "{error}");
    let udp: Arc<OwnedFd> = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap().into());
    let error = table.keep("http", shape(Kind::Tcp, "127.0.0.1:1", 1), vec![udp]).unwrap_err();
    assert_eq!(error.reason(), "SOCKET_MISMATCH", "{error}");
    let pair: Arc<OwnedFd> = Arc::new(UnixStream::pair().unwrap().0.into());
    let error = table.keep("http", shape(Kind::Unix, "/x", 1), vec![pair]).unwrap_err();
    assert!(error.to_string().contains("without an address"), "{error}");
    assert_eq!(table.descriptors(), 0);
}

#[test]
fn a_dead_unix_sockets_file_is_replaced_and_a_living_ones_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s").to_str().unwrap().to_owned();
    drop(UnixListener::bind(&path).unwrap());
    let (shape, sockets) = bound(Kind::Unix, &path, 1);
    listen(Kind::Unix, &sockets[0]).unwrap();
    let error = bind(&shape).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse), "{error}");
    drop(sockets);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    bind(&shape).expect_err("what is no socket stays");
}

#[test]
fn abstract_names_and_both_families_bind() {
    let (kept, _sockets) = bound(Kind::Unix, &format!("@heirloom-test-{}", std::process::id()), 1);
    assert!(kept.address.starts_with("@heirloom-test-"), "{}", kept.address);
    let (kept, _sockets) = bound(Kind::Udp, "127.0.0.1:0", 2);
    assert_eq!(kept.kind, Kind::Udp);
    for wrong in ["nowhere", "127.0.0.1", "shop.sock"] {
        assert_eq!(bind(&shape(Kind::Tcp, wrong, 1)).unwrap_err().reason(), "INVALID_FIELD");
        assert_eq!(bind(&shape(Kind::Unix, wrong, 1)).unwrap_err().reason(), "INVALID_FIELD");
    }
}

#[test]
fn the_limit_of_open_files_is_named() {
    let room = room().unwrap();
    assert!(room.used > 2 && room.limit > room.used, "{room:?}");
    need(1).unwrap();
    let error = need(usize::try_from(room.limit).unwrap()).unwrap_err();
    assert_eq!(error.reason(), "TABLE_FULL");
    assert!(error.to_string().contains("RLIMIT_NOFILE") && error.to_string().contains(&room.limit.to_string()));
}

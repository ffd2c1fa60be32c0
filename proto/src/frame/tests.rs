use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use proptest::prelude::*;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn files(count: usize) -> Vec<File> {
    (0..count)
        .map(|n| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "{n}").unwrap();
            file
        })
        .collect()
}

/// A pipe whose write end is passed around: its read end sees the end when every copy is closed.
fn canary() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(read), write)
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    write_all(stream, bytes, descriptors, Instant::now() + SOON).unwrap();
}

#[test]
fn a_ticket_brings_its_descriptors_in_order() {
    for count in [0, 1, 2, BATCH_MAX, BATCH_MAX + 1, 2 * BATCH_MAX + 7] {
        let (here, there) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            assert_eq!(receive_request(&there, SOON).unwrap(), b"ticket");
            let files = files(count);
            let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            answer(&there, [7; 16], &fds, SOON).unwrap();
            files.iter().map(|f| f.metadata().unwrap().ino()).collect::<Vec<_>>()
        });
        let got = request(&here, b"ticket", SOON).unwrap();
        let sent = server.join().unwrap();
        assert_eq!(got.uuid, [7; 16]);
        assert_eq!(got.descriptors.len(), count);
        for (n, (fd, ino)) in got.descriptors.into_iter().zip(sent).enumerate() {
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "descriptor {n} would pass to a child");
            let (mut file, mut text) = (File::from(fd), String::new());
            assert_eq!(file.metadata().unwrap().ino(), ino);
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, n.to_string());
        }
    }
}

#[test]
fn frames_follow_one_another_on_one_stream() {
    let (here, there) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        for n in 0..3 {
            assert_eq!(receive_request(&there, SOON).unwrap(), [n]);
            let files = files(3);
            answer(&there, [n; 16], &files.iter().map(AsFd::as_fd).collect::<Vec<_>>(), SOON).unwrap();
        }
    });
    for n in 0..3 {
        let got = request(&here, &[n], SOON).unwrap();
        assert_eq!((got.uuid, got.descriptors.len()), ([n; 16], 3));
    }
    server.join().unwrap();
}

#[test]
fn an_unknown_ticket_is_refused() {
    let (here, there) = UnixStream::pair().unwrap();
    refuse(&there, SOON).unwrap();
    assert!(matches!(request(&here, b"x", SOON), Err(FrameError::Refused)));
}

#[test]
fn a_silent_peer_costs_no_more_than_the_deadline() {
    let (here, _there) = UnixStream::pair().unwrap();
    assert!(matches!(request(&here, b"x", Duration::from_millis(30)), Err(FrameError::TimedOut)));
    // A byte now and then does not stretch it.
    let (here, there) = UnixStream::pair().unwrap();
    let slow = thread::spawn(move || {
        while (&there).write_all(b"H").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut whole = [0; 1 << 16];
    let late = read_plain(&here, &mut whole, Instant::now() + Duration::from_millis(40));
    assert!(matches!(late, Err(FrameError::TimedOut)));
    drop(here);
    slow.join().unwrap();
}

#[test]
fn lengths_are_checked_on_both_sides() {
    let (here, there) = UnixStream::pair().unwrap();
    for ticket in [vec![], vec![0; TICKET_BYTES_MAX + 1]] {
        assert!(matches!(request(&here, &ticket, SOON), Err(FrameError::Field { what: "ticket length", .. })));
    }
    let file = tempfile::tempfile().unwrap();
    let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
    assert!(matches!(answer(&there, [0; 16], &many, SOON), Err(FrameError::Field { what: "descriptor count", .. })));
}

#[test]
fn stray_descriptors_are_an_error_and_closed() {
    let (read, write) = canary();
    // With a request.
    let (here, there) = UnixStream::pair().unwrap();
    send_with(&here, b"HLFD\x01\x00\x01\x00x", &[write.as_fd()]);
    let refused = receive_request(&there, SOON).unwrap_err().to_string();
    assert!(refused.contains("expected 0, found 1"), "{refused}");
    // With an answer's head, and two where the batch says one.
    for (head_strays, batch) in [(1, 1), (0, 2), (0, 0)] {
        let (here, there) = UnixStream::pair().unwrap();
        send_with(&there, &answer_head(ACCEPTED, [0; 16], 1), &vec![write.as_fd(); head_strays]);
        send_with(&there, &1u32.to_le_bytes(), &vec![write.as_fd(); batch]);
        assert!(matches!(request(&here, b"x", SOON), Err(FrameError::Field { .. })));
    }
    drop(write);
    // Every copy is closed, so the pipe is at its end.
    assert_eq!((&read).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_frame_cut_short_closes_what_it_brought() {
    let (read, write) = canary();
    let (here, there) = UnixStream::pair().unwrap();
    send_with(&there, &answer_head(ACCEPTED, [0; 16], 3), &[]);
    send_with(&there, &2u32.to_le_bytes(), &[write.as_fd(), write.as_fd()]);
    drop((there, write));
    assert!(matches!(receive_answer(&here, Instant::now() + SOON), Err(FrameError::Closed { expected: 4, found: 0 })));
    assert_eq!((&read).read(&mut [0]).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever bytes come, in whatever company: an error or exactly what was sent, in bounded time, nothing left open.
    #[test]
    fn hostile_bytes_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..96), good_head in any::<bool>(), strays in 0usize..4) {
        let (read, write) = canary();
        for server in [true, false] {
            let (here, there) = UnixStream::pair().unwrap();
            let mut sent = if good_head { b"HLFD\x01\x00".to_vec() } else { vec![] };
            sent.extend(&bytes);
            let strays = vec![write.as_fd(); if sent.is_empty() { 0 } else { strays }];
            send_with(&there, &sent, &strays);
            drop(there);
            if server {
                if let Ok(ticket) = receive_request(&here, SOON) {
                    prop_assert!(strays.is_empty() && sent[8..].starts_with(&ticket));
                }
            } else if let Ok(answer) = receive_answer(&here, Instant::now() + SOON) {
                prop_assert!(answer.descriptors.is_empty());
            }
        }
        drop(write);
        prop_assert_eq!((&read).read(&mut [0]).unwrap(), 0);
    }

    /// A request arrives as it was sent, however the stream cuts it.
    #[test]
    fn requests_round_trip(ticket in prop::collection::vec(any::<u8>(), 1..=TICKET_BYTES_MAX), cut in 0usize..70) {
        let (here, there) = UnixStream::pair().unwrap();
        let mut whole = b"HLFD\x01\x00".to_vec();
        whole.extend((ticket.len() as u16).to_le_bytes());
        whole.extend(&ticket);
        let cut = cut.min(whole.len());
        let (first, second) = (whole[..cut].to_vec(), whole[cut..].to_vec());
        let writer = thread::spawn(move || {
            (&here).write_all(&first).unwrap();
            (&here).write_all(&second).unwrap();
        });
        prop_assert_eq!(receive_request(&there, SOON).unwrap(), ticket);
        writer.join().unwrap();
    }
}

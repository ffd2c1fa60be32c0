//! What comes over sockets and out of files: chunks, descriptor frames, gRPC messages, configuration.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use heirloom_proto::{frame, v1};
use heirloom_region::series::xor::{Decoder, Encoder};
use heirloom_sidecar::config::Config;
use heirloom_tests::random::Random;
use heirloom_tests::steps::sample;
use prost::Message;

use crate::mutate::mutated;

/// More samples than a chunk's bits can hold are never given.
pub(crate) fn chunk(seed: u64) {
    let mut random = Random::seeded(seed);
    let mut encoder = Encoder::new();
    for n in 0..random.below(125) as u32 {
        let _ = encoder.push(sample(n));
    }
    let bytes = mutated(&encoder.to_bytes(), &mut random);
    let given = Decoder::new(&bytes).take(70_000).count();
    assert!(given <= 8 * bytes.len() + 1, "{given} samples out of {} bytes", bytes.len());
    if let Some(Err(why)) = Decoder::new(&bytes).find(Result::is_err) {
        assert!(!why.to_string().is_empty());
    }
}

/// A request for the sidecar and an answer for an instance: the peer writes what it likes, and hangs up.
pub(crate) fn frame(seed: u64) {
    const WITHIN: Duration = Duration::from_secs(5);
    let mut random = Random::seeded(seed);
    let request = [&b"HLFD\x01\0\x10\0"[..], &[7; 16]].concat();
    let (status, count) = (random.below(2) as u8, random.below(3) as u32);
    let answer = [&b"HLFD\x01"[..], &[status, 0, 0], &[9; 16], &count.to_le_bytes(), &count.to_le_bytes()].concat();
    let send = |bytes: &[u8]| {
        let (here, there) = UnixStream::pair().expect("a pair");
        (&there).write_all(bytes).expect("it fits");
        there.shutdown(Shutdown::Write).expect("open");
        (here, there)
    };
    let (here, _there) = send(&mutated(&request, &mut random));
    match frame::receive_request(&here, WITHIN) {
        Ok(ticket) => assert!((1..=frame::TICKET_BYTES_MAX).contains(&ticket.len())),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
    let (here, _there) = send(&mutated(&answer, &mut random));
    match frame::request(&here, &[7; 16], WITHIN) {
        Ok(answer) => assert!(answer.descriptors.is_empty(), "nobody sent any"),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// Every message that reaches the sidecar, decoded from changed bytes of a valid one.
pub(crate) fn message(seed: u64) {
    let mut random = Random::seeded(seed);
    let valid =
        [&b"\x0a\x04shop\x12\x05"[..], b"2.0.0\x1a\x0a\x0a\x04abcd\x10\x07\x18\x01", b"\x20\x96\x01\x28\x01"].concat();
    let bytes = mutated(&valid, &mut random);
    let _ = v1::HandoverRequest::decode(&bytes[..]).map(|m| drop(m.encode_to_vec()));
    let _ = v1::RollbackRequest::decode(&bytes[..]).map(|m| drop(m.encode_to_vec()));
    let _ = v1::SwitchOptions::decode(&bytes[..]).map(|m| drop(m.encode_to_vec()));
    let _ = v1::AttachRequest::decode(&bytes[..]).map(|m| drop(m.encode_to_vec()));
    let _ = v1::Region::decode(&bytes[..]).map(|m| drop(m.encode_to_vec()));
    let _ = v1::HandoverRecord::decode(&bytes[..]).map(|m| drop(m.encode_to_vec()));
}

/// Text that is nearly a configuration; what is taken can be printed and read again.
pub(crate) fn configuration(seed: u64) {
    let mut random = Random::seeded(seed);
    let valid = include_str!("../../corpus/heirloom.toml");
    let bytes = mutated(valid.as_bytes(), &mut random);
    match Config::parse(&String::from_utf8_lossy(&bytes), "mutant.toml") {
        Ok(config) => drop(config.policy("shop")),
        Err(why) => assert!(why.to_string().contains("mutant.toml"), "{why}"),
    }
}

//! Messages come out whole, wherever HTTP/2 cut them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]

use bytes::{BufMut, Bytes, BytesMut};
use canopy_load::client::Framing;

fn frames(messages: &[&[u8]]) -> Bytes {
    let mut data = BytesMut::new();
    for message in messages {
        data.put_u8(0);
        data.put_u32(message.len() as u32);
        data.put_slice(message);
    }
    data.freeze()
}

#[test]
fn any_cut() {
    let messages: [&[u8]; 5] = [b"one", b"", b"a longer message", b"x", b"the end"];
    let data = frames(&messages);
    for piece_bytes in 1..=data.len() {
        let mut framing = Framing::default();
        let mut found: Vec<Vec<u8>> = Vec::new();
        for piece in data.chunks(piece_bytes) {
            framing.feed(Bytes::copy_from_slice(piece), |message| {
                found.push(message.to_vec());
            });
        }
        assert_eq!(found, messages, "pieces of {piece_bytes}");
    }
}

#[test]
fn half_a_message_is_no_message() {
    let data = frames(&[b"whole", b"cut off"]);
    let mut framing = Framing::default();
    let mut found: Vec<Vec<u8>> = Vec::new();
    framing.feed(data.slice(..data.len() - 1), |message| {
        found.push(message.to_vec());
    });
    assert_eq!(found, [b"whole"]);
}

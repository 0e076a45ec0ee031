//! The message inside.

use bytes::Bytes;
use proptest::prelude::*;
use sealcast_proto::limits::{MAX_HEADERS_BYTES, MAX_MESSAGE};

use crate::message::{MAX_CONTENT_TYPE, Message, MessageError};

#[test]
fn the_encoding_is_fixed() {
    let message = Message { time_ms: 300, ..Message::new("hi") }
        .with_header("b", "2")
        .with_header("a", "1")
        .with_content_type("text/plain");
    let encoded = message.encode().unwrap();
    let expected =
        b"\x0a\x02hi\x12\x06\x0a\x01a\x12\x011\x12\x06\x0a\x01b\x12\x012\x1a\x0atext/plain\x20\xac\x02";
    assert_eq!(encoded, expected.as_slice());
    assert_eq!(Message::decode(encoded), Ok(message));
    assert_eq!(Message::new("").encode().unwrap(), Bytes::new());
}

#[test]
fn the_payload_is_not_copied() {
    let encoded = Message::new(vec![1; 1000]).encode().unwrap();
    let payload = Message::decode(encoded.clone()).unwrap().payload;
    assert!(encoded.as_ptr_range().contains(&payload.as_ptr()));
}

#[test]
fn limits_hold_both_ways() {
    // Tag and length take four bytes of the largest message.
    let largest = Message::new(vec![0; MAX_MESSAGE - 4]);
    let encoded = largest.encode().unwrap();
    assert_eq!(encoded.len(), MAX_MESSAGE);
    assert_eq!(Message::decode(encoded), Ok(largest));
    let larger = Message::new(vec![0; MAX_MESSAGE - 3]);
    assert_eq!(larger.encode(), Err(MessageError::TooLarge(MAX_MESSAGE + 1)));
    let zeros = Bytes::from(vec![0; MAX_MESSAGE + 1]);
    assert_eq!(Message::decode(zeros), Err(MessageError::TooLarge(MAX_MESSAGE + 1)));

    let headers = Message::new("").with_header("k", "v".repeat(MAX_HEADERS_BYTES - 1));
    let encoded = headers.encode().unwrap();
    assert_eq!(Message::decode(encoded.clone()), Ok(headers.clone()));
    let more = headers.with_header("l", "");
    assert_eq!(more.encode(), Err(MessageError::Headers(MAX_HEADERS_BYTES + 1)));
    // What the encoder refuses, decoded: one more header after the largest ones.
    let bytes = [&encoded, b"\x12\x03\x0a\x01l".as_slice()].concat();
    assert_eq!(Message::decode(bytes.into()), Err(MessageError::Headers(MAX_HEADERS_BYTES + 1)));

    let content_type = Message::new("").with_content_type("t".repeat(MAX_CONTENT_TYPE));
    assert!(content_type.encode().is_ok());
    let longer = content_type.with_content_type("t".repeat(MAX_CONTENT_TYPE + 1));
    assert_eq!(longer.encode(), Err(MessageError::ContentType(MAX_CONTENT_TYPE + 1)));
}

#[test]
fn debug_shows_no_content() {
    let message = Message::new("secret payload").with_header("secret-name", "secret-value");
    assert!(!format!("{message:?}").contains("secret"));
}

proptest! {
    #[test]
    fn any_message_comes_back(
        payload: Vec<u8>,
        headers in proptest::collection::btree_map(".{0,20}", ".{0,20}", 0..10),
        content_type in ".{0,60}",
        time_ms: u64,
    ) {
        let message = Message { payload: payload.into(), headers, content_type, time_ms };
        prop_assert_eq!(Message::decode(message.encode().unwrap()), Ok(message));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = Message::decode(bytes.into());
    }
}

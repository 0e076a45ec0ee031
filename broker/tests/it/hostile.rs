use std::net::UdpSocket;
use std::sync::Arc;

use bytes::Bytes;
use sealcast_broker::Limits;
use sealcast_link::{ConnectError, Link, LinkOptions};
use sealcast_proto::frame::{Code, From, Reply, Request, Subscribe};
use sealcast_proto::roster::Role;
use sealcast_proto::{Epoch, Hash, RosterSeq};

use crate::hand::{Hand, batch_record, header_record, identity, key};
use crate::world::{Pipe, World, ciphertexts, soon};

/// Bytes that look like nothing, the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Until the end, or until a stream that has none is at the head.
async fn drain(mut pipe: Pipe) {
    while let Ok(Some(reply)) = pipe.maybe().await {
        if matches!(reply, Reply::AtHead { .. }) {
            return;
        }
    }
}

#[crate::wire(flavor = "multi_thread")]
pub async fn noise_on_every_kind_of_stream_harms_nobody() {
    let world = World::new().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut good, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let wish = Subscribe { topic, from: From::Earliest, roster_seq: None, until_head: true };
    let firsts = || {
        [
            None,
            Some(Request::Publish(topic)),
            Some(Request::Subscribe(wish)),
            Some(Request::Watch(topic, RosterSeq(0))),
            Some(Request::AppendRoster(topic)),
            Some(Request::UploadTable { topic, slot_count: 5, slots_hash: Hash([1; 32]) }),
            Some(Request::FetchTopic(topic)),
            Some(Request::FetchRoster(topic, RosterSeq(u64::MAX))),
            Some(Request::FetchEpochs { topic, publisher: key(2), epoch: Epoch(u64::MAX) }),
            Some(Request::Table(Bytes::from_static(b"slots"))),
            Some(Request::Record(Bytes::from_static(b"record"))),
        ]
    };
    for round in 0..12u64 {
        for (kind, first) in firsts().into_iter().enumerate() {
            let (mut writer, reader) = soon(client.connection.open()).await.unwrap();
            let mut bytes = first.map(|first| first.encode().to_vec()).unwrap_or_default();
            let mut tail = noise(round * 100 + kind as u64, 300);
            if round % 3 == 1 {
                // A frame of a known kind and a true length, full of noise.
                let len = tail.len() as u32;
                let header = [&len.to_be_bytes()[..], &[(round % 5) as u8]].concat();
                tail = [header, tail].concat();
            }
            bytes.extend(tail);
            // The broker may stop reading at any byte.
            let _ = soon(writer.send(bytes.into())).await;
            writer.finish();
            drain(Pipe { writer, reader }).await;
        }
    }
    good.batch(&mut hand, b"undisturbed").await;
    assert_eq!(ciphertexts(&owner.read_all(topic, From::Earliest, None).await).len(), 1);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn records_full_of_noise_are_refused() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut good, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let whole = batch_record(&hand.batch(&[5; 100]));
    for seed in 0..200u64 {
        let mut record = whole.to_vec();
        let wrong = noise(seed, 8);
        let at = u16::from_be_bytes([wrong[0], wrong[1]]) as usize % record.len();
        record[at] ^= wrong[2] | 1;
        if seed % 4 == 0 {
            record.truncate(at);
        }
        let mut pipe = client.publish(topic).await;
        pipe.record(record.into()).await;
        let refusal = pipe.refused().await;
        let expected = [Code::Malformed, Code::OutOfOrder, Code::Conflict];
        assert!(expected.contains(&refusal.code), "{seed}: {refusal}");
    }
    good.record(whole).await;
    good.ack().await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn nobody_publishes_as_somebody_else() {
    let world = World::new().await;
    let (topic, admin, _owner) =
        world.topic(&[(2, Role::Publisher), (3, Role::Reader), (4, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (_pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let batch = batch_record(&hand.batch(b"mine"));
    let header = header_record(&Hand::new(2).begin(&admin.roster, &[]).0);
    let mut thief = world.client(4).await.publish(topic).await;
    thief.record(batch.clone()).await;
    assert_eq!(thief.refused().await.code, Code::OutOfOrder);
    let other = world.client(4).await;
    let mut thief = other.publish(topic).await;
    thief.record(header).await;
    assert_eq!(thief.refused().await.code, Code::NotAllowed);
    let reader = world.client(3).await;
    let mut pipe = reader.publish(topic).await;
    assert_eq!(pipe.refused().await.code, Code::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_and_does_not_go_on_is_not_waited_for() {
    let short = std::time::Duration::from_millis(100);
    let world = World::with(Limits { first_frame: short, next_frame: short, ..Limits::default() }).await;
    let (topic, ..) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut writer, reader) = soon(client.connection.open()).await.unwrap();
    writer.send(Bytes::from_static(&[0, 0, 0])).await.unwrap();
    let mut half_a_header = Pipe { writer, reader };
    assert_eq!(half_a_header.refused().await.code, Code::Malformed);
    let mut upload =
        client.open(Request::UploadTable { topic, slot_count: 9, slots_hash: Hash([1; 32]) }).await;
    assert_eq!(upload.refused().await.code, Code::Malformed);
    let owner = world.client(1).await;
    let mut bundle = owner.open(Request::AppendRoster(topic)).await;
    assert_eq!(bundle.refused().await.code, Code::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_only_so_many_connections() {
    let world = World::with(Limits { connections_per_identity: 2, ..Limits::default() }).await;
    let (_first, _second) = (world.client(7).await, world.client(7).await);
    let link = world.broker.as_ref().unwrap().link().clone();
    let third = Link::new(link, Arc::new(identity(7)), LinkOptions::default());
    let refused = soon(third.connect()).await.unwrap_err();
    let ConnectError::Refused(refusal) = &refused else { panic!("{refused}") };
    assert!(refusal.code == Code::Busy && refusal.retry_after_ms > 0 && refused.is_retryable(), "{refusal}");
    world.client(8).await;
    drop(_first);
    soon(third.connected()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_datagrams_are_no_concern() {
    let world = World::new().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = world.broker.as_ref().unwrap().local_addr();
    for seed in 0..500 {
        socket.send_to(&noise(seed, 20 + seed as usize * 2), to).unwrap();
    }
    let (topic, _, owner) = world.topic(&[]).await;
    assert!(matches!(owner.request(vec![Request::FetchTopic(topic)]).await, Ok(Reply::Topic(_))));
}

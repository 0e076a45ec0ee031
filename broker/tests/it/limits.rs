use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sealcast_broker::Limits;
use sealcast_broker::settings::Size;
use sealcast_link::{ConnectError, Link, LinkOptions};
use sealcast_proto::frame::{Code, From, Request, Subscribe};
use sealcast_proto::roster::Role;
use sealcast_proto::slot::table_hash;
use sealcast_proto::{BrokerLink, MemberIndex, TopicId};
use tokio::task::JoinSet;

use crate::hand::{batch_record, identity, table};
use crate::world::{Client, Pipe, World, ciphertexts, soon};

/// Short enough to be waited for; what is asserted is an order of events, never a time.
const SHORT: Duration = Duration::from_millis(200);

async fn world(limits: Limits) -> World {
    let mut world = World::with(limits).await;
    world.broker.take().unwrap().shutdown().await;
    world.ops = Some(false);
    world.start().await;
    world
}

/// One sample of `/metrics`, with its label as it stands there.
async fn metric(world: &World, name: &str) -> f64 {
    let (_, text) = world.ask("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

async fn until_metric(world: &World, name: &str, is: impl Fn(f64) -> bool) {
    soon(async {
        while !is(metric(world, name).await) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn link(world: &World, n: u8) -> Link {
    let link = world.broker.as_ref().unwrap().link().clone();
    Link::new(link, Arc::new(identity(n)), LinkOptions::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let world = World::with(Limits { first_request: SHORT, ..Limits::default() }).await;
    let (_, _, owner) = world.topic(&[]).await;
    let idle = world.client(7).await;
    assert!(soon(idle.connection.closed()).await.to_string().contains("no request"));
    assert!(owner.connection.close_reason().is_none(), "whoever asked once may be silent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_has_only_so_many_connections_and_says_so() {
    let world = World::with(Limits { connections: 2, ..Limits::default() }).await;
    let (first, _second) = (world.client(1).await, world.client(2).await);
    let third = link(&world, 3);
    let ConnectError::Refused(refusal) = soon(third.connect()).await.unwrap_err() else { panic!() };
    assert!(refusal.code == Code::Busy && refusal.retry_after_ms > 0, "{refusal}");
    drop(first);
    soon(third.connected()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_only_so_many_subscriptions() {
    let world = World::with(Limits { subscriptions_per_identity: 2, ..Limits::default() }).await;
    let (topic, _, owner) = world.topic(&[(3, Role::Reader)]).await;
    let reader = world.client(3).await;
    let mut open = vec![];
    for _ in 0..2 {
        let mut pipe = reader.subscribe(topic, From::Latest, None).await;
        pipe.until_head().await;
        open.push(pipe);
    }
    // As full for a topic that is not there: the limit tells nobody which ones are.
    for wished in [topic, TopicId([9; 32])] {
        let refusal = reader.subscribe(wished, From::Latest, None).await.refused().await;
        assert!(refusal.code == Code::Busy && refusal.retry_after_ms > 0, "{refusal}");
    }
    owner.subscribe(topic, From::Latest, None).await.until_head().await;
    drop(open.pop());
    soon(async {
        loop {
            let mut pipe = reader.subscribe(topic, From::Latest, None).await;
            if matches!(pipe.next().await, sealcast_proto::frame::Reply::Start(_)) {
                return;
            }
        }
    })
    .await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn whoever_publishes_too_fast_is_held_back_and_loses_nothing() {
    let world = world(Limits { publish_rate: Size(1 << 20), ..Limits::default() }).await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher), (4, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let sent: Vec<Bytes> = (0..20_u8).map(|n| vec![n; 100_000].into()).collect();
    for noise in &sent {
        pipe.record(batch_record(&hand.batch(noise))).await;
    }
    // Somebody else's rate is its own.
    let other = world.client(4).await;
    let (mut free, mut quick) = other.publisher(topic, 4, &admin, &[]).await;
    free.batch(&mut quick, b"at once").await;
    for _ in &sent {
        pipe.ack().await;
    }
    assert!(metric(&world, "sealcast_throttled_microseconds_total").await > 0.0);
    let mut stored = ciphertexts(&owner.read_all(topic, From::Earliest, None).await);
    stored.retain(|noise| noise != "at once");
    assert_eq!(stored, sent);
}

/// Writes a byte at a time until the broker has had enough; returns what it says.
async fn trickle(mut pipe: Pipe, bytes: impl Iterator<Item = u8>) -> Option<Code> {
    let Pipe { writer, reader } = &mut pipe;
    let writing = async {
        for byte in bytes {
            if writer.send(Bytes::copy_from_slice(&[byte])).await.is_err() {
                break;
            }
            tokio::time::sleep(SHORT / 20).await;
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        match reader.reply().await {
            Ok(Some(sealcast_proto::frame::Reply::Refused(refusal))) => Some(refusal.code),
            _ => None,
        }
    };
    soon(async {
        tokio::select! {
            () = writing => None,
            code = reading => code,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_trickles_is_cut_off_and_the_others_go_on() {
    let limits = Limits { next_frame: SHORT, upload: SHORT * 3, ..Limits::default() };
    let world = World::with(limits).await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut good, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let record = Request::Record(batch_record(&hand.batch(&[7; 300_000]))).encode();
    let stuck = client.publish(topic).await;
    let stuck = trickle(stuck, record.iter().copied());
    // A frame in time, each of one slot, and no end.
    let slots = table(&(0..10_000).map(MemberIndex).collect::<Vec<_>>(), 1);
    let first = Request::UploadTable { topic, slot_count: 10_000, slots_hash: table_hash(&slots) };
    let mut endless = client.open(first).await;
    let endless = async {
        let Pipe { writer, reader } = &mut endless;
        let writing = async {
            for at in (0..slots.len()).step_by(56) {
                if writer.send(Request::Table(slots.slice(at..at + 56)).encode()).await.is_err() {
                    break;
                }
                tokio::time::sleep(SHORT / 20).await;
            }
            std::future::pending().await
        };
        soon(async {
            tokio::select! {
                reply = reader.reply() => reply.unwrap().unwrap(),
                () = writing => unreachable!(),
            }
        })
        .await
    };
    let honest = async {
        for n in 0..20 {
            // What was not sent to its end was never taken.
            let batch = if n == 0 { record_of(&record) } else { batch_record(&hand.batch(&[n; 100])) };
            good.record(batch).await;
            good.ack().await;
        }
    };
    let (stuck, endless, ()) = tokio::join!(stuck, endless, honest);
    assert_eq!(stuck, Some(Code::Malformed));
    let sealcast_proto::frame::Reply::Refused(refusal) = endless else { panic!("{endless:?}") };
    assert!(refusal.code == Code::Busy && refusal.retry_after_ms > 0, "{refusal}");
    assert_eq!(ciphertexts(&owner.read_all(topic, From::Earliest, None).await).len(), 20);
}

/// The record in a frame.
fn record_of(frame: &Bytes) -> Bytes {
    frame.slice(5..)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_record_that_goes_on_is_waited_for() {
    let world = World::with(Limits { next_frame: SHORT, ..Limits::default() }).await;
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let frame = Request::Record(batch_record(&hand.batch(&[7; 200_000]))).encode();
    for at in (0..frame.len()).step_by(20_000) {
        let end = frame.len().min(at + 20_000);
        soon(pipe.writer.send(frame.slice(at..end))).await.unwrap();
        tokio::time::sleep(SHORT * 3 / 4).await;
    }
    pipe.ack().await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_table_is_only_so_large() {
    let world = World::with(Limits { table_slots: 3, ..Limits::default() }).await;
    let (topic, ..) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let slots = |n: u32| table(&(0..n).map(MemberIndex).collect::<Vec<_>>(), 1);
    assert!(client.upload(topic, &slots(3)).await.is_ok());
    assert_eq!(client.upload(topic, &slots(4)).await.unwrap_err().code, Code::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_wishes_for_unknown_topics_hold_up_nobody() {
    let world = world(Limits { refusal: Duration::from_millis(1), ..Limits::default() }).await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut good, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let mut askers = JoinSet::new();
    for n in 0..10_u8 {
        let stranger = Arc::new(world.client(100 + n).await);
        askers.spawn(async move {
            for m in 0..1_000_u16 {
                let [a, b] = m.to_be_bytes();
                let wish = Subscribe {
                    topic: TopicId([a, b].repeat(16).try_into().unwrap()),
                    from: From::Earliest,
                    roster_seq: None,
                    until_head: false,
                };
                assert_eq!(
                    stranger.open(Request::Subscribe(wish)).await.refused().await.code,
                    Code::NotAllowed
                );
            }
        });
    }
    while !askers.is_empty() {
        good.batch(&mut hand, b"undisturbed").await;
        while let Some(asked) = askers.try_join_next() {
            asked.unwrap();
        }
    }
    assert_eq!(metric(&world, "sealcast_refusals_total{code=\"not_allowed\"}").await, 10_000.0);
    assert_eq!(metric(&world, "sealcast_topics").await, 1.0, "asking makes nothing");
    until_metric(&world, "sealcast_subscriptions", |open| open == 0.0).await;
    drop(owner);
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_no_frame_has_are_refused_before_they_are_believed() {
    let world = World::new().await;
    let (topic, ..) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    for kind in 0..6_u8 {
        for len in [u32::MAX, 1 << 31, 64 << 20] {
            let mut pipe = client.publish(topic).await;
            let header = [&len.to_be_bytes()[..], &[kind]].concat();
            soon(pipe.writer.send(header.into())).await.unwrap();
            assert_eq!(pipe.refused().await.code, Code::Malformed, "{kind} {len}");
        }
    }
}

/// Begins `count` handshakes at the broker from `source` and never answers it: each client's first packets are passed on
/// from a port of their own, and what comes back is dropped.
async fn half_open(world: &World, source: &str, count: usize) -> Vec<(Link, UdpSocket)> {
    let broker = world.broker.as_ref().unwrap();
    let to = broker.local_addr();
    let mut out = vec![];
    for _ in 0..count {
        let trap = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let host = ("127.0.0.1".to_owned(), trap.local_addr().unwrap().port());
        let lured = BrokerLink::new(vec![host], broker.link().keys().to_vec()).unwrap();
        let link = Link::new(lured, Arc::new(identity(99)), LinkOptions::default());
        let dialling = link.clone();
        let dialling = tokio::spawn(async move { dialling.connect().await });
        let socket = UdpSocket::bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        let mut packet = [0; 2_000];
        // The first flight is two packets of 1,200 bytes; the probe of one byte is none.
        let mut passed = 0;
        while passed < 2 {
            let (len, _) = soon(trap.recv_from(&mut packet)).await.unwrap();
            if len >= 1_200 {
                socket.send_to(&packet[..len], to).unwrap();
                passed += 1;
            }
        }
        dialling.abort();
        out.push((link, socket));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_are_bounded_and_forgotten() {
    let limits =
        Limits { handshake: SHORT * 5, handshakes_per_source: 16, unauthenticated: 24, ..Limits::default() };
    let world = world(limits).await;
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut good, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let flood = half_open(&world, "127.0.0.2", 40).await;
    good.batch(&mut hand, b"undisturbed").await;
    // A newcomer from elsewhere finds a place while they are open, or as soon as they are forgotten.
    soon(link(&world, 3).connected()).await;
    let failed = "sealcast_connection_attempts_total{result=\"failed\"}";
    until_metric(&world, failed, |failed| failed >= 1.0).await;
    assert!(metric(&world, failed).await <= 24.0, "no more were begun than may be");
    assert!(metric(&world, "sealcast_connections").await <= 3.0);
    drop(flood);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_come_only_so_fast_and_everybody_gets_in() {
    let world = world(Limits { handshakes_per_second: 5, ..Limits::default() }).await;
    let mut comers = JoinSet::new();
    for n in 0..15_u8 {
        let link = link(&world, n);
        comers.spawn(async move {
            let connection = link.connected().await;
            (link, connection)
        });
    }
    let all: Vec<_> = soon(comers.join_all()).await;
    assert_eq!(all.len(), 15);
    assert!(metric(&world, "sealcast_connection_attempts_total{result=\"refused\"}").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_creates_only_so_many_topics() {
    let world = World::with(Limits { topics_per_owner: 2, ..Limits::default() }).await;
    let owner: Client = world.client(1).await;
    let create = async |nonce| owner.create(&crate::hand::genesis(nonce).2).await;
    assert!(create(0).await.is_ok() && create(1).await.is_ok());
    let refusal = create(2).await.unwrap_err();
    assert!(refusal.code == Code::Busy && refusal.retry_after_ms > 0, "{refusal}");
    assert!(create(1).await.is_ok(), "again: no change");
}

use std::time::Duration;

use bytes::Bytes;
use sealcast_broker::Limits;
use sealcast_link::LinkError;
use sealcast_proto::frame::{Code, From, HoleReason, Reply, Request};
use sealcast_proto::policy::{CarriedPolicy, Policy};
use sealcast_proto::roster::{Op, Role, RosterChain};
use sealcast_proto::{Offset, RosterSeq};

use crate::hand::{batch_record, genesis, key};
use crate::world::{Pipe, World, ciphertexts, entries, epochs, soon};

const MEMBERS: &[(u8, Role)] =
    &[(2, Role::Publisher), (3, Role::Reader), (4, Role::Reader), (5, Role::Publisher)];

#[crate::wire(flavor = "multi_thread")]
pub async fn each_subscriber_gets_its_own_slot_and_no_other() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let reader = world.client(3).await;
    let mut live = reader.subscribe(topic, From::Latest, None).await;
    live.until_head().await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1, 3, 4]).await;
    pipe.batch(&mut hand, b"one").await;

    for (n, mut sub) in [
        (3, live),
        (4, world.client(4).await.subscribe(topic, From::Earliest, None).await),
        (5, world.client(5).await.subscribe(topic, From::Earliest, None).await),
    ] {
        let replies = sub.until(|reply| matches!(reply, Reply::Record(..))).await;
        assert_eq!(ciphertexts(&replies), [Bytes::from_static(b"one")]);
        let slot = epochs(&replies)[0].slot;
        assert_eq!(slot.map(|slot| slot.member), (n != 5).then(|| admin.index(n)), "member {n}");
        let other = [1, 3, 4, 5].into_iter().filter(|other| *other != n);
        for other in other {
            // Nowhere in what it got do another's slot bytes stand.
            let foreign = [&admin.index(other).0.to_be_bytes()[..], &[101; 44]].concat();
            for reply in &replies {
                let bytes = reply.encode();
                assert!(
                    !bytes.windows(foreign.len()).any(|window| window == foreign),
                    "{n} got {other}'s slot"
                );
            }
        }
    }
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_subscription_begins_where_it_is_asked_to() {
    let world = World::new().await;
    let (topic, admin, owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1, 3]).await;
    for n in 0..10u8 {
        pipe.batch(&mut hand, &[n; 20]).await;
    }
    let reader = world.client(3).await;
    let read = async |from| reader.read_all(topic, from, None).await;
    let firsts = |replies: &[Reply]| ciphertexts(replies).iter().map(|it| it[0]).collect::<Vec<_>>();
    assert_eq!(firsts(&read(From::Earliest).await), (0..10).collect::<Vec<_>>());
    assert!(firsts(&read(From::Latest).await).is_empty());
    assert_eq!(firsts(&read(From::Time(0)).await).len(), 10);
    assert!(firsts(&read(From::Time(u64::MAX)).await).is_empty());
    assert!(firsts(&read(From::Offset(Offset(u64::MAX))).await).is_empty());

    let middle = read(From::Offset(world.at(6))).await;
    assert_eq!(firsts(&middle), [4, 5, 6, 7, 8, 9]);
    let Reply::Start(start) = &middle[0] else { panic!() };
    assert_eq!((start.start_offset, start.next_offset), (world.at(6), world.at(12)));
    assert_eq!(start.genesis.topic_id(), topic);
    // The newest header before the start, with the own slot, and the last batch there: enough to chain from.
    let Some(Reply::Context(context)) = middle.iter().find(|reply| matches!(reply, Reply::Context(_))) else {
        panic!()
    };
    assert_eq!(context.epoch.slot.unwrap().member, admin.index(3));
    let (digest, offset) = context.batch.as_ref().unwrap();
    let header = context.epoch.header.peek().unwrap();
    let (batch, _) = digest.verify(&context.epoch.header.hash(), &header.epoch_vk).unwrap();
    assert_eq!((batch.batch_no.0, *offset), (3, world.at(5)));
    let Some(Reply::AtHead { next_offset, end_of_stream: true }) = middle.last() else { panic!() };
    assert_eq!(*next_offset, world.at(12));
    drop(owner);
}

/// A policy in bytes that the broker's own encoder would not choose is passed on as it was signed.
#[crate::wire(flavor = "multi_thread")]
pub async fn a_policy_is_delivered_in_the_bytes_that_were_signed() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(MEMBERS).await;
    let policy = Policy { beacon_ms: 200, ..Policy::default() };
    // With a field that nobody knows.
    let bytes = [&policy.encode()[..], &[0xf8, 0x07, 1]].concat();
    let op = Op::SetPolicy(CarriedPolicy::decode(&bytes).unwrap());
    owner.append(topic, &admin.entry(&[op])).await.unwrap();
    let reader = world.client(3).await;
    let (_, parsed, _) = genesis(0);
    for from in [From::Earliest, From::Latest] {
        let replies = reader.read_all(topic, from, None).await;
        let entry = *entries(&replies).last().unwrap();
        assert_eq!(entry.policy.as_deref(), Some(&bytes[..]));
    }
    let replies = reader.read_all(topic, From::Earliest, None).await;
    let mut chain = RosterChain::new(topic, &parsed);
    for entry in entries(&replies) {
        chain.follow(&entry.entry, entry.roles.as_deref(), entry.policy.as_deref()).unwrap();
    }
    assert_eq!(&chain, admin.roster.chain());
}

#[crate::wire(flavor = "multi_thread")]
pub async fn the_roster_comes_as_a_chain_that_can_be_followed() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(MEMBERS).await;
    owner.append(topic, &admin.add(&[(6, Role::Publisher)])).await.unwrap();
    let policy = Policy { beacon_ms: 200, ..Policy::default() };
    owner.append(topic, &admin.entry(&[Op::set_policy(policy.clone())])).await.unwrap();
    owner.append(topic, &admin.entry(&[Op::Rotate])).await.unwrap();
    let reader = world.client(3).await;

    let (_, parsed, _) = genesis(0);
    // Nothing held: begins at the newest entry of the owner, with whole lists.
    let replies = reader.read_all(topic, From::Latest, None).await;
    let [first] = entries(&replies)[..] else { panic!("{replies:?}") };
    let (roles, policy_bytes) = (first.roles.clone().unwrap(), first.policy.clone().unwrap());
    let chain = RosterChain::begin_at(topic, &parsed, &first.entry, &roles, &policy_bytes).unwrap();
    assert_eq!(
        (chain.seq(), chain.hash(), chain.policy()),
        (RosterSeq(4), admin.roster.chain().hash(), &policy)
    );
    assert!(chain.may_publish(&key(6)));
    // From the beginning: before entry 1 nobody signed anything, so the entries themselves are the chain.
    let replies = reader.read_all(topic, From::Earliest, None).await;
    let mut chain = RosterChain::new(topic, &parsed);
    for entry in entries(&replies) {
        assert_eq!(entry.ops, None, "readers are not told who the others are");
        chain.follow(&entry.entry, entry.roles.as_deref(), entry.policy.as_deref()).unwrap();
    }
    assert_eq!(&chain, admin.roster.chain());
    // Some held: the rest.
    let replies = reader.read_all(topic, From::Latest, Some(RosterSeq(2))).await;
    let seqs: Vec<_> = entries(&replies).iter().map(|entry| entry.entry.peek().unwrap().seq.0).collect();
    assert_eq!(seqs, [3, 4]);
    let publisher = world.client(5).await;
    let replies = publisher.read_all(topic, From::Earliest, None).await;
    assert!(entries(&replies).iter().all(|entry| entry.ops.is_some()));
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_removed_member_is_served_up_to_its_removal() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3, 4]).await;
    pipe.batch(&mut hand, b"before").await;
    let (gone, stays) = (world.client(3).await, world.client(4).await);
    let mut gone_live = gone.subscribe(topic, From::Latest, None).await;
    let mut stays_live = stays.subscribe(topic, From::Latest, None).await;
    gone_live.until_head().await;
    stays_live.until_head().await;
    let at = owner.append(topic, &admin.remove(3)).await.unwrap();
    client.begin(&mut pipe, topic, &mut hand, &admin, &[4]).await;
    pipe.batch(&mut hand, b"after").await;

    let Reply::Roster(entry) = gone_live.next().await else { panic!() };
    assert!(entry.ops.is_some() && entry.offset == at);
    gone_live.end().await;
    let replies = stays_live.until(|reply| matches!(reply, Reply::Record(..))).await;
    assert_eq!(ciphertexts(&replies), [Bytes::from_static(b"after")]);
    assert_eq!(entries(&replies)[0].ops, None);
    // Whoever was away learns of it all the same, and gets what it may read.
    let late = gone.read_all(topic, From::Earliest, None).await;
    assert_eq!(ciphertexts(&late), [Bytes::from_static(b"before")]);
    assert_eq!(epochs(&late)[0].slot.unwrap().member.0, 2);
    let last = entries(&late).pop().unwrap();
    assert!(last.offset == at && last.ops.is_some() && matches!(late.last(), Some(Reply::Roster(_))));
    let latest = gone.read_all(topic, From::Latest, None).await;
    assert!(ciphertexts(&latest).is_empty() && matches!(latest.last(), Some(Reply::Roster(_))));
    // Back again, under a new index: the old epoch's slot is still its own.
    owner.append(topic, &admin.add(&[(3, Role::Reader)])).await.unwrap();
    let back = gone.read_all(topic, From::Earliest, None).await;
    assert_eq!(ciphertexts(&back).len(), 2);
    let slots: Vec<_> = epochs(&back).iter().map(|epoch| epoch.slot.map(|slot| slot.member.0)).collect();
    assert_eq!(slots, [Some(2), None]);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn beacons_reach_those_at_the_head() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let (mut pipe, hand) = client.publisher(topic, 2, &admin, &[]).await;
    let reader = world.client(3).await;
    let mut sub = reader.subscribe(topic, From::Latest, None).await;
    sub.until_head().await;
    // AtHead was said: from here on beacons are relayed, as soon as the subscription listens.
    let beacon = hand.beacon(&admin.roster);
    let relayed = async {
        loop {
            pipe.send(Request::Beacon(beacon.clone())).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        reply = sub.next() => assert_eq!(reply, Reply::Beacon(key(2), beacon.clone())),
        () = relayed => {}
    }
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_backlog_larger_than_memory_keeps_comes_whole_and_in_order() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    let reader = world.client(3).await;
    let mut slow = reader.subscribe(topic, From::Latest, None).await;
    slow.until_head().await;
    // Some 20 MB, of every size: more than the ring and QUIC's windows hold.
    let sizes: Vec<usize> = (0..1_500).map(|n| 17 + (n * 7_919) % 28_000).collect();
    for (n, size) in sizes.iter().enumerate() {
        pipe.record(batch_record(&hand.batch(&vec![n as u8; *size]))).await;
    }
    for _ in &sizes {
        pipe.ack().await;
    }
    for sub in [slow, reader.subscribe(topic, From::Earliest, None).await] {
        let mut sub = sub;
        let mut seen = 0;
        let mut last = None;
        while seen < sizes.len() {
            let Reply::Record(offset, record) = sub.next().await else { continue };
            let ciphertext = Reply::batch(record).unwrap().ciphertext().0.clone();
            assert_eq!((ciphertext.len(), ciphertext[0]), (sizes[seen], seen as u8));
            assert!(last < Some(offset));
            last = Some(offset);
            seen += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_cut_off_and_holds_nobody_up() {
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(limits).await;
    let (topic, admin, _owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let stalled = world.client(3).await;
    let mut silent = stalled.subscribe(topic, From::Latest, None).await;
    silent.until_head().await;
    let live = world.client(4).await;
    let mut reading = live.subscribe(topic, From::Latest, None).await;
    reading.until_head().await;
    let count = 40;
    let feed = async {
        for n in 0..count {
            pipe.batch(&mut hand, &vec![n; 1 << 20]).await;
        }
    };
    let read = async {
        for _ in 0..count {
            reading.until(|reply| matches!(reply, Reply::Record(..))).await;
        }
    };
    soon(async { tokio::join!(feed, read) }).await;
    // The broker gives the stream up, both halves of it; this side has read nothing meanwhile.
    assert_eq!(soon(silent.writer.stopped()).await, Err(LinkError::StreamStopped));
    let ended = loop {
        match silent.maybe().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(ended, Err(LinkError::CutOff));
}

#[crate::wire(flavor = "multi_thread")]
pub async fn what_retention_removed_is_announced() {
    let limits = Limits { retention_every: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(limits).await;
    let (topic, mut admin, owner) = world.topic(MEMBERS).await;
    let policy = Policy { retain_bytes: 40_000, ..Policy::default() };
    owner.append(topic, &admin.entry(&[Op::set_policy(policy)])).await.unwrap();
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    for n in 0..100u8 {
        pipe.batch(&mut hand, &[n; 1_000]).await;
    }
    let reader = world.client(3).await;
    // Until retention has come by.
    let replies = soon(async {
        loop {
            let replies = reader.read_all(topic, From::Offset(Offset(0)), Some(RosterSeq(0))).await;
            if ciphertexts(&replies).len() < 60 {
                return replies;
            }
        }
    })
    .await;
    let Reply::Start(start) = &replies[0] else { panic!() };
    let hole = replies.iter().find(|reply| matches!(reply, Reply::Hole(..))).unwrap();
    assert_eq!(*hole, Reply::Hole(Offset(0), start.start_offset, HoleReason::Retention));
    assert_eq!(entries(&replies).len(), 2, "roster entries stay for ever");
    let Some(Reply::Context(context)) = replies.iter().find(|reply| matches!(reply, Reply::Context(_)))
    else {
        panic!("{replies:?}")
    };
    assert_eq!(
        context.epoch.slot.unwrap().member,
        admin.index(3),
        "headers and slots stay as long as they open something"
    );
    let kept = ciphertexts(&replies);
    assert!(kept.len() > 30, "{}", kept.len());
    assert_eq!(kept.last().unwrap()[0], 99);
    let (digest, _) = context.batch.as_ref().unwrap();
    assert_eq!(digest.peek().unwrap().batch_no.0 + 1, u64::from(kept[0][0]));
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_reader_that_retention_overtakes_is_told_what_it_missed() {
    let limits = Limits { retention_every: Duration::from_millis(20), ..Limits::default() };
    let world = World::with(limits).await;
    let (topic, mut admin, owner) = world.topic(MEMBERS).await;
    let policy = Policy { retain_bytes: 1 << 20, ..Policy::default() };
    owner.append(topic, &admin.entry(&[Op::set_policy(policy)])).await.unwrap();
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    let reader = world.client(3).await;
    let mut slow = reader.subscribe(topic, From::Latest, None).await;
    slow.until_head().await;
    // Far more than the ring, QUIC's windows and the retained bytes hold together; an entry and an epoch among it.
    let mut last = Offset(0);
    for n in 0..60u8 {
        last = pipe.batch(&mut hand, &vec![n; 1 << 20]).await.offset;
        if n == 40 {
            owner.append(topic, &admin.add(&[(6, Role::Reader)])).await.unwrap();
            client.begin(&mut pipe, topic, &mut hand, &admin, &[3]).await;
        }
    }
    // In a cluster's order what was trimmed is said too, between the records.
    let follows = |next: u64, at: u64| next == at || world.store.is_some() && next < at;
    let (mut next, mut holes, mut contexts, mut seqs) = (None, 0, 0, vec![]);
    while next != Some(last.0 + 1) {
        match slow.next().await {
            Reply::Record(Offset(offset), _) => {
                assert!(next.is_none_or(|next| follows(next, offset)), "{next:?} {offset}");
                next = Some(offset + 1);
            }
            Reply::Epoch(epoch) => {
                assert!(next.is_none_or(|next| follows(next, epoch.offset.0)), "{next:?} {}", epoch.offset);
                next = Some(epoch.offset.0 + 1);
            }
            Reply::Hole(from, to, HoleReason::Retention) => {
                assert!(next.is_some_and(|next| follows(next, from.0)), "{next:?} {from}");
                (next, holes) = (Some(to.0), holes + 1);
            }
            // Those that stood in the hole come all the same: the chain must not break.
            Reply::Roster(entry) => {
                seqs.push(entry.entry.peek().unwrap().seq.0);
                if next.is_some_and(|next| follows(next, entry.offset.0)) {
                    next = Some(entry.offset.0 + 1);
                }
            }
            Reply::Context(context) => {
                assert_eq!(context.epoch.slot.unwrap().member, admin.index(3));
                contexts += 1;
            }
            other => assert!(matches!(other, Reply::AtHead { .. }), "{other:?}"),
        }
    }
    assert!(holes >= 1 && contexts >= 1, "{holes} {contexts}");
    assert_eq!(seqs, [3]);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn one_connection_carries_many_subscriptions() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(MEMBERS).await;
    let reader = world.client(3).await;
    let mut subs = vec![];
    for _ in 0..200 {
        subs.push(reader.subscribe(topic, From::Latest, None).await);
    }
    for sub in &mut subs {
        sub.until_head().await;
    }
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    pipe.batch(&mut hand, b"to all").await;
    for sub in &mut subs {
        sub.until(|reply| matches!(reply, Reply::Record(..))).await;
    }
}

#[crate::wire(flavor = "multi_thread")]
pub async fn strangers_and_unknown_topics_get_the_same_answer() {
    let world = World::new().await;
    let (topic, ..) = world.topic(MEMBERS).await;
    let stranger = world.client(9).await;
    let mut answers = vec![];
    for topic in [topic, sealcast_proto::TopicId([9; 32])] {
        let mut sub = stranger.subscribe(topic, From::Earliest, None).await;
        answers.push(sub.refused().await);
        sub.end().await;
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].code, Code::NotAllowed);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_beacon_never_overtakes_what_it_speaks_of() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(MEMBERS).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let reader = world.client(3).await;
    let mut sub = reader.subscribe(topic, From::Latest, None).await;
    sub.until_head().await;
    let mut told = 0;
    for n in 0..100_u8 {
        // The beacon is here while the batch waits for the disk.
        pipe.record(batch_record(&hand.batch(&[n; 40]))).await;
        pipe.send(Request::Beacon(hand.beacon(&admin.roster))).await;
        let before = sub.until(|reply| matches!(reply, Reply::Record(..))).await;
        for reply in before {
            let Reply::Beacon(_, beacon) = reply else { continue };
            assert!(beacon.peek().unwrap().next_batch_no.0 <= u64::from(n), "batch {n} had not come yet");
            told += 1;
        }
        pipe.ack().await;
    }
    assert!(told > 0, "beacons came");
}

/// Everything a subscription was sent, ciphertext by ciphertext, until `count` came.
pub async fn read_count(pipe: &mut Pipe, count: usize) -> Vec<Bytes> {
    let mut out = vec![];
    while out.len() < count {
        if let Reply::Record(_, record) = pipe.next().await {
            out.push(Reply::batch(record).unwrap().ciphertext().0.clone());
        }
    }
    out
}

#[crate::wire(flavor = "multi_thread")]
pub async fn five_stalled_readers_of_twenty_five_cost_the_others_nothing_and_resume_where_they_were() {
    let limits = Limits { stall: Duration::from_secs(3), ..Limits::default() };
    let world = World::with(limits).await;
    let members: Vec<(u8, Role)> =
        std::iter::once((2, Role::Publisher)).chain((10..35).map(|n| (n, Role::Reader))).collect();
    let (topic, admin, _owner) = world.topic(&members).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let mut readers = vec![];
    for n in 10..35 {
        let reader = world.client(n).await;
        let mut sub = reader.subscribe(topic, From::Latest, None).await;
        sub.until_head().await;
        readers.push((reader, sub));
    }
    let mut stalled = readers.split_off(20);
    // More than a stream's window (4 MiB): the five are stuck long before the end.
    let count = 40_usize;
    let feed = async {
        for n in 0..count {
            pipe.batch(&mut hand, &vec![n as u8; 256 << 10]).await;
        }
    };
    let live = async {
        for (_, sub) in &mut readers {
            let got = read_count(sub, count).await;
            assert!(got.iter().enumerate().all(|(n, ciphertext)| ciphertext[0] == n as u8));
        }
    };
    soon(async { tokio::join!(feed, live) }).await;

    // Cut off, and told why. Whatever arrived before that was read by nobody.
    for (_, sub) in &mut stalled {
        assert_eq!(soon(sub.writer.stopped()).await, Err(LinkError::StreamStopped));
    }
    // Each goes on from where it stands: from its own cursor, which here is the beginning.
    for (reader, mut sub) in stalled {
        let mut had = 0;
        let mut next = None;
        let ended = loop {
            match sub.maybe().await {
                Ok(Some(Reply::Record(offset, _))) => {
                    had += 1;
                    next = offset.next();
                }
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert_eq!(ended, Err(LinkError::CutOff));
        assert!(had < count, "it was stalled");
        let from = next.map_or(From::Earliest, From::Offset);
        let mut again = reader.subscribe(topic, from, None).await;
        let rest = read_count(&mut again, count - had).await;
        assert!(rest.iter().zip(had..).all(|(ciphertext, n)| ciphertext[0] == n as u8));
        pipe.batch(&mut hand, b"and then live").await;
        read_count(&mut again, 1).await;
        // The others get it too; nothing is left over for the next round.
        for (_, sub) in &mut readers {
            read_count(sub, 1).await;
        }
    }
}

mod forged;

use std::path::PathBuf;
use std::time::Duration;

use sealcast_broker::Limits;
use sealcast_broker::archive::{ArchiveError, Counts, export, import};
use sealcast_broker::store::LogError;
use sealcast_proto::frame::{From, HoleReason, Reply};
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::{Op, Role};
use sealcast_proto::{Offset, RosterSeq, TopicId};
use tokio::time::sleep;

use crate::hand::{Hand, batch_record, header_record};
use crate::world::{World, ciphertexts, soon};

/// A broker with a topic that has everything: two publishers, several epochs, an entry that removes someone, and a
/// beginning that retention took. Stopped.
struct Past {
    world: World,
    topic: TopicId,
    hand: Hand,
    /// What member 3 read of it last.
    read: Vec<Reply>,
}

async fn read(world: &World, n: u8, topic: TopicId) -> Vec<Reply> {
    world.client(n).await.read_all(topic, From::Offset(Offset(0)), None).await
}

impl Past {
    async fn new(keep: u64) -> Self {
        let limits = Limits { retention_every: Duration::from_millis(20), ..Limits::default() };
        let mut world = World::with(limits).await;
        let members = [(2, Role::Publisher), (3, Role::Reader), (4, Role::Reader), (5, Role::Publisher)];
        let (topic, mut admin, owner) = world.topic(&members).await;
        let (client, other) = (world.client(2).await, world.client(5).await);
        let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3, 4]).await;
        let (mut others, mut second) = other.publisher(topic, 5, &admin, &[3, 4]).await;
        for n in 0..20_u8 {
            pipe.batch(&mut hand, &[n; 1000]).await;
            others.batch(&mut second, &[n + 100; 1000]).await;
            if n == 10 {
                client.begin(&mut pipe, topic, &mut hand, &admin, &[3, 4]).await;
            }
        }
        owner.append(topic, &admin.remove(4)).await.unwrap();
        client.begin(&mut pipe, topic, &mut hand, &admin, &[3]).await;
        pipe.batch(&mut hand, &[50; 1000]).await;
        let policy = Policy { retain_bytes: keep, ..Policy::default() };
        owner.append(topic, &admin.entry(&[Op::SetPolicy(policy.into())])).await.unwrap();
        pipe.batch(&mut hand, &[51; 1000]).await;
        let trimmed = |replies: &[Reply]| {
            replies.iter().any(|reply| matches!(reply, Reply::Hole(_, _, HoleReason::Retention)))
        };
        let retained = async {
            while keep > 0 && !trimmed(&read(&world, 3, topic).await) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        soon(retained).await;
        let read = read(&world, 3, topic).await;
        drop((owner, client, other, pipe, others));
        world.broker.take().unwrap().shutdown().await;
        Self { world, topic, hand, read }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.dir.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.world.dir.path().into()
    }
}

/// A broker elsewhere.
async fn elsewhere(dir: tempfile::TempDir) -> World {
    let mut world = World { dir, ..World::not_started() };
    world.start().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_goes_on_where_the_first_one_stopped() {
    for keep in [0, 12_000] {
        let mut past = Past::new(keep).await;
        let file = past.file("copy");
        let counts = export(&past.data(), &[past.topic], &file).unwrap();
        assert_eq!((counts.topics, counts.known), (1, 0));
        let dir = tempfile::tempdir().unwrap();
        for known in [0, 1] {
            let counts = import(&file, dir.path()).unwrap();
            assert_eq!((counts.topics, counts.known), (1, known), "the second time there is nothing to do");
        }
        let again = past.file("again");
        let twice = export(dir.path(), &[], &again).unwrap();
        assert_eq!(Counts { known: 0, ..counts }, twice);
        assert!(
            std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap(),
            "the same file, byte for byte"
        );

        let world = elsewhere(dir).await;
        assert_eq!(read(&world, 3, past.topic).await, past.read);
        let gone = world.client(4).await.read_all(past.topic, From::Earliest, Some(RosterSeq(1))).await;
        assert!(
            !gone.iter().any(|reply| matches!(reply, Reply::AtHead { .. })),
            "who was removed stays removed"
        );
        let client = world.client(2).await;
        let mut pipe = client.publish(past.topic).await;
        // What was stored before is known to be; what comes next is taken.
        pipe.record(header_record(past.hand.newest.as_ref().unwrap())).await;
        pipe.ack().await;
        let next = past.hand.batch(b"on it goes");
        pipe.record(batch_record(&next)).await;
        pipe.ack().await;
        assert_eq!(ciphertexts(&read(&world, 3, past.topic).await).last().unwrap()[..], b"on it goes"[..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exported_or_imported_says_why() {
    let mut past = Past::new(0).await;
    let file = past.file("copy");
    let none = tempfile::tempdir().unwrap();
    let error = export(&none.path().join("nowhere"), &[], &file).unwrap_err();
    assert!(matches!(error, ArchiveError::NoData(_)), "{error}");
    let error = export(&past.data(), &[TopicId::try_from(&[9; 32][..]).unwrap()], &file).unwrap_err();
    assert!(matches!(error, ArchiveError::NoTopic(_)), "{error}");
    assert!(!file.exists());
    let counts = export(&past.data(), &[], &file).unwrap();
    let error = export(&past.data(), &[], &file).unwrap_err();
    assert!(matches!(error, ArchiveError::Exists(_)), "{error}");

    past.world.start().await;
    for error in [export(&past.data(), &[], &past.file("other")), import(&file, &past.data())] {
        let error = error.unwrap_err();
        assert!(matches!(error, ArchiveError::Store(LogError::Busy { .. })), "{error}");
        assert!(error.hint().unwrap().contains("stop it first"));
    }
    // It goes on, and so has more than the file: that is still the same history. Another broker goes on too.
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    import(&file, other.path()).unwrap();
    let mut twin = Hand::new(2);
    (twin.newest, twin.epoch) = (past.hand.newest.clone(), past.hand.epoch);
    (twin.next, twin.seq, twin.last) = (past.hand.next, past.hand.seq, past.hand.last);
    let topic = past.topic;
    let go_on = async |world: &mut World, hand: &mut Hand, text: &[u8]| {
        let client = world.client(2).await;
        client.publish(topic).await.batch(hand, text).await;
        drop(client);
        world.broker.take().unwrap().shutdown().await;
    };
    go_on(&mut past.world, &mut past.hand, b"one history").await;
    assert_eq!(import(&file, &past.data()).unwrap(), Counts { known: 1, ..counts });
    let mut world = elsewhere(other).await;
    go_on(&mut world, &mut twin, b"another history").await;
    let newer = past.file("newer");
    export(world.dir.path(), &[], &newer).unwrap();
    let error = import(&newer, &past.data()).unwrap_err();
    assert!(matches!(error, ArchiveError::Fork { .. }), "{error}");
    import(&file, one.path()).unwrap();
    let error = import(&newer, one.path()).unwrap_err();
    assert!(matches!(error, ArchiveError::Behind { .. }), "{error}");
}

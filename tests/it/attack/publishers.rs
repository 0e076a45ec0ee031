//! Publishers that show different things to different members, that use a number twice, or that were set back.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{SeedableRng as _, TryCryptoRng, TryRng};
use sealcast::{Event, PublishError, Role, StartAt};
use sealcast_envelope::{EpochSender, Message, fresh};
use sealcast_proto::frame::{Context, Reply};
use sealcast_proto::object::{Batch, EpochHeader};
use sealcast_proto::record::{BatchRecord, Record, Sealed, batch_aad};
use sealcast_proto::{BatchNo, Seq, Signed};

use super::pen::{Pen, record, resign};
use super::real::Real;
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, next, until};
use crate::hostile::Answer;

fn world() -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    (world, pen)
}

/// A cheat's randomness: an epoch key and an `enc` as before, then perhaps another seed.
struct Torn {
    rng: StdRng,
    drawn: usize,
    seed: u8,
}

impl TryRng for Torn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.rng.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.rng.try_next_u64()
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.rng.try_fill_bytes(out)?;
        if self.drawn == 64 {
            out[0] ^= self.seed;
        }
        self.drawn += out.len();
        Ok(())
    }
}

impl TryCryptoRng for Torn {}

/// An epoch made twice, with one key pair and one `enc` but perhaps two seeds: header, table and sender of each.
fn twice(world: &World, pen: &mut Pen, seeds: [u8; 2]) -> [(Signed<EpochHeader>, Vec<u8>, EpochSender); 2] {
    let (plan, close, targets) = (pen.plan(world), pen.close(), world.targets(|_| true));
    seeds.map(|seed| {
        let mut rng = Torn { rng: StdRng::seed_from_u64(7), drawn: 0, seed };
        let epoch = fresh(&plan, &targets, &mut rng).unwrap();
        let table = epoch.table().to_vec();
        let (header, sender, _) = epoch.finish(close, world.now, &pen.identity);
        (header, table, sender)
    })
}

/// A publisher wraps one seed for one member and another for the next: under one header only one of them opens.
#[tokio::test(flavor = "multi_thread")]
async fn two_seeds_under_one_header_never_give_two_messages() {
    let (mut world, mut pen) = world();
    let [(header, table, sender), (other_header, other_table, _)] = twice(&world, &mut pen, [0, 1]);
    let (one, other) = (header.peek().unwrap(), other_header.peek().unwrap());
    assert_eq!((one.enc, one.epoch_vk), (other.enc, other.epoch_vk), "the attack is what it says");
    assert_ne!(one.commitment, other.commitment);
    // Member 3's slot, the third, holds the other seed.
    let table = [&table[..2 * 56], &other_table[2 * 56..]].concat();
    world.log.push(Stored::Epoch { header, table: table.into() });
    pen.sender = Some(sender);
    pen.publish(&mut world, &["for one"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["end"]);
    let stage = Stage::new(world);
    assert_eq!(until(&mut stage.reader(2).await, "end").await, ["a", "for one"]);
    assert_eq!(until(&mut stage.reader(3).await, "end").await, ["a", "Locked 1..2"]);
}

/// One number, two batches, both signed: terminal, with a proof for anybody who has the publisher's key.
#[tokio::test(flavor = "multi_thread")]
async fn two_batches_with_one_number_are_proven() {
    let (mut world, mut pen) = world();
    let [(header, table, mut one), (again, _, mut two)] = twice(&world, &mut pen, [0, 0]);
    assert_eq!(header.hash(), again.hash());
    let seal = |sender: &mut EpochSender, text: &str| {
        let message = Message::from(text).encode().unwrap();
        sender.seal(&[message], Seq(1), world.now, false).unwrap()
    };
    let (for_some, for_others) = (seal(&mut one, "for some"), seal(&mut two, "for others"));
    world.log.push(Stored::Epoch { header, table: table.into() });
    world.log.push(Stored::Batch { publisher: pen.public(), batch: for_some });
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "for some").await, ["a"]);
    stage.hostile.push([record(4, for_others)]);
    let item = next(&mut reader).await;
    let Some(Err(Event::Fork { publisher: Some(publisher), proof })) = item else { panic!("{item:?}") };
    assert!(next(&mut reader).await.is_none(), "nothing follows");
    let [header, one, other] = &proof[..] else { panic!("{proof:?}") };
    let Ok(Record::Header(header)) = Record::decode(header.clone()) else { panic!() };
    let epoch_vk = header.verify(&publisher).unwrap().epoch_vk;
    let read = |part: &bytes::Bytes| {
        let Ok(Record::Batch(batch)) = Record::decode(part.clone()) else { panic!() };
        // In evidence the ciphertext's hash stands for it.
        let ct_hash = batch.ciphertext().0.clone();
        let aad = batch_aad(&header.hash(), &super::pen::body(&batch));
        let hash = sealcast_proto::record::batch_hash(&aad, &ct_hash.as_ref().try_into().unwrap());
        let signature: [u8; 64] = part[part.len() - 32 - 64..part.len() - 32].try_into().unwrap();
        let label = sealcast_proto::hash::SignLabel::Batch;
        assert!(sealcast_proto::hash::verify(&epoch_vk, label, hash.as_bytes(), &signature));
        (batch.peek().unwrap().batch_no, hash)
    };
    assert_eq!(read(one).0, read(other).0);
    assert_ne!(read(one).1, read(other).1);
}

/// The same to two members, one batch each: neither can know alone, but their heads differ where they must be the same.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_that_compare_their_heads_find_a_split() {
    let (mut world, mut pen) = world();
    let [(header, table, mut one), (_, _, mut two)] = twice(&world, &mut pen, [0, 0]);
    world.log.push(Stored::Epoch { header, table: table.into() });
    let mut heads = Vec::new();
    for (n, sender, text) in [(2, &mut one, "for some"), (3, &mut two, "for others")] {
        let message = Message::from(text).encode().unwrap();
        let batch = sender.seal(&[message], Seq(1), world.now, false).unwrap();
        let mut shown = world.clone();
        shown.log.push(Stored::Batch { publisher: pen.public(), batch });
        let mut reader = Stage::new(shown).reader(n).await;
        assert_eq!(until(&mut reader, text).await, ["a"]);
        heads.push(reader.head().await.remove(0));
    }
    assert_eq!((heads[0].header_hash, heads[0].batches), (heads[1].header_hash, heads[1].batches));
    assert_ne!(heads[0].last_hash, heads[1].last_hash);
}

/// A publisher signs what does not open: plaintext, nothing, another length. Named, passed, and the next one is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_signs_and_nobody_can_open_is_named() {
    let plaintext = Message::from("in the clear").encode().unwrap();
    for ciphertext in [plaintext.to_vec(), vec![], vec![0; 15], vec![0; 16], vec![7; 4096]] {
        let (mut world, mut pen) = world();
        // An epoch whose signing key the publisher keeps: the library's own sender makes nothing like this.
        pen.begin(&mut world);
        let Some(Stored::Epoch { header, table }) = world.log.pop() else { panic!() };
        let epoch_key = identity(99);
        let header = resign(&header, &pen.identity, |header| header.epoch_vk = epoch_key.public());
        let hash = header.hash();
        let epoch = header.peek().unwrap().epoch;
        world.log.push(Stored::Epoch { header, table });
        let body = Batch {
            epoch,
            batch_no: BatchNo(0),
            first_seq: Seq(1),
            count: 1,
            time_ms: world.now,
            end: false,
            prev_batch_hash: hash,
        };
        let body = body.encode();
        let aad = batch_aad(&hash, &body);
        let (batch, last) = BatchRecord::sign(body, &aad, Sealed(ciphertext.into()), epoch_key.signing_key());
        world.log.push(Stored::Batch { publisher: pen.public(), batch });
        let mut plan = pen.plan(&world);
        plan.prev_header_hash = hash;
        let close = sealcast_proto::object::PrevClose { batches: 1, last_batch_hash: last };
        pen.begin_as(&mut world, &plan, Some(close), &[]);
        pen.next_seq = 2;
        pen.publish(&mut world, &["end"]);
        let mut reader = Stage::new(world).reader(2).await;
        assert_eq!(until(&mut reader, "end").await, ["a", "BadBatch 1..2"]);
    }
}

/// A publisher's machine is set back to a snapshot, twice: each run seals under keys of its own, no number is used twice,
/// and members read everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_snapshot_reuses_no_key_and_no_number() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let mut epochs = Vec::new();
    let publish = async |state: &str, text: &str| {
        let topic = real.publisher(OWNER, state).await.unwrap();
        let receipt = topic.publish(text).await.unwrap();
        topic.close().await.unwrap();
        receipt
    };
    epochs.push(publish("owner", "a").await);
    real.copy_state("owner", "snapshot");
    epochs.push(publish("owner", "b").await);
    epochs.push(publish("snapshot", "c").await);
    assert!(epochs.is_sorted_by(|a, b| a.epoch < b.epoch && a.seq < b.seq), "{epochs:?}");
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    let said = until(&mut reader, "c").await;
    assert!(said.iter().all(|line| ["a", "b", "Ended"].contains(&line.as_str())), "{said:?}");
    assert!(said.contains(&"b".to_owned()));
}

/// The same identity publishes from a copy of its state at the same time: the older one stops and says why.
#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_one_publisher_are_noticed() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    // Closed, so that the copy is of a state that was saved.
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    topic.publish("a").await.unwrap();
    topic.close().await.unwrap();
    real.copy_state("owner", "copy");
    let first = real.publisher(OWNER, "owner").await.unwrap();
    first.publish("b").await.unwrap();
    let second = real.publisher(OWNER, "copy").await.unwrap();
    second.publish("c").await.unwrap();
    let error = first.publish("d").await.unwrap_err();
    assert!(matches!(error, PublishError::IdentityInUse), "{error:?}");
    second.publish("end").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Ended", "b", "c"]);
    assert_eq!(reader.head().await[0].publisher, key(OWNER));
}

/// After a restart the broker says that it holds nothing of this publisher, or an older epoch: named, and nothing is
/// published on top of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgot_what_it_acknowledged_is_named() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let older: Arc<Mutex<Option<Context>>> = Arc::default();
    for round in 0..2 {
        let topic = real.publisher(OWNER, "owner").await.unwrap();
        topic.publish("a").await.unwrap();
        topic.close().await.unwrap();
        if round == 0 {
            let note = older.clone();
            real.hostile.turn(move |_, _| {
                let note = note.clone();
                Answer::Relay(Box::new(move |reply| {
                    if let Reply::Context(context) = &reply {
                        note.lock().unwrap().get_or_insert(context.clone());
                    }
                    vec![reply]
                }))
            });
        }
    }
    let older = older.lock().unwrap().clone().unwrap();
    for shown in [None, Some(older)] {
        real.hostile.turn(move |_, _| {
            let shown = shown.clone();
            Answer::Relay(Box::new(move |reply| match reply {
                Reply::Context(_) => shown.clone().map(Reply::Context).into_iter().collect(),
                other => vec![other],
            }))
        });
        let error = real.publisher(OWNER, "owner").await.unwrap_err();
        assert!(matches!(error, PublishError::Rollback(_)), "{error:?}");
    }
    real.hostile.turn(|_, _| Answer::honest());
    real.publisher(OWNER, "owner").await.unwrap().publish("end").await.unwrap();
}

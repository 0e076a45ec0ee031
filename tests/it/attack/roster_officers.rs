//! The roster in a hostile broker's hands, as publishers and admins meet it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sealcast::{AdminError, PublishError, Role, StartAt, TopicAdmin};
use sealcast_proto::frame::{Reply, Request, RosterDelivery};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{EntryBundle, Op};
use sealcast_proto::{Offset, RosterSeq, Signed};

use super::real::Real;
use super::until;
use super::world::{OWNER, identity, key};
use crate::hostile::Answer;
use crate::program::World as Program;

const SOON: Duration = Duration::from_secs(30);
const PUBLISHER: u8 = 4;

/// An addition of a stranger after the head, as the owner would sign it.
fn addition(real: &Real, n: u8) -> EntryBundle {
    let op = Op::Add { identity: key(n), role: Role::Publisher };
    real.admin.roster().sign(&[op], &identity(OWNER), super::world::now_ms()).unwrap()
}

fn delivered(bundle: &EntryBundle) -> Reply {
    Reply::Roster(RosterDelivery {
        offset: Offset(99),
        entry: bundle.entry.clone(),
        ops: Some(bundle.ops.clone()),
        roles: bundle.roles.clone(),
        policy: bundle.policy.clone(),
    })
}

/// From the head of each watch and roster on, this entry too.
fn with_entry(real: &Real, bundle: EntryBundle) {
    real.hostile.turn(move |_, request| {
        let bundle = bundle.clone();
        match request {
            Request::Watch(..) | Request::FetchRoster(..) => {
                Answer::Relay(Box::new(move |reply| match reply {
                    Reply::AtHead { .. } => vec![delivered(&bundle), reply],
                    other => vec![other],
                }))
            }
            _ => Answer::honest(),
        }
    });
}

/// An addition without a signature, signed by a stranger, or by a publisher who is no admin: a publisher seals nothing for
/// it, and an admin builds nothing on it.
#[tokio::test(flavor = "multi_thread")]
async fn no_officer_takes_an_addition_that_no_admin_signed() {
    let real = Real::new(&[(2, Role::Reader), (PUBLISHER, Role::Publisher)]).await;
    let genuine = addition(&real, 66);
    let unsigned = Signed::from_parts(genuine.entry.body().clone(), &[0; 64]).unwrap();
    let signed_by = |n: u8, named: bool| {
        let mut entry = genuine.entry.peek().unwrap();
        if named {
            entry.signer = key(n);
        }
        Signed::sign(&entry, identity(n).signing_key())
    };
    for entry in [unsigned, signed_by(66, false), signed_by(66, true), signed_by(PUBLISHER, true)] {
        with_entry(&real, EntryBundle { entry, ..genuine.clone() });
        let error = real.publisher(PUBLISHER, "publisher").await.unwrap_err();
        assert!(matches!(error, PublishError::Roster(_)), "{error:?}");
        let opened =
            TopicAdmin::open(&real.link(), Arc::new(identity(OWNER)), &real.state("other admin")).await;
        assert!(matches!(opened, Err(AdminError::Roster(_))), "{opened:?}");
    }
    // Nothing of it stays.
    real.hostile.turn(|_, _| Answer::honest());
    real.publisher(PUBLISHER, "publisher").await.unwrap().publish("end").await.unwrap();
}

/// A genuine entry with operations that it did not sign.
#[tokio::test(flavor = "multi_thread")]
async fn no_officer_takes_operations_that_the_entry_did_not_sign() {
    let real = Real::new(&[(PUBLISHER, Role::Publisher)]).await;
    let (genuine, other) = (addition(&real, 65), addition(&real, 66));
    with_entry(&real, EntryBundle { ops: other.ops, ..genuine });
    let error = real.publisher(PUBLISHER, "publisher").await.unwrap_err();
    assert!(matches!(error, PublishError::Roster(_)), "{error:?}");
}

/// What a broker that was set back shows: nothing after this entry.
fn rolled_back(real: &Real, to: RosterSeq) {
    real.hostile.turn(move |_, _| {
        Answer::Relay(Box::new(move |reply| match reply {
            Reply::Start(mut start) => {
                start.roster_seq = to;
                vec![Reply::Start(start)]
            }
            Reply::Roster(delivery) if delivery.entry.peek().unwrap().seq > to => vec![],
            other => vec![other],
        }))
    });
}

/// After a restart the broker shows publishers and admins a roster from before a removal.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_roster_is_named_to_officers() {
    let mut real = Real::new(&[(2, Role::Reader), (PUBLISHER, Role::Publisher)]).await;
    let before = real.admin.roster().chain().seq();
    real.admin.remove(&[key(2)], SOON).await.unwrap();
    real.publisher(PUBLISHER, "publisher").await.unwrap().close().await.unwrap();
    let state = real.state("second admin");
    let open = async || TopicAdmin::open(&real.link(), Arc::new(identity(OWNER)), &state).await;
    open().await.unwrap();
    rolled_back(&real, before);
    let error = real.publisher(PUBLISHER, "publisher").await.unwrap_err();
    assert!(matches!(error, PublishError::Rollback(_)), "{error:?}");
    let error = open().await.unwrap_err();
    assert!(matches!(error, AdminError::Rollback(_)), "{error:?}");
    real.hostile.turn(|_, _| Answer::honest());
    real.publisher(PUBLISHER, "publisher").await.unwrap().publish("end").await.unwrap();
}

/// After a restart the broker shows another entry of the number that was seen, properly signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_named_to_officers() {
    let mut real = Real::new(&[(2, Role::Reader), (PUBLISHER, Role::Publisher)]).await;
    let other = addition(&real, 66);
    real.admin.add(&[key(7)], Role::Reader, SOON).await.unwrap();
    real.publisher(PUBLISHER, "publisher").await.unwrap().close().await.unwrap();
    let state = real.state("second admin");
    let open = async || TopicAdmin::open(&real.link(), Arc::new(identity(OWNER)), &state).await;
    open().await.unwrap();
    real.hostile.turn(move |_, _| {
        let other = other.clone();
        Answer::Relay(Box::new(move |reply| match reply {
            Reply::Roster(delivery)
                if delivery.entry.peek().unwrap().seq == other.entry.peek().unwrap().seq =>
            {
                vec![delivered(&other)]
            }
            reply => vec![reply],
        }))
    });
    let error = real.publisher(PUBLISHER, "publisher").await.unwrap_err();
    let PublishError::Fork(fork) = error else { panic!("{error:?}") };
    is_a_proof(&fork.proof);
    let error = open().await.unwrap_err();
    let AdminError::Fork(fork) = error else { panic!("{error:?}") };
    is_a_proof(&fork.proof);

    // The command line says it with the proof, and with an exit code of its own.
    let program = Program::new();
    program.write("publisher.key", identity(PUBLISHER).to_text().as_str());
    program.write("owner.key", identity(OWNER).to_text().as_str());
    let (link, state) =
        (real.link().to_string(), |name: &str| real.dir.path().join(name).display().to_string());
    let run = |args: &[&str]| tokio::task::block_in_place(|| program.run(args));
    for ran in [
        run(&["pub", &link, "text", "-i", "publisher.key", "--state", &state("publisher")]),
        run(&["rotate", &link, "-i", "owner.key", "--state", &state("second admin")]),
    ] {
        ran.fails(5, "forked", "show the proof");
        assert!(
            ran.stderr.contains("proof 1 of 2: ") && ran.stderr.contains("proof 2 of 2: "),
            "{}",
            ran.stderr
        );
    }
}

/// Two entries that the owner signed with one number, as anybody can check.
fn is_a_proof(proof: &[Bytes]) {
    let entries = proof.iter().map(|part| match Record::decode(part.clone()) {
        Ok(Record::Roster(entry)) => (entry.verify(&key(OWNER)).unwrap().seq, entry.hash()),
        other => panic!("{other:?}"),
    });
    let entries: Vec<_> = entries.collect();
    let [(one, one_hash), (two, two_hash)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(one, two);
    assert_ne!(one_hash, two_hash);
}

/// The broker keeps a removal from one live publisher: the admin is told whom it did not hear, the honest part of the
/// broker takes nothing more from it, and when it learns of the removal nothing was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_withheld_from_a_publisher_names_it() {
    let mut real = Real::new(&[(2, Role::Reader), (3, Role::Reader), (PUBLISHER, Role::Publisher)]).await;
    let topic = real.publisher(PUBLISHER, "publisher").await.unwrap();
    topic.publish("before").await.unwrap();
    // Its watch from now on: without entries.
    let dark = Arc::new(AtomicBool::new(true));
    let keep = dark.clone();
    real.hostile.turn(move |_, request| {
        let (keep, watch) = (keep.clone(), matches!(request, Request::Watch(..)));
        Answer::Relay(Box::new(move |reply| match reply {
            Reply::Roster(_) if watch && keep.load(Ordering::SeqCst) => vec![],
            other => vec![other],
        }))
    });
    real.hostile.cut();
    topic.publish("in the dark").await.unwrap();
    let confirmed = real.admin.remove(&[key(3)], Duration::from_secs(1)).await.unwrap();
    assert_eq!((confirmed.confirmed, confirmed.unheard), (vec![], vec![key(PUBLISHER)]));
    // It cannot be acknowledged while the publisher does not know.
    let sealed = topic.send("after").await.unwrap();
    dark.store(false, Ordering::SeqCst);
    real.hostile.cut();
    sealed.await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    assert_eq!(until(&mut reader, "after").await, ["before", "in the dark"]);
}

/// A removed publisher's program stops by itself, and a member that was made a reader too.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_publisher_stops() {
    let mut real = Real::new(&[(PUBLISHER, Role::Publisher), (5, Role::Publisher)]).await;
    let (gone, reader) =
        (real.publisher(PUBLISHER, "gone").await.unwrap(), real.publisher(5, "reader").await.unwrap());
    gone.publish("a").await.unwrap();
    reader.publish("b").await.unwrap();
    real.admin.remove(&[key(PUBLISHER)], SOON).await.unwrap();
    real.admin.add(&[key(5)], Role::Reader, SOON).await.unwrap();
    let stopped =
        |error: &PublishError| matches!(error, PublishError::Removed(_) | PublishError::NotAllowed(_));
    for topic in [&gone, &reader] {
        let error = loop {
            if let Err(error) = topic.publish("on and on").await {
                break error;
            }
        };
        assert!(stopped(&error), "{error:?}");
    }
}

/// The last admin cannot be removed, by itself or by request.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_stays() {
    let mut real = Real::new(&[(2, Role::Reader)]).await;
    let error = real.admin.remove(&[key(OWNER)], SOON).await.unwrap_err();
    assert!(matches!(error, AdminError::Roster(_)), "{error:?}");
    let error = real.admin.add(&[key(OWNER)], Role::Reader, SOON).await.unwrap_err();
    assert!(matches!(error, AdminError::Roster(_)), "{error:?}");
}

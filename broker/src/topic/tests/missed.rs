//! What was trimmed before it was read: who reads on behind it decides as those who read it all.

use sealcast_proto::object::EpochHeader;

use super::*;

const BOB: SessionId = SessionId(2);

/// What stands somewhere in a shared order.
#[derive(Clone)]
enum Stood {
    Roster(EntryBundle),
    /// And whose session it came from.
    Header(Signed<EpochHeader>, PublicKey),
    /// With the header that it is sealed under.
    Batch(Signed<EpochHeader>, BatchRecord),
}

use Stood::{Batch, Header, Roster};

/// Publisher 2 has an epoch of three batches, a removal ends it, and an epoch of four follows; publisher 5 has one of one.
struct Scene {
    stood: Vec<(u64, Stood)>,
    /// Publisher 2, after all that.
    hand: Hand,
    second: Signed<EpochHeader>,
}

impl Scene {
    fn new() -> Self {
        let (topic, parsed, _) = genesis(0);
        let mut admin = Admin::new(topic, &parsed);
        let (mut hand, mut other) = (Hand::new(2), Hand::new(5));
        let mut stood = Vec::new();
        let members = [(2, Role::Publisher), (3, Role::Reader), (5, Role::Publisher)];
        stood.push((10, Roster(admin.add(&members))));
        let (first, _) = hand.begin(&admin.roster, &[]);
        stood.push((20, Header(first.clone(), key(2))));
        for n in 0..3 {
            stood.push((21 + n, Batch(first.clone(), hand.batch(&[n as u8]))));
        }
        stood.push((30, Roster(admin.remove(3))));
        // Sealed before its publisher heard of that: refused.
        let (last, next) = (hand.last, hand.next);
        stood.push((31, Batch(first.clone(), hand.batch(b"stale"))));
        (hand.last, hand.next) = (last, next);
        let (second, _) = hand.begin(&admin.roster, &[]);
        stood.push((32, Header(second.clone(), key(2))));
        for n in 0..4 {
            stood.push((33 + n, Batch(second.clone(), hand.batch(&[n as u8]))));
        }
        let (theirs, _) = other.begin(&admin.roster, &[]);
        stood.push((40, Header(theirs.clone(), key(5))));
        stood.push((41, Batch(theirs, other.batch(b"theirs"))));
        Self { stood, hand, second }
    }

    fn at(&self, at: u64) -> Stood {
        self.stood.iter().find(|(place, _)| *place == at).unwrap().1.clone()
    }

    /// All that stands below 37 was trimmed: of publisher 2 these headers stay, and its last two batches are named.
    fn trim(&self, headers: &[u64]) -> Trim {
        let batches = [35, 36].map(|at| {
            let Batch(_, batch) = self.at(at) else { panic!() };
            (Offset(at), batch.digest().encode())
        });
        let headers = headers.iter().copied().map(Offset).collect();
        Trim { before: Offset(37), left: vec![Left { publisher: key(2), headers, batches: batches.into() }] }
    }
}

/// An edge that read nothing yet.
fn edge() -> TopicMachine {
    let (topic, genesis, _) = genesis(0);
    let machine = TopicMachine::new(Acceptor::new(topic, &genesis), Offset(0), 0, Level::Durable);
    machine.ordered(Offset(0), Level::Replicated)
}

/// What follows from reading this, the storing of it included.
fn read(machine: &mut TopicMachine, at: u64, stood: Stood) -> Effects {
    let input = match stood {
        Roster(bundle) => Input::Roster { ticket: Ticket(at), bundle },
        Header(header, identity) => {
            let session = if identity == key(2) { ALICE } else { BOB };
            Input::Publish { session, identity, incoming: Incoming::Header { header, table: Table::Empty } }
        }
        Batch(header, batch) => {
            let mut claim = Box::new(BatchClaim::read(&batch).unwrap());
            let parsed = header.peek().unwrap();
            claim.verify(&header.hash(), &parsed.epoch_vk);
            let session = if parsed.publisher == key(2) { ALICE } else { BOB };
            let incoming = Incoming::Batch { claim, record: batch_record(&batch) };
            Input::Publish { session, identity: parsed.publisher, incoming }
        }
    };
    let mut effects = Effects::new();
    machine.handle_at(Offset(at), input, 1_000 + at, &mut effects);
    machine.handle(Input::Committed(machine.next_offset()), 0, &mut effects);
    effects
}

fn read_all(machine: &mut TopicMachine, scene: &Scene, places: &[u64]) -> Effects {
    places.iter().flat_map(|at| read(machine, *at, scene.at(*at))).collect()
}

/// Batches that were put in the index without their records.
fn indexed(effects: &Effects) -> Vec<u64> {
    let place = |effect: &Effect| if let Effect::Index(at, _) = effect { Some(at.0) } else { None };
    effects.iter().filter_map(place).collect()
}

fn gone(effects: &Effects) -> Vec<u64> {
    let before =
        |effect: &Effect| if let Effect::Gone { before, .. } = effect { Some(before.0) } else { None };
    effects.iter().filter_map(before).collect()
}

/// Where a publisher stands: its newest header's place, its last batch's, and what comes next.
fn lane(machine: &TopicMachine, n: u8) -> Option<(u64, Option<u64>, u64)> {
    let lane = machine.acceptor().lane(&key(n))?;
    Some((lane.header_offset().0, lane.last().map(|last| last.offset.0), lane.next_batch_no().0))
}

/// One that read everything.
fn whole(scene: &Scene) -> TopicMachine {
    let mut machine = edge();
    let places: Vec<_> = scene.stood.iter().map(|(at, _)| *at).collect();
    let effects = read_all(&mut machine, scene, &places);
    assert!(told(&effects).contains(&"refuse 1 StaleEpoch".to_owned()));
    assert_eq!(appends(&effects), scene.stood.len() - 1);
    machine
}

/// What comes next is taken by both alike, and what does not is refused by both.
fn decide_alike(scene: &mut Scene, missed: &mut TopicMachine) {
    let mut whole = whole(scene);
    for n in [2, 5] {
        assert_eq!(lane(missed, n), lane(&whole, n), "publisher {n}");
    }
    assert_eq!((missed.next_offset(), missed.visible()), (whole.next_offset(), whole.visible()));
    let skipped = {
        let mut ahead = Hand::new(2);
        (ahead.newest, ahead.epoch) = (scene.hand.newest.clone(), scene.hand.epoch);
        ahead.next = scene.hand.next + 1;
        ahead.batch(b"too early")
    };
    let next = scene.hand.batch(b"next");
    let both = [&mut whole, missed].map(|machine| {
        let early = told(&read(machine, 50, Batch(scene.second.clone(), skipped.clone())));
        let taken = told(&read(machine, 51, Batch(scene.second.clone(), next.clone())));
        (early, taken)
    });
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].0, ["refuse 1 OutOfOrder"]);
    assert!(both[0].1.contains(&"ack 1 @51 Replicated".to_owned()), "{:?}", both[0].1);
}

#[test]
fn an_edge_that_read_nothing_decides_like_one_that_read_it_all() {
    let mut scene = Scene::new();
    let mut machine = edge();
    let mut effects = Effects::new();
    machine.miss(scene.trim(&[32]), &mut effects);
    assert!(effects.is_empty(), "nothing of it is here yet");
    // What was not trimmed: roster entries, and the header that batches still need.
    let left = read_all(&mut machine, &scene, &[10, 30, 32]);
    assert_eq!((appends(&left), indexed(&left), gone(&left)), (3, vec![35, 36], vec![]));
    assert_eq!(lane(&machine, 2), Some((32, Some(36), 4)), "it goes on behind what is gone");
    let behind = read_all(&mut machine, &scene, &[40, 41]);
    assert_eq!((gone(&behind), appends(&behind)), (vec![37], 2), "said once, before what stands behind it");
    assert!(matches!(behind[0], Effect::Gone { .. }));
    decide_alike(&mut scene, &mut machine);
    // What comes again is looked up where it was noted.
    let again = read(&mut machine, 60, scene.at(36));
    assert_eq!((told(&again), appends(&again)), (vec!["compare 1".to_owned()], 0));
}

#[test]
fn an_edge_that_read_the_header_learns_of_the_batches_at_once() {
    let mut scene = Scene::new();
    let mut machine = edge();
    read_all(&mut machine, &scene, &[10, 20, 21, 22, 23, 30, 31, 32, 33, 34]);
    let mut effects = Effects::new();
    machine.miss(scene.trim(&[32]), &mut effects);
    assert_eq!((indexed(&effects), lane(&machine, 2)), (vec![35, 36], Some((32, Some(36), 4))));
    assert_eq!(gone(&read_all(&mut machine, &scene, &[40, 41])), [37]);
    decide_alike(&mut scene, &mut machine);
}

#[test]
fn an_edge_that_read_an_older_header_goes_on_at_the_newest() {
    let mut scene = Scene::new();
    let mut machine = edge();
    read_all(&mut machine, &scene, &[10, 20, 21]);
    let mut effects = Effects::new();
    machine.miss(scene.trim(&[20, 32]), &mut effects);
    assert_eq!((indexed(&effects), lane(&machine, 2)), (vec![], Some((20, Some(21), 1))), "not its batches");
    let left = read_all(&mut machine, &scene, &[30, 32]);
    assert_eq!((appends(&left), indexed(&left)), (2, vec![35, 36]));
    read_all(&mut machine, &scene, &[40, 41]);
    decide_alike(&mut scene, &mut machine);
}

#[test]
fn an_edge_that_read_nothing_takes_an_older_header_without_the_newest_ones_batches() {
    let mut scene = Scene::new();
    let mut machine = edge();
    machine.miss(scene.trim(&[20, 32]), &mut Effects::new());
    let left = read_all(&mut machine, &scene, &[10, 20]);
    assert_eq!((appends(&left), indexed(&left), lane(&machine, 2)), (2, vec![], Some((20, None, 0))));
    read_all(&mut machine, &scene, &[30, 32, 40, 41]);
    decide_alike(&mut scene, &mut machine);
}

#[test]
fn what_the_trim_does_not_name_is_not_taken() {
    let scene = Scene::new();
    let mut machine = edge();
    machine.miss(scene.trim(&[32]), &mut Effects::new());
    read_all(&mut machine, &scene, &[10]);
    let Header(second, _) = scene.at(32) else { panic!() };
    let none = (vec!["compare 1".to_owned()], 0);
    // A header that nothing needs any more, and a batch: whatever became of them is in the index, or they were refused.
    for at in [20, 21] {
        let effects = read(&mut machine, at, scene.at(at));
        assert_eq!((told(&effects), appends(&effects)), none, "{at}");
    }
    // Another's header at the place of one that stays.
    let effects = read(&mut machine, 32, Header(second, key(5)));
    assert_eq!((appends(&effects), indexed(&effects), lane(&machine, 2)), (0, vec![], None));
    assert!(told(&effects).iter().all(|told| told.starts_with("compare")), "{:?}", told(&effects));
}

#[test]
fn an_edge_that_missed_nothing_is_not_told_of_a_hole() {
    let mut scene = Scene::new();
    let mut machine = edge();
    // It read what stood right below: only then did it hear of the trim.
    let read_before: Vec<u64> = scene.stood.iter().map(|(at, _)| *at).filter(|at| *at < 37).collect();
    read_all(&mut machine, &scene, &read_before);
    machine.miss(scene.trim(&[32]), &mut Effects::new());
    assert_eq!(gone(&read_all(&mut machine, &scene, &[40, 41])), Vec::<u64>::new());
    decide_alike(&mut scene, &mut machine);
}

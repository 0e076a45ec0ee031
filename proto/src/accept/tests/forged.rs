//! What a publisher, or who stands in its place, signs and the log must not take up.

use super::*;

/// A topic, its publisher with a first epoch that is stored, and that epoch's header.
fn begun() -> (Acceptor, Identity, Hand, Signed<EpochHeader>) {
    let (mut acceptor, owner) = topic(8);
    let mut hand = Hand::new(2);
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    acceptor.accept_header(&hand.public(), &header, true, Offset(1)).unwrap();
    hand.begin(&header);
    (acceptor, owner, hand, header)
}

/// The header changed and signed again by its publisher.
fn bent(hand: &Hand, header: &Signed<EpochHeader>, bend: impl Fn(&mut EpochHeader)) -> Signed<EpochHeader> {
    let mut parsed = header.peek().unwrap();
    bend(&mut parsed);
    Signed::sign(&parsed, hand.id.signing_key())
}

#[test]
fn a_header_that_its_publisher_did_not_sign_is_refused() {
    let (mut acceptor, owner) = topic(8);
    let mut hand = Hand::new(2);
    let me = hand.public();
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    let by_owner = Signed::sign(&header.peek().unwrap(), owner.signing_key());
    let mut bytes = *header.signature();
    bytes[0] ^= 1;
    let bent = Signed::from_parts(header.body().clone(), &bytes).unwrap();
    for forged in [by_owner, bent] {
        assert_eq!(code(acceptor.accept_header(&me, &forged, true, Offset(1))), Code::Malformed);
    }
    assert_eq!(acceptor.accept_header(&me, &header, true, Offset(1)).unwrap(), Verdict::Store);
}

#[test]
fn a_header_for_another_topic_is_refused() {
    let (mut acceptor, _) = topic(8);
    let mut hand = Hand::new(2);
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    let other = bent(&hand, &header, |header| header.topic = TopicId([9; 32]));
    assert_eq!(code(acceptor.accept_header(&hand.public(), &other, true, Offset(1))), Code::NotAllowed);
}

/// A session may have verified a batch under a header of this number that was refused.
#[test]
fn a_batch_of_another_header_with_the_same_number_is_refused() {
    let (mut acceptor, _, hand, header) = begun();
    let twin_header = bent(&hand, &header, |header| header.commitment = [9; 32]);
    let mut twin = Hand::new(2);
    twin.begin(&twin_header);
    twin.last = header.hash();
    let (batch, _) = twin.batch(1);
    let claim = twin.claim(&batch);
    assert!(claim.verified().is_some(), "it holds under the other header");
    assert_eq!(code(acceptor.accept_batch(&hand.public(), &claim, Offset(2))), Code::Malformed);
}

#[test]
fn a_batch_of_an_epoch_that_is_over_is_refused_as_such() {
    let (mut acceptor, _, mut hand, first) = begun();
    let me = hand.public();
    let (late, _) = hand.batch(1);
    let late = hand.claim(&late);
    let second = hand.header(acceptor.roster(), 11, Mode::Fresh);
    acceptor.accept_header(&me, &second, true, Offset(2)).unwrap();
    assert_eq!(first.peek().unwrap().epoch, late.batch().epoch);
    assert_eq!(code(acceptor.accept_batch(&me, &late, Offset(3))), Code::OutOfOrder);
}

#[test]
fn a_header_names_an_entry_of_this_log_that_is_not_older_than_before() {
    let (mut acceptor, owner, mut hand, first) = begun();
    let me = hand.public();
    let add = Op::Add { identity: identity(8).public(), role: Role::Reader };
    let bundle = acceptor.roster().sign(&[add], &owner, 3).unwrap();
    let before = acceptor.roster().clone();
    acceptor.accept_roster(&bundle, Offset(2)).unwrap();
    let next = hand.header(acceptor.roster(), 11, Mode::Fresh);

    let ahead = bent(&hand, &next, |header| header.roster_seq = RosterSeq(3));
    assert_eq!(code(acceptor.accept_header(&me, &ahead, true, Offset(3))), Code::OutOfOrder);
    let another = bent(&hand, &next, |header| header.roster_hash = Hash([4; 32]));
    assert_eq!(code(acceptor.accept_header(&me, &another, true, Offset(3))), Code::RosterConflict);
    acceptor.accept_header(&me, &next, true, Offset(3)).unwrap();
    hand.begin(&next);
    let back = hand.header(&before, 12, Mode::Fresh);
    assert_eq!(back.peek().unwrap().roster_seq, first.peek().unwrap().roster_seq);
    assert_eq!(code(acceptor.accept_header(&me, &back, true, Offset(4))), Code::OutOfOrder);
}

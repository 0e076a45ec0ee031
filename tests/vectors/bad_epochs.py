"""Cases of negative.json: slots, advances, rewraps and beacons."""

import copy

from bad_keys import OWNER, READER, case, torsion
from objects import ADVANCE, FRESH, REWRAP
from primitives import P, u, x25519_public
from reader import KEK
from writer import NOW, Admin, Party, Sender, frame, random, signed

OTHER = Party("bad: other reader", 2, NOW)
PLAIN = Party("bad: static reader", 3)
AT_FIRST = Party("bad: reader", 1)
ADMIN = Admin("bad epochs", OWNER)
GOOD = Sender(ADMIN, OWNER, NOW, [OWNER, READER, OTHER, PLAIN])
SEQ = 5


def flip(data, at):
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def cases():
    yield from slots()
    yield from advances()
    yield from rewraps()
    yield from beacons()


def opening(sender=GOOD, who=READER, slot=None):
    """What a member needs to open an epoch: the header, its slot and the secret it is under."""
    if slot is None:
        at = [OWNER, READER, OTHER, PLAIN].index(who) * 56
        slot = sender.table[at : at + 56]
    secret = who.prekeys[-1] if who.prekeys else {"seed": who.seed}
    return {"header": sender.signed, "slot": slot, "me": who.identity} | secret


def changed(by=OWNER, **changes):
    """The good epoch under a header that says something else, signed all the same."""
    sender = copy.copy(GOOD)
    sender.publisher, sender.header = by, GOOD.header | changes
    sender.sign_header()
    return sender


def slots():
    def yields(name, what, expect="BadSlot", sender=GOOD, **how):
        return case("slot", f"slot-{name}", what, expect, **(({} if "seed" in how else opening(sender)) | how))

    mine, others = GOOD.table[56:112], GOOD.table[112:168]
    yield yields("first-bit", "one bit of the wrapped seed", slot=flip(mine, 8))
    yield yields("last-bit", "one bit of the tag", slot=flip(mine, -1))
    yield yields("tag-zero", "no tag", slot=mine[:40] + bytes(16))
    yield yields("member-swapped", "another index on it", slot=u(2, 32) + mine[4:])
    yield yields("source-swapped", "another prekey's id on it", slot=mine[:4] + u(NOW // 1000 + 1, 32) + mine[8:])
    yield yields(
        "source-static",
        "made for the prekey, said to be for the static key",
        **opening(who=AT_FIRST, slot=mine[:4] + bytes(4) + mine[8:]),
    )
    yield yields("anothers", "another member's slot", slot=others)
    yield yields("anothers-renamed", "another member's ciphertext under one's own index", slot=mine[:4] + others[4:])
    yield yields("identity-swapped", "the same key under another identity", me=OTHER.identity)
    yield yields(
        "static-identity-swapped",
        "the same static key under another identity",
        **opening(who=PLAIN) | {"me": OTHER.identity},
    )
    wrong_key = Party("bad: reader", 1, NOW + 1000).prekeys[-1]
    yield yields("other-prekey", "another prekey's secret", **wrong_key)
    u_of = (1 + torsion()[1]) * pow(1 - torsion()[1], -1, P) % P
    for name, what, enc in [
        ("zero", "no enc", bytes(32)),
        ("order-8", "enc of small order", u_of.to_bytes(32, "little")),
        ("order-4", "enc is 1", u(1, 8) + bytes(31)),
        ("p", "enc is p, another zero", P.to_bytes(32, "little")),
        ("other", "another enc", x25519_public(random("another enc"))),
        (
            "top-bit",
            "X25519 ignores enc's top bit; the context does not",
            GOOD.header["enc"][:31] + bytes([GOOD.header["enc"][31] | 0x80]),
        ),
    ]:
        yield yields(f"enc-{name}", what, sender=changed(enc=enc))
    for field, value in [
        ("topic", random("another topic")),
        ("epoch", NOW + 1),
        ("prev_header_hash", random("another header")),
        ("roster_seq", 1),
        ("roster_hash", random("another entry")),
        ("mode", ADVANCE),
        ("kek_gen", 1),
    ]:
        yield yields(
            f"header-{field.replace('_', '-')}",
            f"spliced under a header with another {field}",
            sender=changed(**{field: value}),
        )
    yield yields(
        "header-publisher",
        "spliced under another publisher's header",
        sender=changed(by=OTHER, publisher=OTHER.identity),
    )
    yield yields(
        "commitment",
        "the header commits to another seed",
        "BadEpochSeed",
        changed(commitment=flip(GOOD.header["commitment"], 0)),
    )
    yield yields(
        "other-seed",
        "this member is given another seed than the others",
        "BadEpochSeed",
        slot=GOOD.slot(READER, random("another seed")),
    )
    yield yields("kek", "said to be under a KEK", "NeedsKek", slot=mine[:4] + u(KEK, 32) + mine[8:])
    yield yields("rewrap", "spliced under a header of another mode", sender=changed(mode=REWRAP))


def advances():
    def yields(name, what, expect, **changes):
        it = Sender(ADMIN, OWNER, NOW + 1000, [], GOOD, ADVANCE)
        it.header |= changes
        it.sign_header()
        return case("advance", f"advance-{name}", what, expect, next=it.signed, **opening())

    yield yields(
        "over-another",
        "it follows a header this member does not hold",
        "NotSuccessor",
        prev_header_hash=random("another header"),
    )
    yield yields("same-number", "the number of the epoch before", "NotSuccessor", epoch=NOW)
    yield yields("fresh", "a fresh epoch is not derived", "NotSuccessor", mode=FRESH)
    yield yields("rewrap", "a rewrap is not derived", "NotSuccessor", mode=REWRAP)
    yield yields("generation", "a generation that is never reached", "NotSuccessor", kek_gen=4097)
    yield yields("commitment", "it commits to another seed", "BadEpochSeed", commitment=random("another commitment"))
    yield yields("roster", "derived for another roster", "BadEpochSeed", roster_hash=random("another entry"))
    yield yields("enc", "derived under another enc", "BadEpochSeed", enc=x25519_public(random("another enc")))


def rewraps():
    good = Sender(ADMIN, OWNER, NOW + 1000, [OWNER, READER, OTHER, PLAIN], GOOD, REWRAP)
    mine, others = good.table[56:112], good.table[112:168]

    def yields(name, what, expect, slot=mine, **changes):
        it = copy.copy(good)
        it.header = good.header | changes
        it.sign_header()
        return case("rewrap", f"rewrap-{name}", what, expect, next=it.signed, next_slot=slot, **opening())

    yield yields("first-bit", "one bit of the wrapped seed", "BadSlot", flip(mine, 8))
    yield yields("last-bit", "one bit of the tag", "BadSlot", flip(mine, -1))
    yield yields("anothers", "another member's slot", "BadSlot", others)
    yield yields("anothers-renamed", "another's ciphertext under one's own index", "BadSlot", mine[:8] + others[8:])
    yield yields("dh", "said to be a DH slot", "NotSuccessor", mine[:4] + u(READER.source, 32) + mine[8:])
    yield yields("over-another", "it follows another header", "NotSuccessor", prev_header_hash=random("another header"))
    yield yields("same-number", "the number of the epoch before", "NotSuccessor", epoch=NOW)
    yield yields("fresh", "a KEK slot in a fresh epoch", "NotSuccessor", mode=FRESH)
    yield yields("advance", "a KEK slot in an advance", "NotSuccessor", mode=ADVANCE)
    yield yields("generation", "another generation than it was wrapped under", "BadSlot", kek_gen=1)
    yield yields("far-generation", "a generation that is never reached", "NotSuccessor", kek_gen=4097)
    yield yields("roster", "spliced under a header with another roster", "BadSlot", roster_seq=7)
    yield yields("enc", "spliced under a header with an enc", "BadSlot", enc=x25519_public(random("another enc")))
    yield yields("commitment", "it commits to another seed", "BadEpochSeed", commitment=random("another commitment"))


def beacons():
    good = {
        "header_hash": GOOD.header_hash,
        "next_batch_no": 0,
        "last_batch_hash": GOOD.header_hash,
        "roster_seq": 0,
        "roster_hash": ADMIN.topic,
        "time_ms": NOW,
    }

    def yields(name, what, expect="Signature: a beacon", seed=GOOD.epoch_seed, label=None, **changes):
        return case(
            "beacon", f"beacon-{name}", what, expect, beacon=signed("beacon", good | changes, seed, label), **opening()
        )

    yield yields("member", "signed by a member", seed=READER.seed)
    yield yields("identity", "signed by the publisher's identity", seed=OWNER.seed)
    yield yields("label-batch", "signed as a batch", label=b"batch")
    yield yields("short-hash", "31 bytes", "Malformed: a beacon: a field is not 32 bytes", last_batch_hash=bytes(31))
    body, signature = signed("beacon", good, GOOD.epoch_seed)
    batch_signature = GOOD.record(GOOD.body(SEQ, 1), frame([b"good"]))[0]
    at = 3 + int.from_bytes(batch_signature[1:3], "big")
    yield case(
        "beacon",
        "beacon-batch-signature",
        "a batch's signature under it",
        "Signature: a beacon",
        beacon=(body, batch_signature[at : at + 64]),
        **opening(),
    )
    yield case(
        "beacon",
        "beacon-bit",
        "one bit of its last field",
        "Signature: a beacon",
        beacon=(flip(body, -1), signature),
        **opening(),
    )

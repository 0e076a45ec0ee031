"""Cases of negative.json: bodies, tables, records and messages that are not what they should be."""

from bad_keys import OWNER, READER, case, prekey, torsion
from objects import encode, signed
from primitives import H, compress, proto
from writer import NOW, Admin, Sender, random, record_bytes


def cases():
    yield from genesis()
    yield from prekeys()
    yield from headers()
    yield from lengths()
    yield from the_rest()


def genesis():
    def yields(name, what, expect, it, signer=OWNER, topic=None):
        it = signed("genesis", it, signer.seed)
        return case("genesis", f"genesis-{name}", what, expect, topic=topic or H(b"topic", it[0]), signed=it)

    good, bad = {
        "suite": 1,
        "name": "n",
        "owner": OWNER.identity,
        "nonce": random("n"),
    }, "Malformed: a topic's genesis: "
    yield yields(
        "other-topic",
        "not the one whose hash was asked for",
        bad + "its hash is not the topic id",
        good,
        topic=random("another topic"),
    )
    yield yields(
        "other-signer", "signed by another than the owner it names", "Signature: a topic's genesis", good, READER
    )
    yield yields(
        "suite-2",
        "a suite this version does not know",
        bad + "an unknown suite; a newer version of sealcast may know it",
        good | {"suite": 2},
    )
    yield yields(
        "suite-0", "no suite", bad + "an unknown suite; a newer version of sealcast may know it", good | {"suite": 0}
    )
    yield yields("long-name", "129 bytes", bad + "the name is too long", good | {"name": "n" * 129})
    yield yields(
        "weak-owner", "anyone could sign for it", bad + "it names an invalid key", good | {"owner": compress(torsion())}
    )
    yield yields("short-nonce", "31 bytes", bad + "a field is not 32 bytes", good | {"nonce": bytes(31)})
    yield yields("cut", "cut in its last field", bad + "not protobuf", encode("genesis", good)[:-1])


def prekeys():
    def yields(name, what, expect, now_ms=NOW, **changes):
        return case(
            "prekey",
            f"prekey-{name}",
            what,
            expect,
            signed=signed("prekey", prekey(**changes), READER.seed),
            now_ms=now_ms,
        )

    bad = "Malformed: a prekey: "
    yield yields(
        "id-other-second",
        "the id is not its first second",
        bad + "its id is not its first second",
        prekey_id=NOW // 1000 + 1,
    )
    yield yields(
        "id-kek",
        "the id that means the KEK",
        bad + "its id is not its first second",
        prekey_id=0xFFFFFFFF,
        not_before_ms=0xFFFFFFFF * 1000,
        not_after_ms=2**63,
    )
    yield yields(
        "id-zero",
        "the id that means the static key",
        bad + "its id is not its first second",
        prekey_id=0,
        not_before_ms=0,
    )
    yield yields("backwards", "it ends before it begins", bad + "it ends before it begins", not_after_ms=NOW)
    yield yields("short-key", "31 bytes", bad + "a field is not 32 bytes", x25519=READER.public[:31])
    yield yields("expired", "its last millisecond is over", "NotValid", now_ms=NOW + 1_000_000)
    yield yields("far-ahead", "it begins more than a day from now", "NotValid", now_ms=NOW - 86_400_001)


def headers():
    admin = Admin("bad headers", OWNER)

    def yields(name, what, expect, signer=OWNER, publisher=OWNER, label=None, **changes):
        header = Sender(admin, OWNER, NOW, [OWNER]).header | changes
        return case(
            "header",
            f"header-{name}",
            what,
            expect,
            signed=signed("header", header, signer.seed, label),
            publisher=publisher.identity,
        )

    bad, bad_signature = "Malformed: an epoch header: ", "Signature: an epoch header"
    yield yields("other-signer", "signed by a reader", bad_signature, signer=READER)
    yield yields("other-publisher", "it names another publisher than its signer", bad_signature, publisher=READER)
    yield yields("label-prekey", "signed as a prekey", bad_signature, label=b"prekey")
    yield yields("mode-0", "no mode", bad + "an unknown mode", mode=0)
    yield yields("mode-4", "a mode of the future", bad + "an unknown mode", mode=4)
    yield yields("too-many-slots", "one more than a table may have", bad + "too many slots", slot_count=4_000_001)
    yield yields(
        "weak-epoch-key", "anyone could sign its batches", bad + "it names an invalid key", epoch_vk=compress(torsion())
    )
    yield yields("short-commitment", "31 bytes", bad + "a field is not 32 bytes", commitment=bytes(31))
    yield yields("no-commitment", "left out", bad + "a field is not 32 bytes", commitment=b"")
    yield yields(
        "short-close",
        "a hash of 31 bytes inside prev_close",
        bad + "a field is not 32 bytes",
        prev_close={"batches": 1, "last_batch_hash": bytes(31)},
    )


def lengths():
    admin, bad = Admin("bad lengths", OWNER), "Malformed: an epoch header: "
    body, signature = Sender(admin, OWNER, NOW, [OWNER]).signed
    long = signed("header", body + proto((99, bytes(1025))), OWNER.seed)
    for name, what, expect, it in [
        ("signature-63", "a signature one byte short", "a signature is 64 bytes", (body, signature[:-1])),
        ("signature-65", "a signature one byte long", "a signature is 64 bytes", (body, signature + b"\0")),
        ("signature-none", "no signature", "a signature is 64 bytes", (body, b"")),
        ("body-long", "a body of more than 1,024 bytes", "too long", long),
    ]:
        yield case("header", f"length-{name}", what, bad + expect, signed=it, publisher=OWNER.identity)


def the_rest():
    sender = Sender(Admin("bad tables", OWNER), OWNER, NOW, [OWNER, READER])
    one, two = sender.table[:56], sender.table[56:]
    for name, what, expect, table in [
        ("falling", "members do not rise", "Order", two + one),
        ("twice", "one member twice", "Order", one + one),
        ("cut", "one slot short", "Length", one),
        ("long", "one slot more", "Length", one + two + one),
        ("changed", "one bit of a slot", "Hash", one + two[:-1] + bytes([two[-1] ^ 1])),
    ]:
        slots_hash = H(b"slots", table) if expect == "Order" else sender.header["slots_hash"]
        yield case("table", f"table-{name}", what, expect, table=table, slot_count=2, slots_hash=slots_hash)
    body, signature = sender.signed
    for name, what, expect, record in [
        ("kind-0", "no kind", "Kind: 0", record_bytes(0, body, signature)),
        ("kind-4", "a kind of the future", "Kind: 4", record_bytes(4, body, signature)),
        ("cut", "one byte short of its signature", "Length: too short", record_bytes(2, body, signature)[:-1]),
        ("empty", "no byte", "Length: too short", b""),
        (
            "header-long",
            "a byte after a header's signature",
            "Length: longer than its parts",
            record_bytes(2, body, signature, b"\0"),
        ),
        ("batch-long-body", "257 bytes", "Length: longer than a batch may be", record_bytes(3, bytes(257), signature)),
    ]:
        yield case("record", f"record-{name}", what, expect, record=record)
    for name, what, expect, message in [
        ("not-protobuf", "a varint without an end", "Malformed", b"\x20" + b"\xff" * 10),
        ("cut", "a length beyond the end", "Malformed", b"\x0a\x05abcd"),
        ("not-utf-8", "a content type that is no text", "Malformed", b"\x1a\x01\xff"),
        ("wire-type", "the payload as a number", "Malformed", b"\x08\x01"),
        ("tag-0", "a field without a number", "Malformed", b"\x02\x00"),
        ("headers", "one byte over 16 KiB", "Headers: 16385", encode("message", {"headers": {"n": "v" * 16384}})),
        ("content-type", "257 bytes", "ContentType: 257", encode("message", {"content_type": "t" * 257})),
    ]:
        yield case("message", f"message-{name}", what, expect, message=message)

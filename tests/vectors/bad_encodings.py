"""Cases of negative.json that are not refused: what was signed is never re-encoded, so an encoding that no one of ours
would make, but protobuf allows, is read, hashed and verified as it came. And a few that protobuf does not allow."""

from bad_batches import SEQ, batch
from bad_epochs import GOOD, opening
from bad_keys import OWNER, READER, case, prekey
from bad_roster import ADD, TOPIC
from objects import encode, signed
from primitives import H, read_proto, varint
from writer import NOW, frame, random


def write(fields, width=0):
    """`(tag, value)` pairs as they stand, zeros and all; numbers in at least `width` bytes."""
    out = b""
    for tag, value in fields:
        number = isinstance(value, int)
        wire, data = (0, varint(value)) if number else (2, varint(len(value)))
        if len(data) < width:
            data = bytes(byte | 0x80 for byte in data) + b"\x80" * (width - len(data) - 1) + b"\0"
        out += varint(tag << 3 | wire) + data + (b"" if number else value)
    return out


def odd(body):
    """One body in other encodings: {name: (what, body)}."""
    fields = read_proto(body)
    return {
        "reversed": ("its fields in reverse order", write(fields[::-1])),
        "unknown": ("with fields of the future", write([(99, b"?"), *fields, (98, 7)])),
        "long-varints": ("its numbers and lengths in ten bytes", write(fields, 10)),
        "twice": (
            "each field twice, the second counts",
            write([(tag, type(value)()) for tag, value in fields] + fields),
        ),
    }


def cases():
    for name, (what, body) in odd(encode("prekey", prekey())).items():
        yield case("prekey", f"odd-prekey-{name}", what, "ok", signed=signed("prekey", body, READER.seed), now_ms=NOW)
        yield case(
            "prekey",
            f"odd-prekey-{name}-reencoded",
            f"{what}; signed in the usual encoding",
            "Signature: a prekey",
            signed=(body, signed("prekey", prekey(), READER.seed)[1]),
            now_ms=NOW,
        )
    genesis = {"suite": 1, "name": "odd", "owner": OWNER.identity, "nonce": random("odd")}
    for name, (what, body) in odd(encode("genesis", genesis)).items():
        it = signed("genesis", body, OWNER.seed)
        yield case("genesis", f"odd-genesis-{name}", what, "ok", topic=H(b"topic", body), signed=it)
    it, beside = TOPIC.draft([ADD], OWNER)
    for name, (what, body) in odd(encode("entry", it)).items():
        entry = signed("entry", body, OWNER.seed)
        yield case("roster", f"odd-entry-{name}", what, {"chain": "ok", "roster": "ok"}, entry=entry, **beside)
    for name, (what, body) in odd(encode("header", GOOD.header)).items():
        header = signed("header", body, OWNER.seed)
        yield case("slot", f"odd-header-{name}", what, "ok", **(opening() | {"header": header}))
    for name, (what, body) in odd(encode("batch", GOOD.body(SEQ, 1))).items():
        record = GOOD.record(body, frame([b"odd"]))[0]
        yield batch(f"odd-{name}", what, "ok", record, steps=1)
    message = {"payload": b"odd", "headers": {"a": "1", "b": "2"}, "content_type": "t", "time_ms": 1}
    for name, (what, body) in odd(encode("message", message)).items():
        if name != "twice":
            yield case("message", f"odd-message-{name}", what, "ok", message=body)
    bad = "Malformed: a prekey: not protobuf"
    body = encode("prekey", prekey())
    for name, what, wrong in [
        ("group", "a group that does not end", b"\x9b\x06" + body),
        ("wire-6", "a wire type that does not exist", body + b"\x9e\x06"),
        ("varint-11", "a number of eleven bytes", body + b"\x98\x06" + b"\x80" * 10 + b"\0"),
        ("length-beyond", "a field longer than the body", body + b"\x9a\x06\x7f"),
        ("wire-type", "its owner as a number", body + b"\x08\x01"),
    ]:
        it = signed("prekey", wrong, READER.seed)
        yield case("prekey", f"encoding-{name}", what, bad, signed=it, now_ms=NOW)

"""Cases of negative.json: batches. Each names a good one, `then`, that must open after the bad one was refused."""

import copy

from bad_epochs import GOOD, changed, flip, opening
from bad_keys import OWNER, READER, case
from objects import encode
from primitives import L, Derive, lp, padme, u
from writer import NOW, frame, random

SEQ = 5


def cases():
    yield from sealed()
    yield from signatures()
    yield from bodies()


def batch(name, what, expect, record, number=0, steps=None):
    """`record` at `number`; then a good one must open: at the next number if the refused one was spent (`steps`)."""
    it, before = copy.copy(GOOD), []
    steps = expect == "BadBatch" if steps is None else steps
    for n in range(number + steps):
        body = encode("batch", it.body(SEQ, 1))
        if n < number:
            before.append(it.record(body, frame([b"before"]))[0])
        it.batch_key, it.batch_no = Derive(it.batch_key, b"next", b""), it.batch_no + 1
    then = it.record(it.body(SEQ, 1), frame([b"then"]))[0]
    return case("batch", f"batch-{name}", what, expect, before=before, record=record, then=then, **opening())


def sealed():
    """Signed by the publisher, but not what a batch holds: BadBatch, and the number is spent."""

    def yields(name, what, plaintext, count=1, **how):
        return batch(name, what, "BadBatch", GOOD.record(GOOD.body(SEQ, count), plaintext, **how)[0])

    def padded(framed, n=None):
        data = u(len(framed) if n is None else n, 32) + framed
        return data + bytes(padme(len(data)) - len(data))

    message = lp(b"m" * 121)
    good = padded(message)
    assert len(good) > 4 + len(message), "there is padding to spoil"
    yield yields("padding-longer", "more padding than Padmé gives", good + bytes(4))
    yield yields(
        "padding-next", "padded to the next length Padmé gives", good + bytes(padme(len(good) + 1) - len(good))
    )
    yield yields("padding-missing", "no padding", good[: 4 + len(message)])
    yield yields("padding-nonzero", "the last byte of the padding", good[:-1] + b"\1")
    yield yields(
        "padding-hides", "the first byte of the padding", good[: 4 + len(message)] + b"\1" + good[5 + len(message) :]
    )
    yield yields("n-beyond", "n goes beyond the plaintext", padded(message, 4096))
    yield yields("n-largest", "n is 2^32 - 1", padded(message, 2**32 - 1))
    yield yields("n-short", "n cuts the message: what is left is no padding", padded(message, len(message) - 1))
    yield yields("empty-plaintext", "no n", b"")
    yield yields("three-bytes", "less than n takes", bytes(3))
    yield yields("count-higher", "a message fewer than the body says", good, count=2)
    yield yields("count-lower", "a message more than the body says", padded(message + lp(b"hidden")))
    yield yields("count-largest", "65,536 messages in a hundred bytes", good, count=65_536)
    yield yields("message-beyond", "a message longer than what is left", padded(u(122, 32) + b"m" * 121))
    yield yields("message-largest", "a message of 2^32 - 1 bytes", padded(b"\xff" * 4 + b"m" * 121))
    yield yields("length-cut", "three bytes of a length", padded(message + bytes(3)), count=2)
    yield yields("next-key", "sealed under the next batch's key", good, key=Derive(GOOD.batch_key, b"next", b""))
    yield yields("advance-key", "sealed under the advance secret", good, key=GOOD.advance_secret)
    yield yields(
        "aad-other-header", "sealed for another header, signed for this one", good, header_hash=random("another header")
    )
    yield yields("nonce", "another nonce than zero", good, nonce=bytes(11) + b"\1")
    body, ct = encode("batch", GOOD.body(SEQ, 1)), GOOD.record(GOOD.body(SEQ, 1), good)[0][-len(good) - 16 :]
    for name, what, wrong in [
        ("ct-bit", "one bit of the ciphertext, signed so", flip(ct, 0)),
        ("tag-bit", "one bit of the tag, signed so", flip(ct, -1)),
        ("tag-short", "15 bytes", ct[:15]),
        ("ct-none", "no ciphertext", b""),
    ]:
        yield batch(name, what, "BadBatch", GOOD.sign_record(body, wrong)[0])
    other = encode("batch", GOOD.body(SEQ + 1, 1))
    yield batch(
        "aad-other-body", "a ciphertext under another body, signed so", "BadBatch", GOOD.sign_record(other, ct)[0]
    )


def signatures():
    """Anyone could have made these: nothing changes, and the good batch of that number opens."""

    def yields(name, what, record):
        return batch(f"signature-{name}", what, "Signature: a batch", record)

    body, plaintext = encode("batch", GOOD.body(SEQ, 1)), frame([b"good"])
    record = GOOD.record(body, plaintext)[0]
    end = 3 + len(body)
    s = int.from_bytes(record[end + 32 : end + 64], "little") + L
    yield yields("s-plus-l", "S + L", record[: end + 32] + s.to_bytes(32, "little") + record[end + 64 :])
    yield yields("body-bit", "one bit of the body's last hash", flip(record, end - 1))
    yield yields("ct-bit", "one bit of the ciphertext", flip(record, -1))
    yield yields("ct-cut", "the ciphertext one byte short", record[:-1])
    yield yields(
        "member",
        "a member that holds the keys seals and signs as itself",
        GOOD.record(body, plaintext, seed=READER.seed)[0],
    )
    yield yields(
        "identity",
        "signed by the publisher's identity, not by the epoch's key",
        GOOD.record(body, plaintext, seed=OWNER.seed)[0],
    )
    yield yields("label-beacon", "signed as a beacon", GOOD.record(body, plaintext, label=b"beacon")[0])
    yield yields("label-header", "signed as an epoch header", GOOD.record(body, plaintext, label=b"epoch header")[0])
    other = changed(epoch=NOW + 1)
    yield yields("other-header", "a batch of another epoch under the same key", other.record(body, plaintext)[0])


def bodies():
    def yields(name, what, expect, count=1, number=0, **changes):
        body = GOOD.body(SEQ, count) | changes
        return batch(name, what, expect, GOOD.record(body, frame([b"good"]))[0], number)

    bad = "Malformed: a batch: "
    yield yields(
        "epoch-other", "it names another epoch", "WrongEpoch: 1750000000001 where 1750000000000 is", epoch=NOW + 1
    )
    yield yields("early", "number 1 where 0 is due", "OutOfOrder: 1 where 0 is due", batch_no=1)
    yield yields("replayed", "number 0 again", "OutOfOrder: 0 where 2 is due", number=2)
    yield yields("flag-2", "a flag of the future", bad + "an unknown flag", flags=2)
    yield yields("empty", "no message, and not an END", bad + "a wrong number of messages", count=0)
    yield yields("count", "65,537 messages", bad + "a wrong number of messages", count=65_537)
    yield yields("number", "number 65,536", bad + "a number out of range", batch_no=65_536)
    yield yields("seq", "the messages' numbers exceed 64 bits", bad + "a number out of range", first_seq=2**64 - 1)
    yield yields("short-hash", "31 bytes", bad + "a hash is 32 bytes", prev_batch_hash=bytes(31))
    yield batch(
        "not-protobuf", "a body that is no body", bad + "not protobuf", GOOD.record(b"\xff", frame([b"good"]))[0]
    )

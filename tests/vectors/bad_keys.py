"""Cases of negative.json: keys and signatures. And what all cases share."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from objects import encode, signed
from primitives import (
    L,
    NEUTRAL,
    P,
    add,
    compress,
    decompress,
    multiply,
    sha,
    signing_input,
    small_order,
    u,
)
from writer import NOW, Party, random

OWNER = Party("bad: owner", 0)
READER = Party("bad: reader", 1, NOW)
BASE = decompress(bytes([0x58]) + bytes([0x66]) * 31)


def case(kind, name, what, expect, **material):
    return {"name": name, "what": what, "kind": kind, "expect": expect} | material


def torsion():
    """A point of order 8."""
    for n in range(100):
        point = decompress(sha(u(n, 32)))
        if point and multiply(4, point := multiply(L, point)) != NEUTRAL:
            return point
    raise AssertionError


def cases():
    yield from keys()
    yield from signatures()


def keys():
    eight = torsion()
    off_curve = next(u(n, 8) + bytes(31) for n in range(2, 256) if decompress(u(n, 8) + bytes(31)) is None)
    twice = next(y for y in range(19) if (point := decompress(y.to_bytes(32, "little"))) and not small_order(point))
    neutral = compress(NEUTRAL)
    weak = [
        ("neutral", neutral),
        ("order-2", compress(multiply(4, eight))),
        ("order-4", compress(multiply(2, eight))),
        ("order-8", compress(eight)),
        ("neutral-beyond-p", (P + 1).to_bytes(32, "little")),
        ("neutral-minus-zero", neutral[:31] + b"\x80"),
    ]
    for name, data in weak:
        yield case("key", f"key-{name}", "a key of small order, canonical or not", "Weak", key=data)
    yield case(
        "key",
        "key-beyond-p",
        "a second encoding of a key of large order",
        "Point",
        key=(P + twice).to_bytes(32, "little"),
    )
    yield case("key", "key-off-curve", "not a point of the curve", "Point", key=off_curve)
    yield case("key", "key-short", "31 bytes", "Point", key=OWNER.identity[:31])
    u_of = (1 + eight[1]) * pow(1 - eight[1], -1, P) % P
    for name, value in [
        ("zero", 0),
        ("one", 1),
        ("order-8", u_of),
        ("minus-one", P - 1),
        ("p", P),
        ("p-plus-one", P + 1),
    ]:
        yield case(
            "target",
            f"wrap-to-{name}",
            "a prekey of small order: its owner gets no slot, the epoch goes on",
            "Skipped",
            identity=READER.identity,
            x25519=value.to_bytes(32, "little"),
        )


def prekey(**changes):
    return {
        "owner": READER.identity,
        "prekey_id": NOW // 1000,
        "x25519": READER.public,
        "not_before_ms": NOW,
        "not_after_ms": NOW + 1_000_000,
    } | changes


def hand_signed(body, key, a, r, point):
    """(body, R || S) for R = rB + point, under `key` of secret scalar a, and the hash scalar k."""
    R = compress(add(multiply(r, BASE), point))
    k = int.from_bytes(hashlib.sha512(R + key + signing_input(b"prekey", body)).digest(), "little") % L
    return (body, R + ((r + k * a) % L).to_bytes(32, "little")), k


def raw_sign(seed, body):
    return Ed25519PrivateKey.from_private_bytes(seed).sign(body)


def signatures():
    def yields(name, what, it):
        return case("prekey", f"signature-{name}", what, "Signature: a prekey", signed=it, now_ms=NOW)

    body, signature = signed("prekey", prekey(), READER.seed)
    s = int.from_bytes(signature[32:], "little")
    yield yields(
        "s-plus-l",
        "S and S + L: a second signature anyone could make",
        (body, signature[:32] + (s + L).to_bytes(32, "little")),
    )
    yield yields("s-all-ones", "S far above L", (body, signature[:32] + b"\xff" * 32))
    yield yields("zero", "64 zero bytes", (body, bytes(64)))
    yield yields("r-flipped", "one bit of R", (body, bytes([signature[0] ^ 1]) + signature[1:]))
    yield yields("s-flipped", "one bit of S", (body, signature[:32] + bytes([signature[32] ^ 1]) + signature[33:]))
    yield yields(
        "body-flipped",
        "one bit of the key that was signed",
        (encode("prekey", prekey(x25519=bytes([READER.public[0] ^ 1]) + READER.public[1:])), signature),
    )
    yield yields("other-signer", "another identity's signature", signed("prekey", prekey(), OWNER.seed))
    yield yields("no-label", "the body signed without a label", (body, raw_sign(READER.seed, body)))
    for label in ("genesis", "roster entry", "roster head", "epoch header", "batch", "beacon"):
        yield yields(
            f"label-{label.replace(' ', '-')}",
            f"signed as {label!r}",
            signed("prekey", prekey(), READER.seed, label.encode()),
        )
    digest = hashlib.sha512(READER.seed).digest()
    a = (int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254) % L
    it, _ = hand_signed(body, READER.identity, a, 0, NEUTRAL)
    yield yields("r-small-order", "R is the neutral element: the equation holds, strict verification refuses", it)
    r = int.from_bytes(random("bad: r"), "little") % L
    assert hand_signed(body, READER.identity, a, r, NEUTRAL)[0] != it
    yield yields(
        "r-torsion",
        "R with a part of order 8: verification with cofactor would accept",
        hand_signed(body, READER.identity, a, r, torsion())[0],
    )
    related = compress(add(decompress(READER.identity), torsion()))
    body = encode("prekey", prekey(owner=related))
    it = next(it for n in range(99) for it, k in [hand_signed(body, related, a, r + n, NEUTRAL)] if k % 8)
    yield yields(
        "related-key", "under A + T, T of order 8: a key related to another's; with cofactor it would hold", it
    )

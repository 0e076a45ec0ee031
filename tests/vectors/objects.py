"""Signed objects of docs/protocol.md section 4, and messages: their fields, how they are written, read and verified.

A signed object is a pair (body, signature) of bytes; a parsed one is a dict. Failures are raised as `Refused`.
"""

from primitives import H, Refused, Sub, proto, public_key, read_proto, sign, verify

FRESH, ADVANCE, REWRAP = 1, 2, 3

# kind: (label, fields in the order of their tags, as in proto/schema/sealcast.proto). A field ends in its type.
OBJECTS = {
    "genesis": (b"genesis", ["suite u32", "name str", "owner key", "nonce 32"]),
    "entry": (
        b"roster entry",
        [
            "topic 32",
            "seq u64",
            "prev_hash 32",
            "signer key",
            "ops_hash 32",
            "roles_hash 32",
            "policy_hash 32",
            "last_removal_seq u64",
            "next_member u32",
            "time_ms u64",
        ],
    ),
    "head": (b"roster head", ["topic 32", "seq u64", "hash 32", "signer key", "time_ms u64"]),
    "prekey": (b"prekey", ["owner key", "prekey_id u32", "x25519 32", "not_before_ms u64", "not_after_ms u64"]),
    "header": (
        b"epoch header",
        [
            "topic 32",
            "publisher key",
            "epoch u64",
            "prev_header_hash 32",
            "prev_close close",
            "roster_seq u64",
            "roster_hash 32",
            "mode u32",
            "kek_gen u32",
            "enc 32",
            "commitment 32",
            "epoch_vk key",
            "slot_count u32",
            "slots_hash 32",
            "time_ms u64",
        ],
    ),
    "close": (None, ["batches u64", "last_batch_hash 32"]),
    "batch": (
        b"batch",
        ["epoch u64", "batch_no u64", "first_seq u64", "count u32", "time_ms u64", "flags u32", "prev_batch_hash 32"],
    ),
    "beacon": (
        b"beacon",
        [
            "header_hash 32",
            "next_batch_no u64",
            "last_batch_hash 32",
            "roster_seq u64",
            "roster_hash 32",
            "time_ms u64",
        ],
    ),
    "policy": (
        None,
        [
            "durability u32",
            "retain_ms u64",
            "retain_bytes u64",
            "max_epoch_age_ms u64",
            "max_fresh_age_ms u64",
            "max_epoch_batches u32",
            "beacon_ms u32",
            "prekey_rotation_ms u64",
            "max_offline_ms u64",
            "max_roster_age_ms u64",
        ],
    ),
    "message": (None, ["payload bytes", "headers map", "content_type str", "time_ms u64"]),
    "pair": (None, ["name str", "value str"]),
}


def malformed(condition, what):
    if condition:
        raise Refused("Malformed", what)


def parse(kind, body):
    """A body as a dict, every field checked. Says nothing about signatures."""
    names = [field.split(" ") for field in OBJECTS[kind][1]]
    out = {name: {"u32": 0, "u64": 0, "str": "", "map": {}, "close": None}.get(type_, b"") for name, type_ in names}
    for tag, value in read_proto(body):
        if tag > len(names):
            continue
        name, type_ = names[tag - 1]
        malformed(isinstance(value, int) != (type_ in ("u32", "u64")), "wire type")
        if type_ == "u32":
            value &= 2**32 - 1
        elif type_ == "str":
            value = text(value)
        elif type_ == "close":
            # Twice: merged, which is to read both as one.
            value = (out[name] or b"") + value
        elif type_ == "map":
            pair = parse("pair", value)
            value = out[name] | {pair["name"]: pair["value"]}
        out[name] = value
    for name, type_ in names:
        malformed(type_ in ("32", "key") and len(out[name]) != 32, "a field is not 32 bytes")
        if type_ == "close" and out[name] is not None:
            out[name] = parse("close", out[name])
        if type_ == "key":
            try:
                public_key(out[name])
            except Refused:
                raise Refused("Malformed", "it names an invalid key") from None
    CHECKS.get(kind, lambda _: None)(out)
    return out


def text(value):
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Refused("Malformed", "not UTF-8") from None


def check_genesis(it):
    malformed(it["suite"] != 1, "an unknown suite")
    malformed(len(it["name"].encode()) > 128, "the name is too long")


def check_prekey(it):
    malformed(not 1 <= it["prekey_id"] <= 0xFFFFFFFE or it["not_before_ms"] // 1000 != it["prekey_id"], "id")
    malformed(it["not_after_ms"] <= it["not_before_ms"], "it ends before it begins")


def check_header(it):
    malformed(it["slot_count"] > 4_000_000, "too many slots")
    malformed(it["mode"] not in (FRESH, ADVANCE, REWRAP), "an unknown mode")


def check_batch(it):
    malformed(it["flags"] & ~1, "an unknown flag")
    malformed(it["count"] > 65_536 or (it["count"] == 0 and not it["flags"]), "a wrong number of messages")
    malformed(it["first_seq"] + it["count"] >= 2**64 or it["batch_no"] >= 65_536, "a number out of range")


def check_message(it):
    if sum(len(name.encode()) + len(value.encode()) for name, value in it["headers"].items()) > 16 << 10:
        raise Refused("Headers")
    if len(it["content_type"].encode()) > 256:
        raise Refused("ContentType")


CHECKS = {
    "genesis": check_genesis,
    "prekey": check_prekey,
    "header": check_header,
    "batch": check_batch,
    "message": check_message,
}


def check_signed(kind, signed, key):
    """Verifies the carried bytes, then parses them."""
    malformed(len(signed[0]) > 1024, "too long")
    malformed(len(signed[1]) != 64, "a signature is 64 bytes")
    if not verify(key, OBJECTS[kind][0], *signed):
        raise Refused("Signature", kind)
    return parse(kind, signed[0])


def check_genesis_of(topic, signed):
    malformed(H(b"topic", signed[0]) != topic, "its hash is not the topic id")
    return check_signed("genesis", signed, parse("genesis", signed[0])["owner"])


def check_prekey_of(signed, now_ms):
    prekey = check_signed("prekey", signed, parse("prekey", signed[0])["owner"])
    if not (prekey["not_before_ms"] <= now_ms + 24 * 3600 * 1000 and now_ms < prekey["not_after_ms"]):
        raise Refused("NotValid")
    return prekey


# ---- writing ---------------------------------------------------------------------------------------


def encode(kind, it):
    values = []
    for tag, field in enumerate(OBJECTS[kind][1], 1):
        name, type_ = field.split(" ")
        value = it.get(name)
        if type_ == "map":
            pairs = sorted((value or {}).items())
            values += [(tag, Sub(proto((1, name), (2, value)))) for name, value in pairs]
        elif type_ == "close" and value is not None:
            values.append((tag, Sub(encode("close", value))))
        else:
            values.append((tag, value))
    return proto(*values)


def signed(kind, it, seed, label=None):
    """(body, signature). `it` may be a body already."""
    body = it if isinstance(it, bytes) else encode(kind, it)
    return (body, sign(seed, label or OBJECTS[kind][0], body))

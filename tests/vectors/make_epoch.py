#!/usr/bin/env python3
"""Makes epoch.json: one publisher's epoch after epoch, from docs/protocol.md sections 2, 5, 6, 7 and nothing of the
Rust code, with every value inside, for envelope's unit tests. Every random value is a hash of its name, so the file is
always the same.

    python3 make_epoch.py > epoch.json
"""
import json
import sys

from primitives import (Derive, Extract, H, ed25519_public, hpke_export, lp, padme, seal, sha, static_wrap_key,
                        static_wrap_secret, u, x25519, x25519_public)


def random(name):
    return sha(b"sealcast test vector: " + name.encode())


def member(name, index, prekey_id):
    seed = random(name)
    identity = ed25519_public(seed)
    if prekey_id:
        secret = random(name + " prekey")
        public = x25519_public(secret)
    else:
        secret = static_wrap_secret(seed)
        public = static_wrap_key(identity)
        assert public == x25519_public(secret)
    return {"seed": seed, "identity": identity, "member": index, "source": prekey_id, "secret": secret, "public": public}


def slot(m, who, enc_secret, ctx):
    context = lp(b"slot") + who["identity"] + u(who["source"], 32)
    dh = x25519(enc_secret, who["public"])
    kw = hpke_export(dh, x25519_public(enc_secret), who["public"], ctx, context, 64)[:32]
    head = u(who["member"], 32) + u(who["source"], 32)
    return head + seal(kw, m, ctx + head)


def batch(bk, messages, header_hash, body):
    framed = b"".join(lp(message) for message in messages)
    plaintext = u(len(framed), 32) + framed
    plaintext += bytes(padme(len(plaintext)) - len(plaintext))
    aad = H(b"batch", header_hash, body)
    ct = seal(Derive(bk, b"key", b""), plaintext, aad)
    return {"messages": messages, "header_hash": header_hash, "body": body, "aad": aad, "ct": ct,
            "hash": H(b"sealed", aad, sha(ct))}


def epoch(name, mode, number, prev, roster_seq, m, members):
    publisher, topic = member("publisher", 0, 0)["identity"], random("topic")
    roster_hash, enc_secret = random("roster %d" % roster_seq), random(name + " enc")
    enc = x25519_public(enc_secret) if members else bytes(32)
    ctx = H(b"epoch", u(1, 16), topic, publisher, u(number, 64), prev, u(roster_seq, 64), roster_hash,
            u(mode, 8), u(0, 32), enc)
    m = m(ctx)
    prk = Extract(b"epoch seed", m)
    bk0, advance = Derive(prk, b"batch 0", ctx), Derive(prk, b"advance", ctx)
    bk1 = Derive(bk0, b"next", b"")
    header_hash = random(name + " header")
    table = b"".join(slot(m, who, enc_secret, ctx) for who in members)
    return {
        "mode": mode, "epoch": number, "topic": topic, "publisher": publisher, "prev_header_hash": prev,
        "roster_seq": roster_seq, "roster_hash": roster_hash, "enc_secret": enc_secret, "enc": enc, "ctx": ctx,
        "seed": m, "commitment": Derive(prk, b"commit", ctx), "batch_key_0": bk0, "batch_key_1": bk1,
        "advance_secret": advance, "members": members, "table": table, "slots_hash": H(b"slots", table),
        "batches": [
            batch(bk0, [b"first", b"", bytes(range(256)) * 3], header_hash, b"body of batch 0"),
            batch(bk1, [], header_hash, b"body of batch 1"),
        ],
    }


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


first = epoch("fresh", 1, 1_700_000_000_000, bytes(32), 7, lambda _: random("seed"),
              [member("publisher", 0, 0), member("reader", 3, 1_699_999_999)])
second = epoch("advance", 2, 1_700_000_000_001, random("fresh header"), 8,
               lambda ctx: Derive(first["advance_secret"], b"seed", ctx), [member("newcomer", 4, 0)])
third = epoch("alone", 2, 1_700_000_000_002, random("advance header"), 9,
              lambda ctx: Derive(second["advance_secret"], b"seed", ctx), [])
json.dump({"source": "make_epoch.py, independent of the Rust code", "epochs": plain([first, second, third])},
          sys.stdout, indent=1)
print()

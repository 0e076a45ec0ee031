"""The write path of docs/protocol.md, as far as vectors need it. Every random value is a hash of its name."""

from objects import ADVANCE, FRESH, REWRAP, encode, signed
from primitives import (
    Derive,
    Extract,
    H,
    Refused,
    Sub,
    ed25519_public,
    lp,
    padme,
    proto,
    seal,
    sha,
    sign,
    static_wrap_key,
    static_wrap_secret,
    u,
    x25519,
    x25519_public,
)
from reader import KEK, context, kek_step, slot_keys
from roster import Roster, read_ops, roles_bytes

NOW = 1_750_000_000_000


def random(name):
    return sha(b"sealcast test vector: " + name.encode())


class Party:
    """An identity, its index, and the key it is wrapped to: a prekey if it has one."""

    def __init__(self, name, index, prekey_ms=0):
        self.name, self.index, self.seed = name, index, random(name)
        self.identity = ed25519_public(self.seed)
        self.prekeys = []
        self.source, self.secret = 0, static_wrap_secret(self.seed)
        self.public = static_wrap_key(self.identity)
        if prekey_ms:
            self.rotate(prekey_ms)

    def rotate(self, now_ms):
        self.source, self.secret = now_ms // 1000, random(f"{self.name} prekey {now_ms}")
        self.public = x25519_public(self.secret)
        body = {
            "owner": self.identity,
            "prekey_id": self.source,
            "x25519": self.public,
            "not_before_ms": now_ms,
            "not_after_ms": now_ms + 21 * 24 * 3600 * 1000,
        }
        self.prekeys.append({"prekey": signed("prekey", body, self.seed), "secret": self.secret})
        return self


# ---- the roster ------------------------------------------------------------------------------------


def op(name, **it):
    tag, fields = {
        "add": (1, ["identity", "role"]),
        "remove": (2, ["member", "identity"]),
        "set_role": (3, ["member", "identity", "role"]),
        "set_policy": (4, ["policy"]),
        "rotate": (5, []),
    }[name]
    return Sub(proto((tag, Sub(proto(*((at + 1, it[field]) for at, field in enumerate(fields)))))))


class Admin:
    """A topic and its roster, as an admin holds them. `entry` makes the next entry and applies it."""

    def __init__(self, name, owner):
        genesis = {"suite": 1, "name": name, "owner": owner.identity, "nonce": random(name + " nonce")}
        self.genesis = signed("genesis", genesis, owner.seed)
        self.topic = H(b"topic", self.genesis[0])
        self.roster = Roster(self.topic, owner.identity)
        self.entries = []

    def draft(self, ops, by):
        """The body that follows from `ops`, and what travels beside it. `ops` that may not be change nothing."""
        roster = self.roster
        data = proto(*((1, item) for item in ops))
        try:
            members, next_member, fence, policy = roster.plan(read_ops(data))
        except Refused:
            members, next_member, fence, policy = roster.members, roster.next_member, False, None
        roles = roles_bytes({index: member for index, member in members.items() if member[1] > 0})
        policy = policy or encode("policy", roster.policy)
        seq = roster.seq + 1
        it = {
            "topic": self.topic,
            "seq": seq,
            "prev_hash": roster.hash,
            "signer": by.identity,
            "ops_hash": H(b"ops", data),
            "roles_hash": H(b"roles", roles),
            "policy_hash": H(b"policy", policy),
            "last_removal_seq": seq if fence else roster.last_removal_seq,
            "next_member": next_member,
            "time_ms": NOW + seq,
        }
        return it, {"ops": data, "roles": roles, "policy": policy}

    def entry(self, *ops, by):
        it, beside = self.draft(ops, by)
        entry = signed("entry", it, by.seed)
        if it["roles_hash"] == self.roster.roles_hash:
            beside["roles"] = None
        if it["policy_hash"] == self.roster.policy_hash:
            beside["policy"] = None
        self.roster.apply(entry, beside["ops"])
        self.entries.append({"entry": entry} | beside)


# ---- epochs and batches ----------------------------------------------------------------------------


class Sender:
    """A publisher's epoch. `header` may be changed and `sign_header` called again, to make what must be refused."""

    def __init__(self, admin, publisher, epoch, members, prev=None, mode=FRESH, close=True, dead=0):
        """`dead`: rewraps that were signed and refused before this one."""
        # Everybody's KEK before this epoch, and whose key seeded it: {index: (source, kek)}.
        self.held = dict(prev.keks) if mode != FRESH else {}
        for _ in range(dead):
            self.held = {at: (source, Derive(kek, b"next", b"")) for at, (source, kek) in self.held.items()}
        self.keks = dict(self.held) if mode == ADVANCE else {}
        name = f"{publisher.name} epoch {epoch}"
        self.publisher, self.epoch_seed, self.enc_secret = publisher, random(name + " key"), random(name + " enc")
        self.header = {
            "topic": admin.topic,
            "publisher": publisher.identity,
            "epoch": epoch,
            "prev_header_hash": prev.header_hash if prev else bytes(32),
            "prev_close": {"batches": prev.batch_no, "last_batch_hash": prev.last_hash} if prev and close else None,
            "roster_seq": admin.roster.seq,
            "roster_hash": admin.roster.hash,
            "mode": mode,
            "kek_gen": 0 if mode == FRESH else prev.header["kek_gen"] + (prev.header["mode"] == REWRAP) + dead,
            "enc": x25519_public(self.enc_secret) if any(not self.has_kek(it, mode) for it in members) else bytes(32),
            "epoch_vk": ed25519_public(self.epoch_seed),
            "slot_count": len(members),
            "time_ms": epoch,
        }
        ctx = context(self.header)
        self.seed = Derive(prev.advance_secret, b"seed", ctx) if mode == ADVANCE else random(name + " seed")
        prk = Extract(b"epoch seed", self.seed)
        self.batch_key, self.advance_secret = Derive(prk, b"batch 0", ctx), Derive(prk, b"advance", ctx)
        self.header["commitment"] = Derive(prk, b"commit", ctx)
        self.table = b"".join(self.slot(member, self.seed) for member in members)
        self.header["slots_hash"] = H(b"slots", self.table)
        self.batch_no, self.batches, self.messages = 0, [], []
        self.sign_header()
        self.last_hash = self.header_hash

    def has_kek(self, member, mode):
        return mode == REWRAP and self.held.get(member.index, (None,))[0] == member.source

    def slot(self, member, seed):
        ctx, source = context(self.header), member.source
        if self.has_kek(member, self.header["mode"]):
            source = KEK
            kw, kek = kek_step(self.held[member.index][1], ctx)
        else:
            dh = x25519(self.enc_secret, member.public)
            kw, kek = slot_keys(dh, self.header["enc"], member.public, member.identity, source, ctx)
        self.keks[member.index] = member.source, kek
        head = u(member.index, 32) + u(source, 32)
        return head + seal(kw, seed, ctx + head)

    def sign_header(self):
        self.signed = signed("header", self.header, self.publisher.seed)
        self.header_hash = H(b"header", self.signed[0])

    def body(self, first_seq, count, end=False):
        return {
            "epoch": self.header["epoch"],
            "batch_no": self.batch_no,
            "first_seq": first_seq,
            "count": count,
            "time_ms": self.header["time_ms"] + self.batch_no + 1,
            "flags": int(end),
            "prev_batch_hash": self.last_hash,
        }

    def seal(self, first_seq, messages, end=False):
        """The next batch's record; steps the ratchet."""
        encoded = [encode("message", message) for message in messages]
        record, self.last_hash = self.record(self.body(first_seq, len(messages), end), frame(encoded))
        self.batch_key, self.batch_no = Derive(self.batch_key, b"next", b""), self.batch_no + 1
        self.batches.append(record)
        empty = {"payload": b"", "headers": {}, "content_type": "", "time_ms": 0}
        self.messages += [{"seq": first_seq + at} | empty | message for at, message in enumerate(messages)]
        return record

    def record(self, body, plaintext, header_hash=None, key=None, nonce=bytes(12), label=b"batch", seed=None):
        """A batch record and its hash; the arguments after `plaintext` make wrong ones."""
        body = body if isinstance(body, bytes) else encode("batch", body)
        aad = H(b"batch", self.header_hash, body)
        sealed_aad = H(b"batch", header_hash, body) if header_hash else aad
        ct = seal(Derive(key or self.batch_key, b"key", b""), plaintext, sealed_aad, nonce)
        return self.sign_record(body, ct, label, seed)

    def sign_record(self, body, ct, label=b"batch", seed=None):
        batch_hash = H(b"sealed", H(b"batch", self.header_hash, body), sha(ct))
        return record_bytes(3, body, sign(seed or self.epoch_seed, label, batch_hash), ct), batch_hash

    def beacon(self, roster, time_ms):
        it = {
            "header_hash": self.header_hash,
            "next_batch_no": self.batch_no,
            "last_batch_hash": self.last_hash,
            "roster_seq": roster.seq,
            "roster_hash": roster.hash,
            "time_ms": time_ms,
        }
        return signed("beacon", it, self.epoch_seed)


def frame(messages):
    framed = b"".join(lp(message) for message in messages)
    plaintext = u(len(framed), 32) + framed
    return plaintext + bytes(padme(len(plaintext)) - len(plaintext))


def record_bytes(kind, body, signature, ct=b""):
    return bytes([kind]) + u(len(body), 16) + body + signature + ct

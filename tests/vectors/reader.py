"""Opening an epoch and its batches: docs/protocol.md sections 5 to 7, from a member's side. Failures are raised as
`Refused`."""

from objects import ADVANCE, REWRAP, check_signed, parse
from primitives import (
    Derive,
    Extract,
    H,
    Refused,
    hpke_export,
    lp,
    padme,
    sha,
    u,
    unseal,
    verify,
    x25519,
    x25519_public,
)

MAX_MESSAGE, MAX_BATCH = 1 << 20, (1 << 20) + (64 << 10)
KEK, MAX_KEK_STEPS = 0xFFFFFFFF, 4096

# ---- sections 5 and 6: an epoch ----------------------------------------------------------------------


def context(h):
    return H(
        b"epoch",
        u(1, 16),
        h["topic"],
        h["publisher"],
        u(h["epoch"], 64),
        h["prev_header_hash"],
        u(h["roster_seq"], 64),
        h["roster_hash"],
        u(h["mode"], 8),
        u(h["kek_gen"], 32),
        h["enc"],
    )


def slot_keys(dh, enc, public, identity, source, ctx):
    """kw and kek of a DH slot."""
    export = hpke_export(dh, enc, public, ctx, lp(b"slot") + identity + u(source, 32), 64)
    return export[:32], export[32:]


def kek_step(kek, ctx):
    """kw of a KEK slot, and the next generation's kek."""
    return Derive(kek, b"wrap", ctx), Derive(kek, b"next", b"")


def check_table(table, slot_count, slots_hash):
    members = [table[at : at + 4] for at in range(0, len(table), 56)]
    if len(table) != 56 * slot_count:
        raise Refused("Length")
    if any(a >= b for a, b in zip(members, members[1:])):
        raise Refused("Order")
    if H(b"slots", table) != slots_hash:
        raise Refused("Hash")
    return {int.from_bytes(table[at : at + 4], "big"): table[at : at + 56] for at in range(0, len(table), 56)}


class Epoch:
    """A member's keys to one epoch of one publisher."""

    def __init__(self, header, header_hash, seed, kek):
        """`kek` is what this member holds after the epoch."""
        self.header, self.header_hash, self.batch_no = header, header_hash, 0
        self.kek, self.kek_gen = kek, header["kek_gen"] + (header["mode"] == REWRAP)
        ctx, prk = context(header), Extract(b"epoch seed", seed)
        if Derive(prk, b"commit", ctx) != header["commitment"]:
            raise Refused("BadEpochSeed")
        self.batch_key, self.advance_secret = Derive(prk, b"batch 0", ctx), Derive(prk, b"advance", ctx)

    @classmethod
    def open_slot(cls, header, header_hash, slot, identity, secret):
        """`secret` is the X25519 secret that the slot's source names."""
        source = int.from_bytes(slot[4:8], "big")
        if source == KEK:
            raise Refused("NeedsKek")
        ctx, dh, seed = context(header), x25519(secret, header["enc"]), None
        if dh is not None:
            kw, kek = slot_keys(dh, header["enc"], x25519_public(secret), identity, source, ctx)
            seed = unseal(kw, slot[8:], ctx + slot[:8])
        if seed is None:
            raise Refused("BadSlot")
        return cls(header, header_hash, seed, kek)

    def kek_at(self, header, mode):
        """The KEK of the generation that the next epoch's header names."""
        if (
            header["mode"] != mode
            or header["prev_header_hash"] != self.header_hash
            or header["epoch"] <= self.header["epoch"]
            or not self.kek_gen <= header["kek_gen"] <= MAX_KEK_STEPS
        ):
            raise Refused("NotSuccessor")
        kek = self.kek
        for _ in range(self.kek_gen, header["kek_gen"]):
            kek = Derive(kek, b"next", b"")
        return kek

    def advance(self, header, header_hash):
        kek = self.kek_at(header, ADVANCE)
        return Epoch(header, header_hash, Derive(self.advance_secret, b"seed", context(header)), kek)

    def rewrap(self, header, header_hash, slot):
        if int.from_bytes(slot[4:8], "big") != KEK:
            raise Refused("NotSuccessor")
        ctx = context(header)
        kw, kek = kek_step(self.kek_at(header, REWRAP), ctx)
        seed = unseal(kw, slot[8:], ctx + slot[:8])
        if seed is None:
            raise Refused("BadSlot")
        return Epoch(header, header_hash, seed, kek)

    def open(self, record):
        """One batch record: its body, its hash and its messages (still encoded)."""
        body, signature, ciphertext = read_record(record)[1:]
        aad = H(b"batch", self.header_hash, body)
        batch_hash = H(b"sealed", aad, sha(ciphertext))
        if not verify(self.header["epoch_vk"], b"batch", batch_hash, signature):
            raise Refused("Signature", "a batch")
        batch = parse("batch", body)
        if batch["epoch"] != self.header["epoch"]:
            raise Refused("WrongEpoch")
        if batch["batch_no"] != self.batch_no:
            raise Refused("OutOfOrder")
        plaintext = unseal(Derive(self.batch_key, b"key", b""), ciphertext, aad)
        # The signature held: the number is spent, whatever it contains.
        self.batch_key, self.batch_no = Derive(self.batch_key, b"next", b""), self.batch_no + 1
        return batch, batch_hash, unframe(plaintext, batch["count"])

    def beacon(self, signed):
        return check_signed("beacon", signed, self.header["epoch_vk"])


# ---- section 7: batches and messages ----------------------------------------------------------------


def read_record(record):
    """kind, body, signature, ciphertext."""
    body_end = 3 + int.from_bytes(record[1:3], "big")
    if len(record) < body_end + 64:
        raise Refused("Length")
    kind, body, rest = record[0], record[3:body_end], record[body_end + 64 :]
    if (kind != 3 and rest) or (kind == 3 and len(body) > 256):
        raise Refused("Length")
    if kind not in (1, 2, 3):
        raise Refused("Kind")
    return kind, body, record[body_end : body_end + 64], rest


def unframe(plaintext, count):
    def bad(condition):
        if condition:
            raise Refused("BadBatch")

    bad(plaintext is None or len(plaintext) < 4)
    n = int.from_bytes(plaintext[:4], "big")
    bad(n > MAX_BATCH or len(plaintext) != padme(4 + n) or any(plaintext[4 + n :]))
    left, messages = plaintext[4 : 4 + n], []
    for _ in range(count):
        bad(len(left) < 4)
        length = int.from_bytes(left[:4], "big")
        bad(length > MAX_MESSAGE or length > len(left) - 4)
        messages.append(left[4 : 4 + length])
        left = left[4 + length :]
    bad(left)
    return messages

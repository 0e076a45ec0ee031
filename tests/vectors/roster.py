"""The roster's chain, read: docs/protocol.md section 4. `follow` is what a subscriber can check, `apply` what whoever
holds the operations can."""

from objects import check_signed, encode, malformed, parse
from primitives import H, Refused, public_key, read_proto, u

READER, PUBLISHER, ADMIN = 0, 1, 2
SECOND, CENTURY = 1000, 100 * 365 * 24 * 3600 * 1000
DEFAULT_POLICY = {
    "durability": 0,
    "retain_ms": 7 * 24 * 3600 * 1000,
    "retain_bytes": 0,
    "max_epoch_age_ms": 3600 * 1000,
    "max_fresh_age_ms": 24 * 3600 * 1000,
    "max_epoch_batches": 65_536,
    "beacon_ms": 1000,
    "prekey_rotation_ms": 7 * 24 * 3600 * 1000,
    "max_offline_ms": 14 * 24 * 3600 * 1000,
    "max_roster_age_ms": 0,
}


def check_policy(p):
    times = ("retain_ms", "max_fresh_age_ms", "prekey_rotation_ms", "max_offline_ms", "max_roster_age_ms")
    if (
        p["durability"] > 1
        or not 1 <= p["max_epoch_batches"] <= 65_536
        or not 100 <= p["beacon_ms"] <= 60_000
        or not SECOND <= p["max_epoch_age_ms"] <= p["max_fresh_age_ms"]
        or p["prekey_rotation_ms"] < 60 * SECOND
        or any(p[time] > CENTURY for time in times)
        or p["retain_ms"] > p["max_offline_ms"]
    ):
        raise Refused("Policy")


def read_policy(data):
    if len(data) > 256:
        raise Refused("Policy", "too long")
    try:
        policy = parse("policy", data)
    except Refused:
        raise Refused("Policy") from None
    check_policy(policy)
    return policy


def roles_bytes(officers):
    return b"".join(u(index, 32) + key + bytes([role]) for index, (key, role) in sorted(officers.items()))


def read_roles(data):
    malformed(len(data) % 37, "the roles list")
    entries = [data[at : at + 37] for at in range(0, len(data), 37)]
    malformed(any(a[:4] >= b[:4] for a, b in zip(entries, entries[1:])), "the roles list")
    malformed(any(entry[36] not in (PUBLISHER, ADMIN) for entry in entries), "the roles list")
    malformed(not any(entry[36] == ADMIN for entry in entries), "a roles list without an admin")
    return {int.from_bytes(entry[:4], "big"): (member_key(entry[4:36]), entry[36]) for entry in entries}


def member_key(data):
    try:
        return public_key(data)
    except Refused:
        raise Refused("Malformed", "a member's key") from None


def read_ops(data):
    """A list of (name, fields)."""
    names = {
        1: ("add", ["identity", "role"]),
        2: ("remove", ["member", "identity"]),
        3: ("set_role", ["member", "identity", "role"]),
        4: ("set_policy", ["policy"]),
        5: ("rotate", []),
    }
    ops = []
    for _, op in read_proto(data):
        inner = [names[tag] + (value,) for tag, value in read_proto(op) if tag in names]
        malformed(not inner, "operations")
        name, fields, value = inner[-1]
        found = {"member": 0, "role": 0, "identity": b"", "policy": b""}
        found.update({fields[tag - 1]: value for tag, value in read_proto(value) if tag <= len(fields)})
        if "identity" in fields:
            member_key(found["identity"])
        malformed(found["role"] > ADMIN, "a role")
        if name == "set_policy":
            read_policy(found["policy"])
        ops.append((name, found))
    return ops


class Roster:
    def __init__(self, topic, owner):
        self.topic, self.seq, self.hash, self.time_ms = topic, 0, topic, 0
        self.hashes = {0: topic}
        self.members = {0: (owner, ADMIN)}
        self.officers = {0: (owner, ADMIN)}
        self.roles_hash = H(b"roles", roles_bytes(self.officers))
        self.policy, self.policy_hash = DEFAULT_POLICY, H(b"policy", encode("policy", DEFAULT_POLICY))
        self.last_removal_seq, self.next_member = 0, 1

    def role(self, key):
        return next((role for held, role in self.officers.values() if held == key), READER)

    def check_link(self, signed):
        """Number, chain, signer, signature, and the fields that only rise."""
        it = parse("entry", signed[0])
        if it["topic"] != self.topic:
            raise Refused("Topic")
        entry_hash = H(b"roster", signed[0])
        if it["seq"] <= self.seq and self.hashes.get(it["seq"], entry_hash) == entry_hash:
            raise Refused("Known")
        if it["seq"] > self.seq + 1:
            raise Refused("Missing")
        if self.role(it["signer"]) != ADMIN:
            raise Refused("Signer")
        check_signed("entry", signed, it["signer"])
        if it["seq"] <= self.seq or it["prev_hash"] != self.hash:
            raise Refused("Fork")
        if it["last_removal_seq"] not in (self.last_removal_seq, it["seq"]) or it["next_member"] < self.next_member:
            raise Refused("Derived")
        return it

    def follow(self, signed, roles, policy):
        it = self.check_link(signed)
        officers, new_policy = self.officers, self.policy
        if it["roles_hash"] != self.roles_hash:
            if roles is None or H(b"roles", roles) != it["roles_hash"]:
                raise Refused("MissingList", "roles")
            officers = read_roles(roles)
        if it["policy_hash"] != self.policy_hash:
            if policy is None or H(b"policy", policy) != it["policy_hash"]:
                raise Refused("MissingList", "policy")
            new_policy = read_policy(policy)
        self.take(signed, it, officers, new_policy)

    def take(self, signed, it, officers, policy):
        self.seq, self.hash, self.time_ms = it["seq"], H(b"roster", signed[0]), it["time_ms"]
        self.hashes[self.seq] = self.hash
        self.officers, self.policy = officers, policy
        self.roles_hash, self.policy_hash = it["roles_hash"], it["policy_hash"]
        self.last_removal_seq, self.next_member = it["last_removal_seq"], it["next_member"]

    def apply(self, signed, ops):
        it = self.check_link(signed)
        if H(b"ops", ops) != it["ops_hash"]:
            raise Refused("Derived", "ops_hash")
        members, next_member, fence, policy = self.plan(read_ops(ops))
        officers = {index: member for index, member in members.items() if member[1] > READER}
        derived = (
            next_member == it["next_member"],
            fence == (it["last_removal_seq"] == it["seq"]),
            H(b"roles", roles_bytes(officers)) == it["roles_hash"],
            (H(b"policy", policy) if policy else self.policy_hash) == it["policy_hash"],
        )
        if not all(derived):
            raise Refused("Derived", derived)
        self.take(signed, it, officers, read_policy(policy) if policy else self.policy)
        self.members = members

    def plan(self, ops):
        """Members, next index, whether someone lost something, and the new policy's bytes, after `ops`."""
        members, next_member, fence, policy, named = dict(self.members), self.next_member, False, None, set()
        for name, op in ops:
            if name in ("add", "remove", "set_role"):
                if op["identity"] in named:
                    raise Refused("Rule", "named twice")
                named.add(op["identity"])
                if name != "add" and members.get(op["member"], (None,))[0] != op["identity"]:
                    raise Refused("Rule", "not that member")
            if name == "add":
                if op["identity"] in (key for key, _ in self.members.values()):
                    raise Refused("Rule", "a member already")
                members[next_member], next_member = (op["identity"], op["role"]), next_member + 1
            elif name == "remove":
                del members[op["member"]]
                fence = True
            elif name == "set_role":
                fence |= members[op["member"]][1] > READER and op["role"] == READER
                members[op["member"]] = (op["identity"], op["role"])
            elif name == "set_policy":
                policy = op["policy"]
        if not any(role == ADMIN for _, role in members.values()):
            raise Refused("Rule", "the last admin cannot go")
        return members, next_member, fence, policy

    def check_head(self, signed):
        it = parse("head", signed[0])
        if it["topic"] != self.topic:
            raise Refused("Topic")
        if self.role(it["signer"]) != ADMIN:
            raise Refused("Signer")
        check_signed("head", signed, it["signer"])
        if it["seq"] > self.seq:
            raise Refused("Missing")
        self.compare(it["seq"], it["hash"])
        return it

    def compare(self, seq, entry_hash):
        """What a header, beacon or head says of the roster."""
        if seq > self.seq:
            raise Refused("Ahead")
        if seq < self.last_removal_seq:
            raise Refused("Stale")
        if self.hashes[seq] != entry_hash:
            raise Refused("Fork")

"""Cases of negative.json: roster entries and heads. Each is judged twice: by the chain alone, as a subscriber does
(`chain`), and with the operations, as brokers, publishers and admins do (`roster`)."""

from bad_keys import OWNER, READER, case, torsion
from objects import encode, signed
from primitives import H, compress, proto
from roster import ADMIN, DEFAULT_POLICY, PUBLISHER, roles_bytes
from roster import READER as READS
from writer import Admin, Party, op, random

PRESS, NEW, GONE = Party("bad: press", 2), Party("bad: newcomer", 4), Party("bad: gone admin", 3)
ADD = op("add", identity=NEW.identity, role=READS)
# Accepted: the chain alone does not see the operations.
TAKEN = "ok"


def topic():
    """Owner, a reader, a publisher; an admin that came and went. Four entries."""
    admin = Admin("bad rosters", OWNER)
    admin.entry(
        op("add", identity=READER.identity, role=READS), op("add", identity=PRESS.identity, role=PUBLISHER), by=OWNER
    )
    admin.entry(op("add", identity=GONE.identity, role=ADMIN), by=OWNER)
    admin.entry(op("remove", member=GONE.index, identity=GONE.identity), by=OWNER)
    admin.entry(op("rotate"), by=OWNER)
    return admin


TOPIC = topic()


def given():
    """What comes before every entry and head here. Stands once in the file."""
    return {"topic": TOPIC.topic, "genesis": TOPIC.genesis, "roster": TOPIC.entries}


def entry(name, what, chain, roster, ops=(ADD,), by=OWNER, key=None, label=None, beside=None, admin=TOPIC, **changes):
    """An entry that would follow, but for what the arguments change."""
    it, travels = admin.draft(list(ops), by)
    body = encode("entry", it | changes)
    return case(
        "roster",
        f"roster-{name}",
        what,
        {"chain": chain, "roster": roster},
        entry=signed("entry", body, (key or by).seed, label),
        **(travels | (beside or {})),
    )


def cases():
    yield from links()
    yield from derived()
    yield from rules()
    yield from lists()
    yield from heads()
    yield from named()


def links():
    def both(name, what, expect, **how):
        return entry(name, what, expect, expect, **how)

    bad = "Malformed: a roster entry: "
    yield both("prev-other", "it chains to an entry nobody has", "Fork: 4", prev_hash=random("another entry"))
    yield both("prev-zero", "it chains to nothing", "Fork: 4", prev_hash=bytes(32))
    yield both(
        "prev-older",
        "it chains to the entry before the last",
        "Fork: 4",
        prev_hash=H(b"roster", TOPIC.entries[2]["entry"][0]),
    )
    yield both("skips", "number 6 after number 4", "Missing: 6 where 5 is due", seq=6)
    yield both("second-successor", "another entry number 4, signed by an admin", "Fork: 4", seq=4)
    yield both("second-by-reader", "another entry number 4, by one who is no admin", "Signer", seq=4, by=READER)
    yield both("other-topic", "an entry of another topic", "Topic", topic=random("another topic"))
    yield both("by-reader", "signed by a reader", "Signer", by=READER)
    yield both("by-publisher", "signed by a publisher", "Signer", by=PRESS)
    yield both("by-stranger", "the newcomer adds itself", "Signer", by=NEW)
    yield both("by-removed-admin", "signed by an admin that was removed", "Signer", by=GONE)
    yield both("forged", "it names the owner and is signed by a reader", "Signature: a roster entry", key=READER)
    yield both("label-head", "signed as a roster head", "Signature: a roster entry", label=b"roster head")
    yield both("label-genesis", "signed as a genesis", "Signature: a roster entry", label=b"genesis")
    yield both("weak-signer", "a signer of small order", bad + "it names an invalid key", signer=compress(torsion()))
    yield both("short-hash", "31 bytes", bad + "a field is not 32 bytes", prev_hash=bytes(31))
    last = TOPIC.entries[-1]
    yield case("roster", "roster-again", "the newest entry again", {"chain": "Known: 4", "roster": "Known: 4"}, **last)


def derived():
    """Fields that do not follow from the operations: the chain alone sees some of them."""

    def yields(field, name, what, value, chain, **how):
        return entry(name, what, chain, f"Derived: {field}", **{field: value}, **how)

    yield yields("ops_hash", "ops-hash", "the hash of other operations", random("ops"), TAKEN)
    yield yields("roles_hash", "roles-hash", "the hash of another list", random("roles"), "MissingList: roles list")
    yield yields("policy_hash", "policy-hash", "the hash of another policy", random("policy"), "MissingList: policy")
    yield yields(
        "last_removal_seq",
        "removal-unsaid",
        "a removal that does not move the fence",
        3,
        TAKEN,
        ops=[op("remove", member=READER.index, identity=READER.identity)],
    )
    yield yields("last_removal_seq", "removal-untrue", "the fence moves without a removal", 5, TAKEN)
    yield yields("last_removal_seq", "fence-back", "the fence goes back", 0, "Derived: last_removal_seq")
    yield yields(
        "last_removal_seq",
        "fence-elsewhere",
        "the fence at an entry that removed nobody",
        4,
        "Derived: last_removal_seq",
    )
    yield yields("next_member", "index-reused", "the next index goes back", 3, "Derived: next_member")
    yield yields("next_member", "index-skipped", "the next index skips one", 6, TAKEN)
    demoted = [op("set_role", member=PRESS.index, identity=PRESS.identity, role=READS)]
    yield yields(
        "last_removal_seq", "demotion-unsaid", "a publisher's role goes and the fence stays", 3, TAKEN, ops=demoted
    )
    hidden = roles_bytes(TOPIC.roster.officers | {NEW.index: (NEW.identity, ADMIN)})
    yield yields(
        "roles_hash",
        "hidden-admin",
        "the list makes the newcomer an admin, the operations a reader",
        H(b"roles", hidden),
        TAKEN,
        beside={"roles": hidden},
    )


def rules():
    """Operations that may not be. A chain that does not see them takes the entry: brokers and publishers do not."""

    def yields(name, what, roster, *ops, chain=TAKEN):
        return entry(name, what, chain, roster, ops=ops)

    def remove(who, **changes):
        return op("remove", **({"member": who.index, "identity": who.identity} | changes))

    yield yields("add-twice", "one who is a member", "Rule", op("add", identity=READER.identity, role=READS))
    yield yields("named-twice", "one identity in two operations", "Rule", ADD, ADD)
    yield yields("remove-other-index", "index and identity of two members", "Rule", remove(READER, member=PRESS.index))
    yield yields("remove-nobody", "an index nobody has", "Rule", remove(NEW))
    yield yields("remove-removed", "a member that went already", "Rule", remove(GONE))
    yield yields("remove-last-admin", "nobody could sign the next entry", "Rule", remove(OWNER))
    yield yields(
        "demote-last-admin",
        "nobody could sign the next entry",
        "Rule",
        op("set_role", member=0, identity=OWNER.identity, role=PUBLISHER),
    )
    yield yields(
        "promote-stranger",
        "a role for one who is no member",
        "Rule",
        op("set_role", member=NEW.index, identity=NEW.identity, role=ADMIN),
    )
    yield yields(
        "add-weak-key",
        "a member anyone could be",
        "Malformed: a member's key",
        op("add", identity=compress(torsion()), role=READS),
    )
    yield yields("add-short-key", "31 bytes", "Malformed: a member's key", op("add", identity=bytes(31), role=READS))
    yield yields("role-3", "a role of the future", "Malformed: a role", op("add", identity=NEW.identity, role=3))
    yield yields("op-unknown", "an operation of the future", "Malformed: operations", proto((9, b"x")))
    policy = encode("policy", DEFAULT_POLICY | {"beacon_ms": 99})
    yield yields(
        "policy-beacon",
        "signs of life every 99 ms",
        "Policy: beacon_ms is 100 to 60,000",
        op("set_policy", policy=policy),
    )


def lists():
    """The roles list and the policy, as the chain checks them where the hash holds."""

    def yields(name, what, chain, roles):
        return entry(
            f"list-{name}", what, chain, "Derived: roles_hash", roles_hash=H(b"roles", roles), beside={"roles": roles}
        )

    officers = TOPIC.roster.officers
    good = roles_bytes(officers)
    yield yields("falling", "indexes do not rise", "Malformed: the roles list", good[37:] + good[:37])
    yield yields("twice", "one index twice", "Malformed: the roles list", good + good[37:])
    yield yields("cut", "half an officer", "Malformed: the roles list", good[:-1])
    yield yields(
        "reader", "a reader in it", "Malformed: the roles list", roles_bytes(officers | {1: (READER.identity, READS)})
    )
    yield yields(
        "weak",
        "a key of small order",
        "Malformed: the roles list",
        roles_bytes(officers | {1: (compress(torsion()), PUBLISHER)}),
    )
    yield yields("no-admin", "publishers only", "Malformed: a roles list without an admin", good[37:])
    yield yields("empty", "nobody", "Malformed: a roles list without an admin", b"")
    for name, what, chain, changes in [
        ("batches", "no batch in an epoch", "Policy: max_epoch_batches is 1 to 65,536", {"max_epoch_batches": 0}),
        (
            "ages",
            "fresh more often than at all",
            "Policy: max_epoch_age is at least 1 s and at most max_fresh_age",
            {"max_fresh_age_ms": 3_599_999},
        ),
        ("durability", "a durability of the future", "Policy: an unknown durability", {"durability": 2}),
        ("cut", "a number without an end", "Policy: not protobuf", b"\x10\xff"),
        ("long", "more than 256 bytes", "Policy: too long", encode("policy", DEFAULT_POLICY) + proto((99, bytes(257)))),
        (
            "retain",
            "kept for longer than members' keys live",
            "Policy: retain is longer than max_offline, the life of members' keys: retain less, raise max_offline, or keep for ever (0)",
            {"retain_ms": 15 * 86_400_000},
        ),
        ("century", "kept for longer than a century", "Policy: a time is longer than a century", {"retain_ms": 2**62}),
    ]:
        policy = changes if isinstance(changes, bytes) else encode("policy", DEFAULT_POLICY | changes)
        yield entry(
            f"policy-{name}",
            what,
            chain,
            chain,
            ops=[op("set_policy", policy=policy)],
            policy_hash=H(b"policy", policy),
            beside={"policy": policy},
        )


def heads():
    roster = TOPIC.roster
    good = {"topic": TOPIC.topic, "seq": roster.seq, "hash": roster.hash, "signer": OWNER.identity, "time_ms": 1}

    def yields(name, what, expect, by=OWNER, label=None, **changes):
        head = signed("head", good | {"signer": by.identity} | changes, by.seed, label)
        return case("head", f"head-{name}", what, expect, head=head)

    yield yields("by-publisher", "re-asserted by one who is no admin", "Signer", by=PRESS)
    yield yields("forged", "it names the owner", "Signature: a roster head", by=READER, signer=OWNER.identity)
    yield yields("label-entry", "signed as a roster entry", "Signature: a roster head", label=b"roster entry")
    yield yields("fork", "another entry of that number", "Fork: 4", hash=random("another entry"))
    yield yields("future", "an entry that is not here", "Missing: 5 where 4 is due", seq=5)
    yield yields("other-topic", "a head of another topic", "Topic", topic=random("another topic"))


def named():
    """What a header or beacon says of the roster: the newest entry is 4, the last removal was 3."""
    for name, what, expect, seq in [
        ("before-removal", "the roster before the last removal: the fence", "Stale", 2),
        ("not-here", "an entry that is not here", "Ahead", 5),
    ]:
        entry_hash = H(b"roster", TOPIC.entries[min(seq, 4) - 1]["entry"][0])
        yield case("named", f"named-{name}", what, expect, seq=seq, hash=entry_hash)
    yield case("named", "named-another", "another entry of that number", "Fork", seq=4, hash=random("another entry"))
    yield case("named", "named-zero", "no entry's hash", "Fork", seq=3, hash=bytes(32))

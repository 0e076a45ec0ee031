"""A whole conversation in one topic, written by one implementation and read by the other: roster, prekeys, epochs,
batches, beacons. `make` writes python.json, `check` reads any such file as each of its members and compares."""

from objects import ADVANCE, REWRAP, check_genesis_of, check_prekey_of, check_signed, parse
from primitives import H, static_wrap_secret
from reader import KEK, Epoch, check_table
from roster import ADMIN, PUBLISHER, READER, Roster
from writer import NOW, Admin, Party, Sender, encode, op, signed


def make():
    owner, alice, press = Party("owner", 0), Party("alice", 1, NOW - 86_400_000), Party("press", 2)
    bob, carol = Party("bob", 3, NOW - 5_000), Party("carol", 4)
    admin = Admin("the vectors' topic, made by Python", owner)
    policy = {**admin.roster.policy, "durability": 1, "retain_bytes": 1 << 40, "beacon_ms": 250, "max_roster_age_ms": 1}

    admin.entry(
        op("add", identity=alice.identity, role=READER), op("add", identity=press.identity, role=PUBLISHER), by=owner
    )
    admin.entry(op("set_policy", policy=encode("policy", policy)), by=owner)
    first = Sender(admin, owner, NOW, [owner, alice, press])
    first.seal(
        0,
        [
            {"payload": b"hello"},
            {},
            {
                "payload": bytes(range(256)),
                "content_type": "application/octet-stream",
                "time_ms": NOW,
                "headers": {"z": "last", "a": "first", "empty": "", "": "no name", "ümlaut": "héllo"},
            },
        ],
    )
    first.seal(3, [{"payload": b"x" * n} for n in (1, 100, 1000, 5000)])
    first.seal(7, [], end=True)

    admin.entry(op("add", identity=bob.identity, role=READER), by=owner)
    second = Sender(admin, owner, NOW + 1000, [bob], first, ADVANCE)
    second.seal(7, [{"payload": b"bob reads from here"}])
    third = Sender(admin, press, NOW + 1500, [owner, alice, press, bob])
    third.seal(0, [{"payload": b"another publisher"}])

    admin.entry(op("remove", member=alice.index, identity=alice.identity), by=owner)
    fourth = Sender(admin, owner, NOW + 2000, [owner, press, bob], second)
    fourth.seal(8, [{"payload": b"alice does not read this"}])
    admin.entry(
        op("add", identity=carol.identity, role=ADMIN),
        op("set_role", member=press.index, identity=press.identity, role=ADMIN),
        op("rotate"),
        by=owner,
    )
    admin.entry(op("set_role", member=owner.index, identity=owner.identity, role=PUBLISHER), by=carol)
    bob.rotate(NOW + 2500)
    fifth = Sender(admin, owner, NOW + 3000, [owner, press, bob, carol], fourth, close=False)
    sixth = Sender(admin, owner, NOW + 3001, [], fifth, ADVANCE)
    sixth.seal(9, [{"payload": b"derived by everybody, without a slot"}], end=True)

    admin.entry(op("remove", member=bob.index, identity=bob.identity), by=carol)
    seventh = Sender(admin, owner, NOW + 4000, [owner, press, carol], sixth, REWRAP)
    seventh.seal(10, [{"payload": b"bob does not read this"}])
    carol.rotate(NOW + 4500)
    eighth = Sender(admin, owner, NOW + 5000, [owner, press, carol], seventh, REWRAP, dead=2)
    eighth.seal(11, [{"payload": b"carol by her new prekey, the others by their keys of two generations later"}])
    ninth = Sender(admin, owner, NOW + 5001, [], eighth, ADVANCE)
    ninth.seal(12, [{"payload": b"derived after a rewrap"}], end=True)

    epochs = [first, second, third, fourth, fifth, sixth, seventh, eighth, ninth]
    head = {
        "topic": admin.topic,
        "seq": admin.roster.seq,
        "hash": admin.roster.hash,
        "signer": carol.identity,
        "time_ms": NOW + 9000,
    }
    reads = {
        owner: [0, 1, 2, 3, 4, 5, 6, 7, 8],
        alice: [0, 1, 2],
        press: [0, 1, 2, 3, 4, 5, 6, 7, 8],
        bob: [1, 2, 3, 4, 5],
        carol: [4, 5, 6, 7, 8],
    }
    return {
        "source": "sealcast.py make",
        "topic": admin.topic,
        "genesis": admin.genesis,
        "roster": admin.entries,
        "head": signed("head", head, carol.seed),
        "epochs": [
            {
                "header": it.signed,
                "table": it.table,
                "batches": it.batches,
                "beacon": it.beacon(admin.roster, NOW + 5000),
                "messages": it.messages,
            }
            for it in epochs
        ],
        "members": [
            {
                "name": who.name,
                "seed": who.seed,
                "index": who.index,
                "identity": who.identity,
                "prekeys": who.prekeys,
                "reads": which,
            }
            for who, which in reads.items()
        ],
    }


def check(talk):
    """Reads the conversation as each of its members, and as one who holds the operations."""
    for member in talk["members"]:
        read = read_as(talk, member)
        assert list(read) == member["reads"], (member["name"], list(read))
        for at, messages in read.items():
            assert messages == talk["epochs"][at]["messages"], (member["name"], at)
    whole = Roster(talk["topic"], check_genesis_of(talk["topic"], talk["genesis"])["owner"])
    for it in talk["roster"]:
        whole.apply(it["entry"], it["ops"])
    whole.check_head(talk["head"])
    for member in talk["members"]:
        listed = [index for index, (identity, _) in whole.members.items() if identity == member["identity"]]
        assert listed == ([] if member["name"] in ("alice", "bob") else [member["index"]])


def read_as(talk, member):
    """What `member` reads: {index of the epoch: its messages}."""
    secrets = {0: static_wrap_secret(member["seed"])}
    for it in member["prekeys"]:
        prekey = check_prekey_of(it["prekey"], parse("prekey", it["prekey"][0])["not_before_ms"])
        assert prekey["owner"] == member["identity"]
        secrets[prekey["prekey_id"]] = it["secret"]
    roster = Roster(talk["topic"], check_genesis_of(talk["topic"], talk["genesis"])["owner"])
    entries, held, heads, out = iter(talk["roster"]), {}, {}, {}
    for at, epoch in enumerate(talk["epochs"]):
        header = parse("header", epoch["header"][0])
        while roster.seq < header["roster_seq"]:
            it = next(entries)
            roster.follow(it["entry"], it["roles"], it["policy"])
        header = check_signed("header", epoch["header"], header["publisher"])
        roster.compare(header["roster_seq"], header["roster_hash"])
        assert header["topic"] == talk["topic"] and roster.role(header["publisher"]) >= PUBLISHER
        header_hash, publisher = H(b"header", epoch["header"][0]), header["publisher"]
        check_chain(header, heads.get(publisher))
        slots = check_table(epoch["table"], header["slot_count"], header["slots_hash"])
        slot, before = slots.get(member["index"]), held.pop(publisher, None)
        source = int.from_bytes(slot[4:8], "big") if slot else None
        if source == KEK:
            now = before.rewrap(header, header_hash, slot)
        elif slot:
            secret = secrets[source]
            now = Epoch.open_slot(header, header_hash, slot, member["identity"], secret)
        elif before and header["mode"] == ADVANCE:
            now = before.advance(header, header_hash)
        else:
            now = None
        batches, last = 0, header_hash
        if now:
            held[publisher], out[at] = now, []
            for record in epoch["batches"]:
                batch, batch_hash, messages = now.open(record)
                assert batch["prev_batch_hash"] == last
                last, batches = batch_hash, batches + 1
                for seq, message in enumerate(messages, batch["first_seq"]):
                    out[at].append({"seq": seq} | parse("message", message))
            beacon = now.beacon(epoch["beacon"])
            assert (beacon["header_hash"], beacon["next_batch_no"], beacon["last_batch_hash"]) == (
                header_hash,
                batches,
                last,
            )
        heads[publisher] = (header_hash, batches, last) if now else (header_hash, None, None)
    return out


def check_chain(header, before):
    """That a header follows its publisher's last one, and closes its epoch with the batches that were read."""
    assert header["prev_header_hash"] == (before[0] if before else bytes(32))
    if header["prev_close"] and before[1] is not None:
        assert header["prev_close"] == {"batches": before[1], "last_batch_hash": before[2]}

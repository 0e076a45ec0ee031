"""What must be refused, one case each, after age's test kit: the material, and the failure's name.

A case's `expect` is `Name` or `Name: details`; the Rust code is held to all of it, this implementation to the name. A few
are `ok`: unusual encodings of what is accepted, because what was signed is never re-encoded.
`kind` says what is done with the material; `check` is the list of kinds.
"""

import bad_batches
import bad_encodings
import bad_epochs
import bad_keys
import bad_objects
import bad_roster
from objects import check_genesis_of, check_prekey_of, check_signed, parse
from primitives import H, Refused, public_key, static_wrap_secret, x25519
from reader import Epoch, check_table, read_record
from roster import Roster


def make():
    cases = [
        case
        for it in (bad_keys, bad_objects, bad_roster, bad_epochs, bad_batches, bad_encodings)
        for case in it.cases()
    ]
    assert len({case["name"] for case in cases}) == len(cases), "two cases of one name"
    return {"given": bad_roster.given(), "cases": cases}


def check(case, given):
    """Does with the case what its kind says; fails on another outcome than the expected. Roster cases follow `given`."""
    case = given | case
    if case["kind"] == "roster":
        for how in ("chain", "roster"):
            expect(case, case["expect"][how], lambda how=how: entry(case, how))
    else:
        expect(case, case["expect"], lambda: KINDS[case["kind"]](case))


def expect(case, expected, action):
    try:
        action()
        found = "ok"
    except Refused as refused:
        found = refused.name
    assert found == expected.split(":")[0], f"{case['name']}: {found} where {expected} was due"


def key(case):
    public_key(case["key"])


def target(case):
    if x25519(bytes(range(32)), case["x25519"]) is None:
        raise Refused("Skipped")


def roster_before(case):
    roster = Roster(case["topic"], check_genesis_of(case["topic"], case["genesis"])["owner"])
    for it in case["roster"]:
        roster.apply(it["entry"], it["ops"])
    return roster


def entry(case, how):
    roster = roster_before(case)
    if how == "chain":
        roster.follow(case["entry"], case["roles"], case["policy"])
    else:
        roster.apply(case["entry"], case["ops"])


def open_epoch(case):
    header = check_signed("header", case["header"], parse("header", case["header"][0])["publisher"])
    secret = case["secret"] if "secret" in case else static_wrap_secret(case["seed"])
    return Epoch.open_slot(header, H(b"header", case["header"][0]), case["slot"], case["me"], secret)


def advance(case):
    header = parse("header", case["next"][0])
    open_epoch(case).advance(check_signed("header", case["next"], header["publisher"]), H(b"header", case["next"][0]))


def rewrap(case):
    header = parse("header", case["next"][0])
    header = check_signed("header", case["next"], header["publisher"])
    open_epoch(case).rewrap(header, H(b"header", case["next"][0]), case["next_slot"])


def batch(case):
    epoch = open_epoch(case)
    for record in case["before"]:
        epoch.open(record)
    try:
        epoch.open(case["record"])
    finally:
        # Whatever was refused: what comes then is read.
        messages = epoch.open(case["then"])[2]
        assert messages == [b"then"], case["name"]


KINDS = {
    "key": key,
    "target": target,
    "genesis": lambda case: check_genesis_of(case["topic"], case["signed"]),
    "prekey": lambda case: check_prekey_of(case["signed"], case["now_ms"]),
    "header": lambda case: check_signed("header", case["signed"], case["publisher"]),
    "named": lambda case: roster_before(case).compare(case["seq"], case["hash"]),
    "head": lambda case: roster_before(case).check_head(case["head"]),
    "table": lambda case: check_table(case["table"], case["slot_count"], case["slots_hash"]),
    "slot": open_epoch,
    "advance": advance,
    "rewrap": rewrap,
    "batch": batch,
    "beacon": lambda case: open_epoch(case).beacon(case["beacon"]),
    "record": lambda case: read_record(case["record"]),
    "message": lambda case: parse("message", case["message"]),
}

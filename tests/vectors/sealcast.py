#!/usr/bin/env python3
"""A second implementation of docs/protocol.md: the read path, and as much of the write path as vectors need.

    python3 sealcast.py make           writes python.json, negative.json and epoch.json, always the same bytes
    python3 sealcast.py make --check   fails if they are not those bytes
    python3 sealcast.py verify         opens python.json and rust.json (which the Rust code made) as each of their
                                       members, and judges every case of negative.json as expected

primitives.py   hashes, derivations, signatures, HPKE, padding, protobuf: sections 2, 6, 7
objects.py      signed objects and messages: section 4                    roster.py   the roster's chain
reader.py       opening epochs and batches: sections 5 to 7               writer.py   making them
talk.py         a whole conversation: python.json, rust.json              negative.py what must be refused
Needs the package `cryptography`. tests/it/vectors.rs holds the Rust code to the same files.
"""

import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True  # the sources' directory stays as it is

import negative  # noqa: E402
import talk  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def plain(value):
    """Bytes as hexadecimal, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# What stands in the files as text and is text. Everything else that is text is bytes.
TEXTS = {"source", "name", "what", "kind", "expect", "content_type", "headers"}


def binary(value, key=""):
    """Back from JSON."""
    if isinstance(value, dict):
        return {key: item if key in TEXTS else binary(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [binary(item, key) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return binary(json.load(file))


def files():
    """What `make` writes: {name: text}."""
    made = {"python.json": talk.make(), "negative.json": {"source": "sealcast.py make"} | negative.make()}
    out = {name: json.dumps(plain(it), indent=1, ensure_ascii=False) + "\n" for name, it in made.items()}
    run = [sys.executable, os.path.join(HERE, "make_epoch.py")]
    return out | {"epoch.json": subprocess.run(run, check=True, capture_output=True, text=True).stdout}


def make(check):
    for name, text in files().items():
        path = os.path.join(HERE, name)
        if check:
            with open(path, encoding="utf-8") as file:
                assert file.read() == text, f"{name} is not what sealcast.py makes"
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)


def verify():
    for name in ("python.json", "rust.json"):
        talk.check(read(name))
        print(f"{name}: every member reads what it should, and no more")
    file = read("negative.json")
    for case in file["cases"]:
        negative.check(case, file["given"])
    print(f"negative.json: {len(file['cases'])} cases, each with the expected outcome")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make"]:
            make(check=False)
        case ["make", "--check"]:
            make(check=True)
        case ["verify"]:
            verify()
        case _:
            sys.exit(__doc__)

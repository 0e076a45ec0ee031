#!/usr/bin/env python3
"""Breaks one mechanism after another and shows which tests notice (docs/security.md, docs/mutations.md).

    tests/mutations/run.py                     every mutant; an hour or more on two cores
    tests/mutations/run.py proto 'tls-*'       those of a list, or whose id matches
    tests/mutations/run.py --check             only: is every mutant's text found exactly once? (no build)
    tests/mutations/run.py --resume --write    those not settled by an earlier run, and docs/mutations.md is written anew

A mutant is one change to one file: an entry of the lists beside this file. It is applied to a copy of the tree, never
to the tree itself; the copy and its build directory stay in --scratch, so that the next build is a small one. Each of
its test commands must go red. What makes the run fail: a mutant whose text is not found exactly once, one that does not
compile, one that a command of its does not notice, and a test that is red without any mutant.

Python's standard library only; nothing is fetched.
"""

import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "mutations.md"
GOALS = [f"G{n}" for n in range(1, 11)]
# One mutant's command, seconds: what hangs for so long has been noticed. The longest healthy one takes a minute.
LIMIT = 420
# Names in one row of the page, a count; the others are counted.
NAMED = 4

# Our own crates are built anew for each mutant, and their tests run once: not to be optimised. That a random history fails
# is enough: nobody reads the smallest one.
BUILD = {
    "CARGO_PROFILE_DEV_OPT_LEVEL": "0",
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "PROPTEST_MAX_SHRINK_ITERS": "0",
}

# The first word of a mutant's test command; words after it are filters of the test program.
SUITES = {
    "proto": ["-p", "sealcast-proto", "--tests"],
    "proto-lib": ["-p", "sealcast-proto", "--lib"],
    "proto-objects": ["-p", "sealcast-proto", "--test", "codec", "--test", "forged"],
    "proto-roster": ["-p", "sealcast-proto", "--test", "chain", "--test", "roster"],
    "envelope": ["-p", "sealcast-envelope", "--lib"],
    "link": ["-p", "sealcast-link", "--lib"],
    "state": ["-p", "sealcast-state", "--lib"],
    "publisher": ["-p", "sealcast-publisher", "--lib"],
    "subscriber": ["-p", "sealcast-subscriber", "--lib"],
    "loopback": ["-p", "sealcast-subscriber", "--test", "loopback"],
    "broker": ["-p", "sealcast-broker", "--lib"],
    "broker-it": ["-p", "sealcast-broker", "--test", "it"],
    "it": ["-p", "sealcast", "--test", "it"],
    # Compiled without optimisation, a value that is moved leaves a copy behind on the stack.
    "memory": ["--config", "profile.dev.opt-level=1", "-p", "sealcast", "--test", "it"],
}


class Mutant:
    def __init__(self, group, raw):
        self.group = group
        self.id, self.goal, self.what = raw["id"], raw["goal"], raw["what"]
        self.file, self.find, self.replace = raw["file"], raw["find"], raw["replace"]
        self.tests = raw["tests"]
        unknown = set(raw) - {"id", "goal", "what", "file", "find", "replace", "tests"}
        goals = self.goal.split()
        if unknown or not self.tests or not goals or any(goal not in GOALS for goal in goals):
            sys.exit(f"{group}: {self.id}: unknown {sorted(unknown)}, or no tests, or not a goal: {self.goal!r}")
        for command in self.tests:
            if command.split()[0] not in SUITES:
                sys.exit(f"{group}: {self.id}: no such suite: {command!r}")

    def digest(self):
        parts = [self.file, self.find, self.replace, *self.tests]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def misfit(self):
        """Why it cannot be applied; None: it can."""
        path = ROOT / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        found = path.read_text().count(self.find)
        if found != 1:
            return f"its text stands {found} times in {self.file}"
        return "it changes nothing" if self.find == self.replace else None


def lists():
    mutants = []
    for path in sorted(HERE.glob("*.toml")):
        raw = tomllib.loads(path.read_text())
        mutants += [Mutant(path.stem, entry) for entry in raw["mutant"]]
    ids = [mutant.id for mutant in mutants]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        sys.exit(f"ids that stand twice: {twice}")
    return mutants


def sync(tree):
    """Makes `tree` this tree: what git knows, as it is on the disk. Files that are the same keep their time."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout.decode().split("\0")
    wanted = {name for name in listed if name and (ROOT / name).is_file()}
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if str(path.relative_to(tree)) not in wanted:
            path.unlink()
    for name in wanted:
        source, target = ROOT / name, tree / name
        content = source.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            shutil.copymode(source, target)


class Place:
    """A copy of the tree and its build directory."""

    def __init__(self, scratch, number):
        self.tree, self.target = scratch / str(number) / "tree", scratch / str(number) / "target"
        self.tree.mkdir(parents=True, exist_ok=True)
        sync(self.tree)

    def run(self, call, limit):
        """Runs cargo here; returns (code, output), no code where it took longer than `limit` seconds."""
        environment = {**os.environ, **BUILD, "CARGO_TARGET_DIR": str(self.target), "CARGO_TERM_COLOR": "never"}
        process = subprocess.Popen(
            call, cwd=self.tree, env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            # The tests' own children too.
            os.killpg(process.pid, 9)
            output, _ = process.communicate()
            return None, output

    def test(self, command):
        """Runs one command; returns (compiled, names of the tests that failed, output)."""
        suite, *filters = command.split()
        call = ["cargo", "test", "--locked", "--offline", "--no-fail-fast", *SUITES[suite]]
        # A busy machine may take long to compile; only the tests have a limit.
        code, output = self.run([*call, "--no-run"], None)
        if code != 0:
            return False, [], output
        code, output = self.run([*call, "--", *filters], LIMIT)
        if code is None:
            return True, ["(no end)"], output
        # What a test's child processes print may come between its name and its result.
        failed = re.findall(r"^    (\S+)$", "\n".join(re.findall(r"(?ms)^failures:\n\n?((?:    \S+\n)+)", output)), re.M)
        if code != 0 and not failed:
            failed = ["(the test program died)"]
        if code == 0 and not re.search(r"^running [1-9]\d* tests?$", output, re.M):
            return False, [], output + "\nno test ran"
        return True, sorted(set(failed)), output

    def mutate(self, mutant):
        path = self.tree / mutant.file
        original = path.read_text()
        begun = time.monotonic()
        red, trouble, log = {}, [], ""
        path.write_text(original.replace(mutant.find, mutant.replace))
        try:
            for command in mutant.tests:
                compiled, failed, output = self.test(command)
                log += output
                if not compiled:
                    trouble.append("it does not compile, or runs no test")
                    break
                red[command] = failed
                if not failed:
                    trouble.append(f"no test of `{command}` notices it")
        finally:
            path.write_text(original)
        return {"red": red, "trouble": trouble, "seconds": round(time.monotonic() - begun), "log": log}


def all_of(mutants):
    """One command a suite that runs every test which the mutants' commands run."""
    filters = {}
    for command in {command for mutant in mutants for command in mutant.tests}:
        suite, *words = command.split()
        filters.setdefault(suite, []).append(words)
    return [
        " ".join([suite, *sorted({word for words in lists for word in words})]) if all(lists) else suite
        for suite, lists in sorted(filters.items())
    ]


def short(suite, name):
    """`inbox::tests::gaps::a_gap` → `gaps::a_gap`, with a module always (tests/it/security_page.rs)."""
    parts = [suite.split("-")[0], *(part for part in name.split("::") if part not in ("test", "tests"))]
    return "::".join(parts[-2:])


def page(mutants, results, waiting):
    """The page: `mutants`, all settled; `waiting` were not run since they, or their text, last changed."""
    rows = [
        "# Mutants",
        "",
        f"What happens to the tests when a mechanism is broken by hand: {len(mutants)} mutants, none of which survives.",
        "Written by `tests/mutations/run.py --resume --write`, which applies each to a copy of the tree and runs the tests named in",
        "its list (`tests/mutations/*.toml`: there too the exact change). The goals are those of [security.md](security.md).",
        "",
    ]
    if waiting:
        rows += [f"In the lists, but not run since they or their tests last changed, so that nothing is said of them here: {len(waiting)}. `run.py --resume --write` does it.", ""]
    rows += [
        "| goal | mutants |",
        "|---|---:|",
    ]
    for goal in GOALS:
        rows.append(f"| {goal} | {sum(goal in mutant.goal.split() for mutant in mutants)} |")
    for group in sorted({mutant.group for mutant in mutants}):
        rows += ["", f"## {group}", "", "| mutant | goal | what is broken | where | tests that went red |", "|---|---|---|---|---|"]
        for mutant in mutants:
            if mutant.group != group:
                continue
            names = []
            for command, failed in results[mutant.id]["red"].items():
                suite = command.split()[0]
                known = [f"`{short(suite, name)}`" for name in failed if not name.startswith("(")]
                known += [name for name in failed if name.startswith("(")]
                names.append((known, suite))
            cells = []
            for known, suite in names:
                more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
                cells.append(f"{suite}: " + ", ".join(known[:NAMED]) + more)
            rows.append(f"| {mutant.id} | {mutant.goal} | {mutant.what} | `{mutant.file}` | {'; '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="lists, or patterns of ids")
    parser.add_argument("--jobs", type=int, default=2, help="copies at work at once (2)")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "sealcast-mutations")
    parser.add_argument("--check", action="store_true", help="only whether each mutant's text is found once")
    parser.add_argument("--write", action="store_true", help="write docs/mutations.md, if no mutant that was run survived")
    parser.add_argument("--resume", action="store_true", help="leave out mutants that an earlier run settled unchanged")
    options = parser.parse_args()

    everything = lists()
    chosen = [
        mutant for mutant in everything
        if not options.only or any(mutant.group == name or fnmatch.fnmatch(mutant.id, name) for name in options.only)
    ]
    misfits = [f"{mutant.id}: {why}" for mutant in everything if (why := mutant.misfit())]
    print(f"{len(everything)} mutants, {len(chosen)} chosen, {len(misfits)} cannot be applied", flush=True)
    if misfits:
        sys.exit("\n".join(misfits))
    if options.check:
        return

    options.scratch.mkdir(parents=True, exist_ok=True)
    kept = options.scratch / "results.json"
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    known = {mutant.id: mutant.digest() for mutant in everything}
    results = {name: result for name, result in results.items() if known.get(name) == result["digest"]}
    if options.resume:
        chosen = [mutant for mutant in chosen if results.get(mutant.id, {}).get("trouble", True)]
    logs = options.scratch / "logs"
    logs.mkdir(exist_ok=True)
    places = queue.Queue()
    for number in range(min(options.jobs, len(chosen))):
        places.put(Place(options.scratch, number))

    def at_a_place(work):
        place = places.get()
        try:
            return work(place)
        finally:
            places.put(place)

    failures = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        def healthy(place, call):
            """Twice at most: on a busy machine a test that talks to a broker may be too late."""
            compiled, failed, output = place.test(call)
            return place.test(call) if compiled and failed else (compiled, failed, output)

        calls = all_of(chosen)
        for call, (compiled, failed, output) in zip(calls, pool.map(lambda call: at_a_place(lambda place: healthy(place, call)), calls)):
            (logs / f"without-{call.split()[0]}.log").write_text(output)
            print(f"  without a mutant: {call} {'green' if compiled and not failed else f'RED {failed}'}", flush=True)
            if failed or not compiled:
                failures.append(f"without a mutant: {call}: {failed or 'does not compile'}")
        if failures:
            sys.exit("\n".join(failures))
        # Side by side what is in one file: then only that crate and those above it are built again.
        work = sorted(chosen, key=lambda mutant: mutant.file)
        futures = {pool.submit(at_a_place, lambda place, mutant=mutant: place.mutate(mutant)): mutant for mutant in work}
        for future in concurrent.futures.as_completed(futures):
            mutant, result = futures[future], future.result()
            (logs / f"{mutant.id}.log").write_text(result.pop("log"))
            results[mutant.id] = {**result, "digest": mutant.digest()}
            kept.write_text(json.dumps(results, indent=1))
            said = "; ".join(result["trouble"]) or f"{sum(map(len, result['red'].values()))} red"
            print(f"{'FAIL ' if result['trouble'] else 'ok   '}{mutant.id} ({result['seconds']} s): {said}", flush=True)
            failures += [f"{mutant.id}: {why}" for why in result["trouble"]]
    if failures:
        sys.exit("\n" + "\n".join(failures))
    print(f"{len(chosen)} mutants, no survivor")
    if options.write:
        settled = [mutant for mutant in everything if mutant.id in results]
        survivors = [mutant.id for mutant in settled if results[mutant.id]["trouble"]]
        if survivors:
            sys.exit(f"not written: survivors of an earlier run: {survivors}")
        PAGE.write_text(page(settled, results, [mutant.id for mutant in everything if mutant.id not in results]))
        print(f"{PAGE.relative_to(ROOT)}: {len(settled)} of {len(everything)} mutants")


if __name__ == "__main__":
    main()

"""Tables and plots of what `run` measured."""
import html

NATSES = ["nats-2.9", "nats-2.15.1"]
# How a peer is called where its name would not say what it is.
SHOWN = {"bare": "bare QUIC"}
# The three loads under which memory is looked at.
MEMORY = {
    "carried": "400 messages a second",
    "close": "as fast as it goes, at most 256 KiB behind",
    "lagging": "as fast as it goes, at most 4 MiB behind",
}
COLOURS = {"ours": "#0b6e4f", "nats-2.9": "#8ecae6", "nats-2.15.1": "#457b9d", "mosquitto": "#bc6c25", "moq-relay": "#c9a227", "bare": "#9a9a9a"}


def find(cells, part, name, **wish):
    for cell in cells:
        if cell["part"] == part and cell["name"] == name and cell["wish"].items() >= wish.items():
            return cell["result"]
    return None


def names(cells, part):
    out = []
    for cell in cells:
        if cell["part"] == part and cell["name"] not in out:
            out.append(cell["name"])
    return out


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value, digits=3):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def write(results, out):
    cells, machine = results["cells"], results["machine"]
    parts = [about(machine) + of_other_runs(cells, machine)]
    for draw in (targets, fanout, growth, memory, latency, path, durable, wrap, removal):
        text = draw(cells, out)
        if text:
            parts.append(text)
    (out / "tables.md").write_text("\n\n".join(parts) + "\n")


def about(machine):
    load = lambda key: " ".join(f"{value:.1f}" for value in machine[key])
    return (f"Written by `benches/peers/run`, not by hand. {machine['when']}, {machine['cores']} cores of {machine['cpu']}"
            f"{' with AVX-512 IFMA' if machine['avx512ifma'] else ''}, Linux {machine['kernel']}; medians of {machine['rounds']} "
            f"rounds of {machine['seconds']} s a cell, peers in turn{', at real-time priority' if machine.get('realtime') else ''}; load average before {load('load_before')}, after "
            f"{load('load_after')}; commit {''.join(machine['commit'])}. {'; '.join(machine['versions'])}.")


def of_other_runs(cells, machine):
    """A run of some parts leaves the others as they were: which."""
    older = {}
    for cell in cells:
        if cell.get("when", "before") != machine["when"]:
            older.setdefault(cell.get("when", "before"), []).append(cell["part"])
    said = [f"{', '.join(dict.fromkeys(parts))}: {when}" for when, parts in older.items()]
    return f" Of earlier runs: {'; '.join(said)}." if said else ""


def targets(cells, out):
    """What was aimed at, beside what came out."""
    rows = []

    def row(what, aim, value, met, unit=" ×"):
        if value is not None:
            rows.append([what, aim, f"{number(value)}{unit}", "met" if met(value) else "**missed**"])

    def ratio(one, other):
        return one / other if one and other else None

    def best_nats(part, field, take, **wish):
        values = [(find(cells, part, name, **wish) or {}).get(field) for name in NATSES]
        values = [value for value in values if value]
        return take(values) if values else None

    wrap_of = find(cells, "wrap", "ours, naive, hpke", members=10000)
    if wrap_of:
        age = (find(cells, "wrap", "age", members=10000) or {}).get("encrypt_us_per_recipient")
        row("fresh wrap : ladder doing the same", "≤ 0.45", ratio(wrap_of["fresh_us"], wrap_of["naive_shared_us"]), lambda v: v <= 0.45)
        row("age : fresh wrap", "≥ 3", ratio(age, wrap_of["fresh_us"]), lambda v: v >= 3)
        row("hpke : fresh wrap", "≥ 4", ratio(wrap_of["hpke_us"], wrap_of["fresh_us"]), lambda v: v >= 4)
        row("rewrap, a member", "≤ 0.8 µs", wrap_of["rewrap_us"], lambda v: v <= 0.8, " µs")
        threads = find(cells, "threads", "ours, fresh") or {}
        row("fresh wrap, two threads : two processes of one", "≥ 0.9", threads.get("ratio"), lambda v: v >= 0.9)
        row("ladder : rewrap", "≥ 50", ratio(wrap_of["naive_shared_us"], wrap_of["rewrap_us"]), lambda v: v >= 50)
    sealed = find(cells, "seal", "ours", size=1024)
    if sealed:
        row("seal and sign, 1 KiB messages in full batches : bare AES-256-GCM-SIV and SHA-256", "≥ 0.8", sealed["ratio"],
            lambda v: v >= 0.8)
    for members in (1000, 10000):
        got = find(cells, "removal", "all", members=members)
        if got:
            least = min(got["openmls"]["publisher_ms"], got["mls_rs"]["publisher_ms"])
            row(f"removal at {members:,}: the faster MLS : ours", "≥ 20", ratio(least, got["ours"]["publisher_ms"]), lambda v: v >= 20)
            row(f"removal at {members:,}: a member downloads", "≤ 800 B", got["ours"]["download_bytes"], lambda v: v <= 800, " B")
    best = find(cells, "removal", "mls-rs, best case")
    small = find(cells, "removal", "all", members=1000)
    if best and small:
        row("removal at 1,000: mls-rs at its best : ours", "> 1",
            ratio(best["mls_rs_best"]["publisher_ms"], small["ours"]["publisher_ms"]), lambda v: v > 1)
    per_s = "deliveries_per_cpu_s"

    def fanout_of(name, wish):
        return (find(cells, "fanout", name, **wish) or {}).get(per_s)

    # Against the faster NATS: an aim for small messages; large ones have theirs in large datagrams.
    for size, subscribers, aim in [(100, 10, 1.2), (100, 100, 1.0), (100, 1000, 1.0), (1024, 10, None), (1024, 100, None)]:
        wish = dict(size=size, subscribers=subscribers)
        what = f"fan-out, {size:,} B × {subscribers:,}: ours : "
        peers = [("mosquitto", 10), ("moq-relay", 5)] if aim else []
        if aim:
            best = ratio(fanout_of("ours", wish), best_nats("fanout", per_s, max, **wish))
            row(what + "the faster NATS", f"≥ {aim}", best, lambda v: v >= aim)
        for name, least in [*peers, ("bare", 0.85)]:
            row(what + SHOWN.get(name, name), f"≥ {least}", ratio(fanout_of("ours", wish), fanout_of(name, wish)),
                lambda v: v >= least)
        if not aim:
            large = fanout_of("ours, 6,000-byte datagrams", wish)
            row(f"the same in 6,000-byte datagrams × {subscribers}: ours : the faster NATS", "≥ 1.8",
                ratio(large, best_nats("fanout", per_s, max, **wish)), lambda v: v >= 1.8)
    for key in ("p50_us", "p99_us"):
        ours = (find(cells, "latency", "ours") or {}).get("latency") or {}
        theirs = [(find(cells, "latency", name) or {}).get("latency", {}).get(key) for name in NATSES]
        theirs = [value for value in theirs if value]
        if theirs:
            row(f"latency of the hop, {key[:3]}: ours : the faster NATS", "≤ 1.5", ratio(ours.get(key), min(theirs)), lambda v: v <= 1.5)
    for size in (100, 1024):
        wish = dict(size=size, in_flight=1000)
        field = "acknowledged_per_s"
        ours, theirs = ((find(cells, "durable", name, **wish) or {}).get(field) for name in ("ours", "jetstream"))
        row(f"durable, {size:,} B: ours : JetStream", "≥ 20", ratio(ours, theirs), lambda v: v >= 20)
    for cell, what in MEMORY.items():
        ours, theirs = memory_of(cells, "ours", cell), [memory_of(cells, name, cell) for name in NATSES]
        # Only one that gets through the load can be compared: who delivers a ninth of it is not yet as far behind.
        near = [one["resident_max"] for one in theirs if one and ours and one["deliveries_per_s"] > ours["deliveries_per_s"] / 2]
        if near and cell != "carried":
            row(f"memory at 1,000 subscribers, {what}: ours : the smaller NATS that keeps up", "≤ 0.2",
                ratio(ours["resident_max"], min(near)), lambda v: v <= 0.2)
    few, many = (find(cells, "growth", "ours", subscribers=count) for count in (100, 10000))
    if few and many:
        row("growth, 10,000 subscribers : 100", "≥ 0.5", ratio(many[per_s], few[per_s]), lambda v: v >= 0.5)
    return "### Targets\n\n" + table(["", "target", "measured", ""], rows) if rows else None


def fanout(cells, out):
    shapes = []
    for cell in cells:
        shape = (cell["wish"].get("size"), cell["wish"].get("subscribers"))
        if cell["part"] == "fanout" and shape not in shapes:
            shapes.append(shape)
    if not shapes:
        return None
    shapes.sort()
    title = lambda shape: f"{shape[0]:,} B × {shape[1]:,}"
    value = lambda name, shape, field: (find(cells, "fanout", name, size=shape[0], subscribers=shape[1]) or {}).get(field)
    each = names(cells, "fanout")
    rows = []
    for name in each:
        row = [name]
        for shape in shapes:
            per_s, cpu = value(name, shape, "deliveries_per_cpu_s"), value(name, shape, "cpu_s_per_million")
            row.append("–" if cpu is None else f"{per_s / 1e6:.3g} M ({cpu:.3g})")
        rows.append(row)
    text = "### Deliveries per CPU second of the server (CPU seconds a million)\n\n"
    text += table(["", *[title(shape) for shape in shapes]], rows)
    ratios = []
    for against in ["nats-2.9", *[name for name in each if name.startswith("nats-2.1")], "mosquitto", "moq-relay", "bare"]:
        row = [f"ours : {against}"]
        for shape in shapes:
            ours, theirs = value("ours", shape, "deliveries_per_cpu_s"), value(against, shape, "deliveries_per_cpu_s")
            row.append(f"{ours / theirs:.2f}" if ours and theirs else "–")
        ratios.append(row)
    text += "\n\n" + table(["ratio", *[title(shape) for shape in shapes]], ratios)
    given = ["messages handed over at a time"]
    for shape in shapes:
        given.append(" / ".join(sorted({f"{value(n, shape, 'batch'):,}" for n in each if value(n, shape, "batch") and "one" not in n})))
    text += ("\n\nThe load: one publisher, as fast as it goes, the same for all; “batches of one” are handed over singly.\n\n"
             + table(["", *[title(shape) for shape in shapes]], [given]))
    busy = []
    for name in each:
        row = [name]
        for shape in shapes:
            server, load = value(name, shape, "server_busy"), value(name, shape, "load_busy")
            row.append("–" if server is None else f"{server:.0%} / {load:.0%}")
        busy.append(row)
    text += "\n\nHow busy the server's core was, and the load's:\n\n" + table(["", *[title(s) for s in shapes]], busy)
    shown = [name for name in each if name in COLOURS]
    groups = [(title(s), [(n, (value(n, s, "deliveries_per_cpu_s") or 0) / 1e6) for n in shown]) for s in shapes]
    bars(out / "fanout.svg", "Million deliveries per CPU second of the server (more is better)", groups)
    return text + "\n\n![deliveries per CPU second](fanout.svg)"


def memory_of(cells, name, cell):
    wish = dict(size=100, subscribers=1000)
    if cell == "close":
        return find(cells, "fanout", name, **wish)
    return find(cells, "memory", name, **wish, **(dict(rate=10) if cell == "carried" else dict(ahead=4096)))


def memory(cells, out):
    rows = []
    groups = {cell: [] for cell in MEMORY}
    for name in names(cells, "fanout"):
        row = [name]
        for cell in MEMORY:
            got = memory_of(cells, name, cell)
            row.append(f"{got['resident_max'] / 1e6:,.0f} MB ({got['deliveries_per_s'] / 1e6:.2g} M/s)" if got else "–")
            if got:
                groups[cell].append((name, got["resident_max"] / 1e6))
        if any(text != "–" for text in row[1:]):
            rows.append(row)
    if not any(groups.values()):
        return None
    bars(out / "memory.svg", "Resident memory at 1,000 subscribers, MB (less is better)",
         [(what, groups[cell]) for cell, what in MEMORY.items() if groups[cell]])
    return ("### Memory at 1,000 subscribers, 100 B: resident at most (deliveries a second meanwhile)\n\n"
            + table(["", *MEMORY.values()], rows) + "\n\n![memory](memory.svg)")


def growth(cells, out):
    rows = []
    for name in names(cells, "growth"):
        cpu = [find(cells, "growth", name, subscribers=count) for count in (100, 1000, 10000)]
        if all(cpu):
            rows.append([name, *[f"{one['deliveries_per_cpu_s'] / 1e6:.3g} M" for one in cpu],
                         f"{cpu[2]['deliveries_per_cpu_s'] / cpu[0]['deliveries_per_cpu_s']:.0%}",
                         f"{cpu[2]['resident_max'] / 1e6:,.0f} MB"])
    if not rows:
        return None
    return ("### Growth: deliveries per CPU second, 100 B\n\n" + table(
        ["", "100 subscribers", "1,000", "10,000", "10,000 : 100", "memory at 10,000"], rows))


def latency(cells, out):
    rows, groups = [], {"p50": [], "p99": []}
    for name in names(cells, "latency"):
        result = find(cells, "latency", name)
        if not result:
            continue
        if "latency_us" in result:
            of = {key: result["latency_us"][key] for key in ("p50", "p90", "p99", "max")}
        else:
            of = {key: result["latency"][f"{key}_us"] for key in ("p50", "p90", "p99", "max")}
        rows.append([name, *[number(of[key], 4) for key in ("p50", "p90", "p99", "max")]])
        for key, group in groups.items():
            group.append((name, of[key]))
    if not rows:
        return None
    bars(out / "latency.svg", "Latency at 1,000 messages/s × 10 subscribers × 1 KiB, µs (less is better)", list(groups.items()))
    return ("### Latency, 1,000 messages a second of 1 KiB to 10 subscribers, µs\n\n"
            + table(["", "p50", "p90", "p99", "max"], rows) + "\n\n![latency](latency.svg)")


def path(cells, out):
    rows = []
    for size in (100, 1024):
        age = find(cells, "path", "age", size=size)
        for name in names(cells, "path"):
            result = find(cells, "path", name, size=size)
            if not result or name == "age":
                continue
            if "broker" in result:
                server = result["broker"]["cpu_s_per_million_deliveries"]
                clients = result["clients"]["cpu_s_per_million_deliveries"]
            else:
                server = result["cpu_s_per_million"]
                clients = result["load_busy"] * result["seconds"] * 1e6 / result["deliveries"]
            encrypted = "end to end" if name.startswith("ours") else "hop by hop"
            rows.append([f"{size:,} B, {name}", encrypted, number(server), number(clients), number(server + clients)])
            if age and name == "nats-2.9":
                with_age = clients + age["encrypt_us"] / 10 + age["decrypt_us"]
                rows.append([f"{size:,} B, {name} + age a message", "end to end", number(server), number(with_age),
                             number(server + with_age)])
    if not rows:
        return None
    return ("### The whole path, one publisher to 10 subscribers: CPU seconds a million deliveries\n\n"
            + table(["", "encrypted", "server", "publisher and subscribers", "all"], rows))


def durable(cells, out):
    rows, groups = [], []
    for cell in cells:
        if cell["part"] != "durable" or cell["name"] != "ours" or not cell["result"]:
            continue
        wish, ours = cell["wish"], cell["result"]["acknowledged_per_s"]
        theirs = (find(cells, "durable", "jetstream", **wish) or {}).get("acknowledged_per_s")
        what = f"{wish['size']:,} B, {wish['in_flight']:,} in flight"
        rows.append([what, number(theirs), number(ours), f"{ours / theirs:.1f}" if theirs else "–"])
        groups.append((what, [("nats-2.15.1", (theirs or 0) / 1e3), ("ours", ours / 1e3)]))
    if not rows:
        return None
    bars(out / "durable.svg", "Thousand messages acknowledged a second, synced to disk (more is better)", groups)
    return ("### Messages acknowledged a second, each on disk\n\n"
            + table(["", "JetStream, `sync_interval: always`", "ours, durable", "ratio"], rows) + "\n\n![durable](durable.svg)")


def wrap(cells, out):
    rows, groups = [], []
    for cell in cells:
        if cell["part"] != "wrap" or cell["name"] == "age" or not cell["result"]:
            continue
        members, got = cell["wish"]["members"], cell["result"]
        age = (find(cells, "wrap", "age", members=members) or {}).get("encrypt_us_per_recipient")
        each = [("age", age), ("hpke", got["hpke_us"]), ("naive, a key each", got["naive_us"]),
                ("naive, one key", got["naive_shared_us"]), ("ours, fresh", got["fresh_us"]), ("ours, rewrap", got["rewrap_us"])]
        rows.append([f"{members:,}", *[number(value) for _, value in each], f"{got['fresh_us'] / got['naive_shared_us']:.2f}",
                     f"{got['naive_shared_us'] / got['rewrap_us']:.0f}"])
        groups.append((f"{members:,} members", [(name, value or 0) for name, value in each]))
    if not rows:
        return None
    threads = find(cells, "threads", "ours, fresh")
    paced = ("" if not threads else "\n\nFresh wraps a second of the clock, 10,000 members: one process with two threads "
             f"{threads['together_per_s']:,.0f}, two processes of one thread started together {threads['apart_per_s']:,.0f}: "
             f"ratio {threads['ratio']:.2f}.")
    sealed = find(cells, "seal", "ours", size=1024)
    if sealed:
        paced += (f"\n\nSealing and signing batches of {sealed['messages']:,} messages of 1 KiB, one thread: "
                  f"{sealed['seal_bytes_per_s'] / 1e9:.2f} GB/s; AES-256-GCM-SIV and SHA-256 alone over the same bytes "
                  f"{sealed['bare_bytes_per_s'] / 1e9:.2f} GB/s: ratio {sealed['ratio']:.2f}.")
    bars(out / "wrap.svg", "µs of one thread a member (less is better)", groups)
    return ("### A key for every member: µs of CPU a member, one thread\n\n"
            + table(["members", "age", "hpke", "naive ladder, a key each", "naive ladder, one key", "ours, fresh", "ours, rewrap",
                     "fresh : naive", "naive : rewrap"], rows) + paced + "\n\n![wrapping](wrap.svg)")


def removal(cells, out):
    rows, groups = [], []
    for cell in cells:
        if cell["part"] != "removal" or not cell["result"]:
            continue
        members = cell["wish"]["members"]
        group = []
        for key, name in [("openmls", "OpenMLS"), ("mls_rs", "mls-rs"), ("mls_rs_best", "mls-rs, all had committed"), ("ours", "ours")]:
            got = cell["result"].get(key)
            if got:
                rows.append([f"{members:,}", name, number(got["publisher_ms"]), number(got["member_ms"]),
                             f"{got['download_bytes']:,.0f}"])
                group.append((name, got["publisher_ms"]))
        if len(group) > 1:
            groups.append((f"{members:,} members", group))
    if not rows:
        return None
    bars(out / "removal.svg", "A removal: ms of the publisher's CPU (less is better)", groups)
    return ("### A removal\n\n" + table(["members", "", "publisher, ms", "a member, ms", "a member downloads, bytes"], rows)
            + "\n\n![removal](removal.svg)")


def colour(name):
    if name in COLOURS:
        return COLOURS[name]
    return COLOURS["ours"] if name.startswith("ours") else ["#577590", "#9d8189", "#b08968", "#6d6875"][sum(name.encode()) % 4]


def bars(path, title, groups):
    """Horizontal bars in groups, each group to its own scale."""
    left, width, row, top = 190, 420, 20, 44
    body, y = [], top
    for name, values in groups:
        body.append(f'<text x="8" y="{y + 14}" class="g">{html.escape(name)}</text>')
        y += 22
        most = max([value for _, value in values] + [1e-12])
        for label, value in values:
            length = max(value / most * width, 1)
            body.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(label)}</text>')
            body.append(f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="{row - 6}" fill="{colour(label)}"/>')
            body.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{number(value)}</text>')
            y += row
        y += 8
    style = ('<style>text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:14px}.g{font-weight:bold}'
             '@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {y}" width="700" height="{y}" role="img">'
    path.write_text("\n".join([head, f"<title>{html.escape(title)}</title>", style,
                               f'<text x="8" y="22" class="t">{html.escape(title)}</text>', *body, "</svg>", ""]))

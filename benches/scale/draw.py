"""The tables and plots of docs/scale.md."""
import html
import math

import model
from model import EPOCH, FEEDS, MACHINE, MOST_MEMBERS, RETAIN, SLOT, SUBSCRIBERS, USUAL

COLOURS = ["#0b6e4f", "#457b9d", "#bc6c25", "#9d4edd"]
# What the lines of the removal's plot are.
OF_REMOVAL = [("the slot table, into every edge", lambda got: got.table),
              ("out of the stream's leader", lambda got: got.leader),
              ("out of each edge", lambda got: got.edge)]


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def short(value, unit=""):
    """Three digits, in thousands, millions …"""
    if value == math.inf:
        return "none suffices"
    for power, prefix in [(12, "T"), (9, "G"), (6, "M"), (3, "k")]:
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def plain(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def count(value):
    return "none suffices" if value == math.inf else f"{value:,}"


def seconds(value):
    if value == math.inf:
        return "never"
    return f"{value * 1e6:.3g} µs" if value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 600 else f"{value / 60:.3g} min"


def feed(rate, size):
    return f"{rate:g}/s × {size:,} B"


def sections(costs, measured):
    return {"constants": constants(measured), "machines": machines(costs), "removal": removal(costs), "limits": limits(costs)}


def constants(measured):
    busy = ("**The machine was busy with other work when most of these were measured; they are to be taken again.**\n\n" if measured["busy"] else "")
    rows = [[one["what"], f"{plain(one['value'])} {one['unit']}", one["command"] if one["command"].startswith("the ") else f"`{one['command']}`"]
            for one in measured["constants"]]
    return f"Measured {measured['when']} on loopback.\n\n{busy}" + table(["", "measured", "by"], rows)


def machines(costs):
    rows = []
    for rate, size in FEEDS:
        for subscribers in SUBSCRIBERS:
            got = model.need(costs, subscribers, rate, size)
            rows.append([feed(rate, size), f"{subscribers:,}", f"{got.topics}", count(got.edges), got.edges_by, count(got.edges_together),
                         count(got.servers), got.servers_by, short(got.egress * 8, "bit/s"), short(got.ingest, "B/s")])
    return table(["feed", "subscribers", "topics", "edges", "decided by", "edges if packets are full", "JetStream nodes", "decided by",
                  "out of all edges", "into each edge"], rows)


def removal(costs):
    rows = []
    for subscribers in SUBSCRIBERS:
        edges = model.edges(costs, subscribers, *USUAL)[0]
        got = model.removal(costs, subscribers, edges)
        where = f"{subscribers:,}" + (f", in {model.topics(subscribers)} topics" if model.topics(subscribers) > 1 else "")
        spread = [short(got.leader, "B"), short(got.edge, "B"), f"{costs.removal_bytes:.0f} B", seconds(got.whole())]
        rows.append([where, f"{got.members:,}", count(edges), seconds(got.publisher), short(got.table, "B"), short(got.stored, "B"),
                     *(spread if edges < math.inf else ["–"] * len(spread)), seconds(got.spacing)])
    return table(["subscribers", "members of the topic", "edges", "publisher's CPU, one thread", "slot table, into JetStream and every edge",
                  "stored, three copies", "out of the stream's leader", "out of each edge", "a member downloads",
                  "until the last member can have its key, at the least", "the next one no sooner than"], rows)


def limits(costs):
    edges_of = lambda subscribers: model.edges(costs, subscribers, *USUAL)[0]
    spare = MACHINE.used * MACHINE.disk
    record = costs.frame(USUAL[1])
    usual = feed(*USUAL)
    kept = RETAIN / EPOCH
    tables_out = lambda subscribers: subscribers * SLOT / EPOCH * (edges_of(subscribers) + 2)
    spread = model.until(lambda count: model.removal(costs, MOST_MEMBERS, count).spread <= model.SPACING_MOST)
    roster = MACHINE.memory * MACHINE.used / costs.member_bytes
    rows = [
        ["bytes published anywhere, all topics: every edge and every server keeps all of them for a week (default policy)",
         f"{short(spare / RETAIN, 'B/s')} fill half a disk of {short(MACHINE.disk, 'B')}", "shorter retention; edges that keep only the topics of their subscribers"],
        ["records published anywhere: every edge checks all of them",
         f"{short(MACHINE.cpu() / costs.read(record))} records/s of {USUAL[1]:,} B take half an edge's cores, and no number of edges helps",
         "edges that read only the partitions, better the topics, of their subscribers"],
        ["one topic's bytes: one stream, one leader",
         f"{costs.stream_mb_s:.3g} MB/s measured, three copies on one disk", "several topics; larger batches; disks of their own"],
        ["one topic's members: the table's limit", f"{MOST_MEMBERS:,}", "several topics with one publisher: a removal then costs only its own"],
        ["one publisher's thread: a fresh epoch at its start and once a day",
         f"{seconds(MOST_MEMBERS * costs.fresh_us / 1e6)} for {MOST_MEMBERS:,} members; a rewrap {seconds(MOST_MEMBERS * costs.rewrap_us / 1e6)}",
         "more threads: it is parallel; several topics"],
        [f"removals from one full topic: its table goes whole to every edge, out of one leader",
         f"beyond {count(spread)} edges a table of {short(MOST_MEMBERS * SLOT, 'B')} is on its way for more than the {model.SPACING_MOST} s in which the next removal may come ({usual}, edges at 10⁸: {count(edges_of(10**8))})",
         "edges that ask for their own subscribers' slots; a tree of edges"],
        ["rosters in every edge's memory", f"{short(roster)} members of all topics fill half of {MACHINE.memory >> 30} GiB",
         "edges that hold the rosters of their subscribers' topics only"],
        ["keys that turn every hour: tables kept a week on every edge's disk",
         f"{short(spare / (kept * SLOT))} members fill half a disk; each costs {short(kept * SLOT, 'B')}", "older tables reduced to their readers' slots; a longer `max_epoch_age`"],
        ["and out of the JetStream nodes, to every edge",
         f"{short(tables_out(10**8) * 8, 'bit/s')} at 10⁸ members ({usual})", "the same as for removals"],
        ["a delivery alone in its packet: CPU of the edges", f"{short(MACHINE.cpu() / costs.deliver(USUAL[1]))} deliveries/s an edge of {MACHINE.cores} cores",
         "waiting some milliseconds, so that several go in one packet: several times as many"],
        ["network of the edges", f"{short(MACHINE.out() / costs.wire(USUAL[1]))} deliveries/s of {USUAL[1]:,} B an edge", "nothing: it is the payload"],
    ]
    return table(["what", "is reached at", "what would move it"], rows)


def plots(costs):
    many = [10 ** (4 + step / 8) for step in range(33)]
    needed = [(feed(rate, size), [(at, model.edges(costs, round(at), rate, size)[0]) for at in many]) for rate, size in FEEDS]
    removals = [(name, [(at, take(model.removal(costs, round(at), model.edges(costs, round(at), *USUAL)[0]))) for at in many])
                for name, take in OF_REMOVAL]
    removals.append(("a member's download", [(at, costs.removal_bytes) for at in many]))
    return {"edges.svg": lines("Edges needed", "subscribers", "edges", needed),
            "removal.svg": lines(f"One removal: bytes ({feed(*USUAL)}; above 4 M members in several topics)", "subscribers", "bytes", removals)}


def lines(title, across, up, series):
    """Both axes logarithmic."""
    left, top, width, height = 70, 44, 470, 300
    good = [(name, [(x, y) for x, y in points if 0 < y < math.inf]) for name, points in series]
    xs = [x for _, points in good for x, _ in points]
    ys = [y for _, points in good for _, y in points]
    low_x, high_x = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) - 1e-9)
    low_y, high_y = math.floor(math.log10(min(ys))), max(math.ceil(math.log10(max(ys))), math.floor(math.log10(min(ys))) + 1)
    at_x = lambda x: left + (math.log10(x) - low_x) / (high_x - low_x) * width
    at_y = lambda y: top + height - (math.log10(y) - low_y) / (high_y - low_y) * height
    body = []
    for power in range(low_x, high_x + 1):
        x = at_x(10**power)
        body.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" class="a"/>')
        body.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{short(10**power)}</text>')
    for power in range(low_y, high_y + 1):
        y = at_y(10**power)
        body.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" class="a"/>')
        body.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{short(10**power)}</text>')
    for number, (name, points) in enumerate(good):
        colour = COLOURS[number]
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body.append(f'<rect x="{left + width + 14}" y="{top + 20 * number}" width="12" height="12" fill="{colour}"/>')
        body.append(f'<text x="{left + width + 32}" y="{top + 20 * number + 11}">{html.escape(name)}</text>')
    body.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{across}</text>')
    body.append(f'<text x="8" y="{top - 8}">{up}</text>')
    style = ('<style>text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:14px}.a{stroke:#999;stroke-width:.4}'
             '@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>')
    y = top + height + 50
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {y}" width="780" height="{y}" role="img">'
    return "\n".join([head, f"<title>{html.escape(title)}</title>", style, f'<text x="8" y="20" class="t">{html.escape(title)}</text>',
                      *body, "</svg>", ""])

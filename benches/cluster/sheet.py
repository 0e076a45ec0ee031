"""The table and plots of what `run` measured."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))
from page import bars, find, names, number, table  # noqa: E402

WHAT = {
    "own log": "a broker's own log, fsync before each acknowledgement",
    "own log, memory": "the same, topic of kind `memory`",
    "R1": "JetStream, one copy",
    "R1, always": "JetStream, one copy, `sync_interval: always`",
    "R3": "JetStream, three copies",
    "R3, always": "JetStream, three copies, `sync_interval: always`",
}


def write(results, out):
    cells = results["cells"]
    parts = [about(results["machine"]), compared(cells, out), work(cells), reading(cells), fan_out(cells)]
    (out / "cluster.md").write_text("\n\n".join(parts) + "\n")


def was_busy(machine):
    return max(machine["busy_before"], machine["busy_after"]) > 0.1


def about(machine):
    load = lambda key: " ".join(f"{value:.1f}" for value in machine[key])
    busy = ("**The machine was busy with other work while this was measured; what waits for a core or the disk is far too high, and is to be "
            "measured again.** " if was_busy(machine) else "")
    return (f"Written by `benches/cluster/run`, not by hand. {busy}{machine['when']}, {machine['cores']} cores of {machine['cpu']}, Linux "
            f"{machine['kernel']}; medians of {machine['rounds']} rounds of {machine['seconds']} s a cell, rows in turn; of its cores, others used "
            f"{machine['busy_before']:.0%} before and {machine['busy_after']:.0%} after, load average {load('load_before')} and {load('load_after')}; commit {''.join(machine['commit'])}. {'; '.join(machine['versions'])}.\n\n"
            "Loopback. A row's broker and all its servers share one core with those of the other rows, which idle; the load, "
            "`sealcast bench` with one publisher and one subscriber that seal, sign, verify and open, has another; all logs are on one disk, "
            "three copies too. On machines of their own three servers have three disks, and a network between them.")


def compared(cells, out):
    rows, groups = [], [[], []]
    base = find(cells, "latency", "own log")
    for name in names(cells, "latency"):
        result = find(cells, "latency", name)
        ms = lambda key, at: f"{result[key][at] / 1000:.2f}"
        rates = []
        for size, group in zip((100, 1024), groups):
            cell = next(cell for cell in cells if cell["part"] == "throughput" and cell["name"] == name and cell["wish"]["size"] == size)
            least, most = cell["spread"]["acknowledged_per_s"]
            rates.append(f"{number(cell['result']['acknowledged_per_s'])} ({number(least)}–{number(most)})")
            group.append((name, cell["result"]["acknowledged_per_s"] / 1e3))
        added = (result["acknowledged_us"]["p50"] - base["acknowledged_us"]["p50"]) / 1000
        rows.append([WHAT[name], *rates, ms("acknowledged_us", "p50"), ms("acknowledged_us", "p99"), f"{added:+.2f}" if name != "own log" else "–",
                     ms("latency_us", "p50"), ms("latency_us", "p99")])
    text = "### Side by side\n\n" + table(
        ["", "100 B messages/s (least–most)", "1 KiB messages/s", "publish to acknowledged, ms: p50", "p99", "added, p50",
         "publish to open, ms: p50", "p99"], rows)
    rate = next(cell["wish"]["rate"] for cell in cells if cell["part"] == "latency")
    text += (f"\n\nMessages a second: as fast as it goes, batches of up to 64 KiB and more. Latencies: {rate} messages a second of 1 KiB, each a "
             "batch of its own.")
    costs = []
    for copies in ("R1", "R3"):
        without, always = (find(cells, "latency", name)["acknowledged_us"] for name in (copies, f"{copies}, always"))
        costs.append(f"{copies} {(always['p50'] - without['p50']) / 1000:+.2f} ms at p50 and {(always['p99'] - without['p99']) / 1000:+.2f} ms at p99")
    text += f"\n\n**What `sync_interval: always` adds to a publish:** {'; '.join(costs)}."
    bars(out / "cluster.svg", "Thousand messages acknowledged a second (more is better)",
         [(f"{size} messages", group) for size, group in zip(("100 B", "1 KiB"), groups)])
    slow = [(key, [(name, find(cells, "latency", name)["acknowledged_us"][key] / 1000) for name in names(cells, "latency")]) for key in ("p50", "p99")]
    bars(out / "cluster-latency.svg", "Publish to acknowledged, ms (less is better)", slow)
    return text + "\n\n![messages a second](cluster.svg)\n\n![latency](cluster-latency.svg)"


def busy(cells, name, got, what):
    """CPU time of a run without what the same processes use when they are idle; seconds."""
    idle = find(cells, "idle", name)
    return max(got[what] - idle[what] / idle["wall_s"] * got["wall_s"], 0) if what in got else None


def per(cpu_s, cell, of):
    """Microseconds of CPU for each."""
    return cpu_s * 1e6 / cell[of] if cpu_s is not None and cell.get(of) else None


def work(cells):
    rows = []
    for name in names(cells, "latency"):
        row = [WHAT[name]]
        for part, wish in (("latency", {}), ("throughput", dict(size=1024))):
            result = find(cells, part, name, **wish)
            row += [number(per(busy(cells, name, result, "broker_cpu_s"), result, "records")),
                    number(per(busy(cells, name, result, "servers_cpu_s"), result, "stored_messages"))]
        flood = find(cells, "throughput", name, size=1024)
        row.append(f"{flood['stored_bytes'] / flood['stored_messages'] / 1024:.0f}" if flood.get("stored_messages") else "–")
        rows.append(row)
    return ("### CPU time, µs a record (a record is a batch)\n\n" + table(
        ["", "one message of 1 KiB a record: broker", "all servers", "as fast as it goes, 1 KiB: broker", "all servers", "KiB a record"], rows)
        + "\n\nOf everything from the beginning of a run to its end: handshakes and the topic's creation are in it; what the same processes use when idle is not.")


def reading(cells):
    of = lambda name: find(cells, "reading", name)
    caught, idle = of("catch-up"), of("idle")
    rows = [["everything that the rounds left, from the beginning", f"{caught['messages']:,.0f}", f"{caught['bytes'] / 1e6:,.0f}",
             number(caught["messages"] / caught["seconds"]), number(caught["bytes"] / 1e6 / caught["seconds"]),
             number(per(caught["edge_cpu_s"], caught, "messages"))]]
    for name in ("small records", "large records", "100,000 members"):
        got = of(name)
        rows.append([f"as it comes: {name}", f"{got['stored_messages']:,.0f}", f"{got['stored_bytes'] / 1e6:,.1f}", "–", "–",
                     number(per(got["edge_cpu_s"], got, "stored_messages"))])
    many = of("100,000 members")
    return ("### An edge that only reads\n\nEvery edge reads what any of them takes. This one has no clients.\n\n"
            + table(["", "messages of the streams", "MB", "messages/s", "MB/s", "CPU, µs a message"], rows)
            + f"\n\nWith nothing to read it uses {idle['edge_cpu_s'] / idle['edge_seconds']:.1%} of a core. A topic of 100,000 members, its roster "
            f"and a key for each, costs it {many['edge_cpu_s'] / 100_000 * 1e6:.1f} µs and {many['edge_resident'] / 100_000:,.0f} bytes of memory a member.")


def fan_out(cells):
    rows = []
    for size in ("100", "1024"):
        got = find(cells, "fan-out", size)
        rows.append([f"{got['size']:,} B", number(got["broker"]["cpu_s_per_million_deliveries"]), number(connect_us(got)),
                     number((got["broker"]["resident_bytes"] - got["resident_before"]) / 1e3 / got["subscribers"])])
    return ("### Ten messages a second, each a batch of its own, to 1,000 subscribers\n\nA broker with its own log, topic of kind `memory`.\n\n" + table(
        ["", "broker, CPU µs a delivery", "CPU to connect, subscribe and go, µs a client",
         "resident, kB a client (the second run uses the first one's)"], rows))


def connect_us(got):
    """What the broker used before and after the measuring, a client."""
    return (got["broker_cpu_s"] - got["broker"]["cpu_s"]) * 1e6 / got["subscribers"]

"""What the model reckons with, taken from the files that the benchmarks write; what none of them writes is named here, with its command."""
import json

CLUSTER, PEERS = "benches/cluster/run", "benches/peers/run"


def take(dir):
    cluster = json.loads((dir / "cluster.json").read_text())
    peers = json.loads((dir / "results.json").read_text())["cells"]
    cells = cluster["cells"]
    out = []

    def put(name, value, unit, what, command):
        out.append(dict(name=name, value=float(f"{value:.4g}"), unit=unit, what=what, command=command))

    # Deliveries.
    for size in (100, 1024):
        got = find(cells, "fan-out", str(size))
        put(f"deliver_alone_{size}_us", got["broker"]["cpu_s_per_million_deliveries"], "µs",
            f"broker's CPU, a delivery of {size:,} B alone in its batch and packet: 10 a second to 1,000 subscribers", CLUSTER)
    for size in (100, 1024):
        got = find(peers, "fanout", "ours, batches of one", size=size, subscribers=100)
        put(f"deliver_together_{size}_us", got["cpu_s_per_million"], "µs",
            f"the same where more waits than is sent, so that packets are full: batches of one message of {size:,} B, full load", PEERS)
    for size in (100, 1024):
        got = find(cells, "fan-out", f"{size}, one subscriber")
        put(f"frame_{size}_bytes", got["delivered_bytes"] / got["delivered"]["messages"], "B",
            f"frames that a delivery of {size:,} B takes, alone in its batch: padding, body, signature", CLUSTER)
    # Connections.
    first = find(cells, "fan-out", "100")
    put("connection_bytes", (first["broker"]["resident_bytes"] - first["resident_before"]) / first["subscribers"], "B",
        "broker's memory, a subscriber that gets messages", CLUSTER)
    put("connect_us", (first["broker_cpu_s"] - first["broker"]["cpu_s"]) * 1e6 / first["subscribers"], "µs",
        "broker's CPU, a client that connects, subscribes and goes", CLUSTER)
    put("handshakes_limit", 2_000, "/s", "handshakes an edge begins a second", "the setting `handshakes_per_second`")
    # Edges that read.
    many = find(cells, "reading", "100,000 members")
    idle = find(cells, "reading", "idle")
    idle = idle["edge_cpu_s"] / idle["edge_seconds"]
    used = lambda got: got["edge_cpu_s"] - idle * got["edge_seconds"]
    record, mb = line(*(point(got, used(got)) for got in (find(cells, "reading", name) for name in ("small records", "large records"))))
    put("read_record_us", record, "µs", "an edge's CPU, a record of another edge: check it, keep it", CLUSTER)
    put("read_mb_us", mb, "µs", "and for each megabyte of it", CLUSTER)
    put("member_us", used(many) * 1e6 / 100_000, "µs", "an edge's CPU, a member of a new topic: roster and slot", CLUSTER)
    put("member_bytes", many["edge_resident"] / 100_000, "B", "an edge's memory, a member of any topic", CLUSTER)
    caught = find(cells, "reading", "catch-up")
    put("catch_up_mb_s", caught["bytes"] / 1e6 / caught["seconds"], "MB/s", "an edge that reads the streams from their beginning (JetStream's consume rate, and the edge's, on one core)", CLUSTER)
    put("give_record_us", caught["servers_cpu_s"] * 1e6 / caught["messages"], "µs", f"servers' CPU, a record given to an edge; of {caught['bytes'] / 1e3 / caught['messages']:.0f} kB on the average, and taken for small ones too", CLUSTER)
    # Servers that store.
    resting = find(cells, "idle", "R3, always")
    used = lambda got: got["servers_cpu_s"] - resting["servers_cpu_s"] / resting["wall_s"] * got["wall_s"]
    flood = find(cells, "throughput", "R3, always", size=1024)
    record, mb = line(*(point(got, used(got)) for got in (find(cells, "latency", "R3, always"), flood)))
    put("store_record_us", record, "µs", "all three servers' CPU, a record stored three times and synced, and given to one edge", CLUSTER)
    put("store_mb_us", mb, "µs", "and for each megabyte of it", CLUSTER)
    put("stream_mb_s", flood["published"]["bytes_per_s"] / 1e6, "MB/s", "what one topic's stream takes, three copies, `sync_interval: always`, all on one core and one disk", CLUSTER)
    # Keys.
    wrapped = find(peers, "wrap", "ours, naive, hpke", members=10000)
    put("rewrap_us", wrapped["rewrap_us"], "µs", "publisher's CPU, a member's key at a removal or the hourly turn", PEERS)
    put("fresh_us", wrapped["fresh_us"], "µs", "publisher's CPU, a member's key from nothing: at its start and once a day", PEERS)
    put("removal_bytes", find(peers, "removal", "all", members=10000)["ours"]["download_bytes"], "B",
        "what a member downloads for a removal: entry, header and its slot", PEERS)
    return dict(when=cluster["machine"]["when"], busy=max(cluster["machine"]["busy_before"], cluster["machine"]["busy_after"]) > 0.1, constants=out)


def find(cells, part, name, **wish):
    return next(cell["result"] for cell in cells
                if cell["part"] == part and cell["name"] == name and cell["wish"].items() >= wish.items())


def point(cell, cpu_s):
    """Bytes of a record, and microseconds of CPU for one, on the average of a run."""
    return cell["stored_bytes"] / cell["stored_messages"], cpu_s * 1e6 / cell["stored_messages"]


def line(small, large):
    """A record's own cost, and a megabyte's, through two points. On a busy machine a slope may come out as nothing."""
    slope = max((large[1] - small[1]) / (large[0] - small[0]), 0)
    return max(small[1] - slope * small[0], 0), slope * 1e6

"""How many machines so many subscribers need, and what a removal costs them: a model, on paper.

All rates are a second, all times seconds, all sizes bytes, unless a name says otherwise.
"""
import math
from dataclasses import dataclass

# Messages of a feed: a second, and bytes each.
FEEDS = [(0.1, 1024), (1, 1024), (10, 100), (100, 100)]
# The one whose edges the removals and limits are reckoned with.
USUAL = (1, 1024)
SUBSCRIBERS = [10**4, 10**6, 10**8]
# Fixed by the protocol (proto/src/limits.rs): slots in a table, and bytes of one.
MOST_MEMBERS, SLOT = 4_000_000, 56
# Streams over which topics are spread, for ever (broker/src/order.rs), each with a leader that gives its records to every edge.
STREAMS = 8
# The default policy: keys turn every hour, records are kept a week.
EPOCH, RETAIN = 3_600, 7 * 86_400
# A broker takes no two removals of a topic closer than this, or twice the last upload, up to that.
SPACING, SPACING_MOST = 1, 30
# IPv4 and UDP 28, QUIC's short header, stream frame and tag some 32; and what fits one packet. Reckoned, not measured.
PACKET, FITS = 60, 1_390


@dataclass
class Machine:
    """What an edge or a server is assumed to be; `used` of it at most."""
    cores: int = 16
    memory: int = 128 << 30
    network: float = 25e9 / 8
    disk: float = 4e12
    used: float = 0.5
    # All clients of an edge that dies are to be back elsewhere within this.
    back_within: float = 60

    def cpu(self):
        return self.cores * self.used

    def out(self):
        return self.network * self.used


MACHINE = Machine()


class Costs:
    """The measured constants, by name, in seconds and bytes."""

    def __init__(self, constants):
        self.of = {one["name"]: one["value"] for one in constants}

    def __getattr__(self, name):
        return self.of[name]

    def deliver(self, size, together=False):
        """CPU of a delivery: between the two sizes measured a straight line."""
        kind = "together" if together else "alone"
        small, large = self.of[f"deliver_{kind}_100_us"], self.of[f"deliver_{kind}_1024_us"]
        return (small + (large - small) * (size - 100) / 924) / 1e6

    def frame(self, size):
        small, large = self.frame_100_bytes, self.frame_1024_bytes
        return small + (large - small) * (size - 100) / 924

    def wire(self, size):
        frame = self.frame(size)
        return frame + math.ceil(frame / FITS) * PACKET

    def read(self, size):
        """CPU of an edge to read one record of that many bytes."""
        return (self.read_record_us + self.read_mb_us * size / 1e6) / 1e6

    def store(self, size):
        """CPU of all three servers to store one record, and give it to one edge."""
        return (self.store_record_us + self.store_mb_us * size / 1e6) / 1e6


@dataclass
class Need:
    """What so many subscribers of one feed need."""
    subscribers: int
    topics: int
    edges: int
    edges_by: str
    edges_together: int
    servers: int
    servers_by: str
    # Out of all edges, and into each; bytes a second.
    egress: float
    ingest: float


def topics(subscribers):
    """Beyond what a table holds, the feed goes to several topics, each message to each."""
    return math.ceil(subscribers / MOST_MEMBERS)


def ingest(costs, subscribers, rate, size):
    """Records and bytes a second that stand in the streams: messages, and every hour a key for each member."""
    many = topics(subscribers)
    return many * rate, many * rate * costs.frame(size) + subscribers * SLOT / EPOCH


def edges(costs, subscribers, rate, size, together=False):
    """How many, and what decides it."""
    records, _ = ingest(costs, subscribers, rate, size)
    # Every edge reads everything, and holds every roster.
    cpu = MACHINE.cpu() - records * costs.read(costs.frame(size)) - subscribers / EPOCH * costs.member_us / 1e6
    memory = MACHINE.memory * MACHINE.used - subscribers * costs.member_bytes
    if cpu <= 0 or memory <= 0:
        return math.inf, "rosters" if memory <= 0 else "reading"
    by = {
        "CPU": subscribers * rate * costs.deliver(size, together) / cpu,
        "network": subscribers * rate * costs.wire(size) / MACHINE.out(),
        "memory": subscribers * costs.connection_bytes / memory,
        "coming back": coming_back(costs, subscribers),
        "losing one": 2,
    }
    most = max(by, key=by.get)
    return math.ceil(by[most]), most


def coming_back(costs, subscribers):
    """So many that the others can take one edge's clients in time: subscribers / n / (n - 1) each."""
    each = MACHINE.back_within * min(MACHINE.cpu() / (costs.connect_us / 1e6), costs.handshakes_limit)
    return (1 + math.sqrt(1 + 4 * subscribers / each)) / 2


def servers(costs, subscribers, rate, size, count):
    """JetStream nodes with three copies of everything: they give every edge everything."""
    records, stored = ingest(costs, subscribers, rate, size)
    cpu = records * (costs.store(stored / records) + count * costs.give_record_us / 1e6) / MACHINE.cpu()
    network = stored * (count + 2) / MACHINE.out()
    many = topics(subscribers)
    if max(cpu, network) * math.ceil(many / STREAMS) / many > 1:
        return math.inf, "one leader"
    by = {
        "three copies": 3,
        "CPU": cpu,
        "network": network,
        # Three copies of all that the topics' policy keeps.
        "disk": 3 * (stored * RETAIN) / (MACHINE.disk * MACHINE.used),
    }
    most = max(by, key=by.get)
    return math.ceil(by[most]), most


def need(costs, subscribers, rate, size):
    count, by = edges(costs, subscribers, rate, size)
    together, _ = edges(costs, subscribers, rate, size, together=True)
    nodes, nodes_by = servers(costs, subscribers, rate, size, count) if count < math.inf else (math.inf, "–")
    return Need(subscribers, topics(subscribers), count, by, together, nodes, nodes_by,
                egress=subscribers * rate * costs.wire(size), ingest=ingest(costs, subscribers, rate, size)[1])


@dataclass
class Removal:
    """What the removal of one member costs; of one topic, where there are several."""
    members: int
    edges: int
    publisher: float
    table: int
    stored: int
    # Out of the stream's leader: a copy for every edge and two followers.
    leader: float
    edge: float
    # Seconds until the last member can have its key, by each step at its fastest.
    upload: float
    spread: float
    given: float
    spacing: float

    def whole(self):
        return self.publisher + self.upload + self.spread + self.given


def removal(costs, subscribers, count):
    members = min(subscribers, MOST_MEMBERS)
    table = members * SLOT
    upload = table / (costs.stream_mb_s * 1e6)
    return Removal(members, count, publisher=members * costs.rewrap_us / 1e6, table=table, stored=3 * table,
                   leader=table * (count + 2), edge=members / count * costs.removal_bytes, upload=upload,
                   spread=table * (count + 2) / MACHINE.out(),
                   given=members / count * max(costs.removal_bytes / MACHINE.out(), costs.deliver(1024) / MACHINE.cpu()),
                   spacing=min(max(SPACING, 2 * upload), SPACING_MOST))


def until(holds, least=10**3, most=10**12):
    """The greatest whole number for which it holds."""
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if holds(middle) else (least, middle - 1)
    return least

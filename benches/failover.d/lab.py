"""Two boxes, a client and servers in network namespaces of their own, and everything that can be broken there.

                sw: bridge `front` 192.0.2.0/24        sw: bridge `back` 198.51.100.0/24
    cl eth0 .1 ----+                                        +---- eth0 .21 .22 sv
                   +---- eth0 .11  lb1  eth1 .11 -----------+
                   +---- eth0 .12  lb2  eth1 .12 -----------+

The switch's ports have the names of what is plugged in: `cl`, `sv`, and `lb1f`, `lb1b` for a box's front and back.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

VIP = "192.0.2.100"
SECOND_VIP = "192.0.2.101"
CLIENT = "192.0.2.1"
FRONT = {"lb1": "192.0.2.11", "lb2": "192.0.2.12"}
BACK = {"lb1": "198.51.100.11", "lb2": "198.51.100.12"}
SERVERS = ["198.51.100.21", "198.51.100.22"]
SERVER_PORT = 8080
# What waits before it answers, behind the servers' /wait/.
WAITER = "127.0.0.1:8081"
# Outgoing connections of the client: half a minute of them may wait for their port to be free again.
CLIENT_PORTS = "10000 65000"


class Failure(Exception):
    """Ends the run with a message."""


def run(*argv, check=True, text=None):
    """A command that does its work and ends; its output."""
    done = subprocess.run(argv, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(argv)}: {done.stdout.strip()}")
    return done.stdout


class Process:
    """A program in a session of its own, that ends with this script."""

    def __init__(self, argv, log, core=None, nice=0, realtime=False, stdout=None, stdin=subprocess.DEVNULL):
        def prepare():
            if core is not None:
                os.sched_setaffinity(0, {core})
            if nice:
                # Relative: the whole lab may run at a lower priority.
                os.setpriority(os.PRIO_PROCESS, 0, max(-20, os.getpriority(os.PRIO_PROCESS, 0) + nice))
            if realtime:
                with contextlib.suppress(PermissionError):
                    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

        self.log = log
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout or output, stderr=output, preexec_fn=prepare, start_new_session=True
            )
        self.pid = self.child.pid

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        if self.alive():
            self.child.send_signal(number)

    def stop(self, limit=2):
        """Asks, waits, kills."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(limit)
        self.kill()

    def kill(self):
        if self.alive():
            self.child.kill()
        self.child.wait()


class Node:
    """A namespace."""

    def __init__(self, name, core):
        # Several labs may run on one machine.
        self.name, self.namespace, self.core = name, f"fo{os.getpid()}-{name}", core
        self.path = pathlib.Path("/run/netns") / self.namespace
        # Instruments in the namespace, which are no part of what runs there.
        self.instruments = set()

    def ip(self, *words, check=True):
        return run("ip", "-n", self.namespace, *words, check=check)

    def inside(self, argv):
        return ["ip", "netns", "exec", self.namespace, *map(str, argv)]

    def run(self, *argv, check=True, text=None):
        return run(*self.inside(argv), check=check, text=text)

    def pids(self):
        """All processes in the namespace but the instruments, and so all that came of what was started there."""
        wanted, found = self.path.stat().st_ino, []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/net").stat().st_ino == wanted:
                    found.append(int(process.name))
        return [pid for pid in found if pid not in self.instruments]

    def kill_all(self):
        """SIGKILL, again until none is left."""
        deadline = time.monotonic() + 5
        while pids := [pid for pid in self.pids() if not is_zombie(pid)]:
            for pid in pids:
                send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: {pids} cannot be killed")
            time.sleep(0.005)


class Box(Node):
    """One of the two that take turns."""

    def __init__(self, name, core, folder):
        super().__init__(name, core)
        self.peer = "lb2" if name == "lb1" else "lb1"
        self.priority = {"lb1": 150, "lb2": 100}[name]
        self.address, self.peer_address = FRONT[name], FRONT[self.peer]
        self.folder = folder / name


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def process_state(pid):
    """(name, state, parent) from /proc; None when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name may hold spaces and brackets.
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return name, state, int(parent)


def is_zombie(pid):
    state = process_state(pid)
    return state is None or state[1] in "ZX"


def cpu_ns(pids):
    """Time on the CPU, in ns, of all threads of `pids`."""
    total = 0
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total


class Lab:
    """The network; `with` makes sure that nothing of it stays behind."""

    def __init__(self, options):
        self.options = options
        lb1, lb2, load = options.cores
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bascule-failover-"))
        # Workers of proxies that drop privileges go through it.
        self.folder.chmod(0o755)
        self.sw, self.cl, self.sv = Node("sw", load), Node("cl", load), Node("sv", load)
        self.boxes = {"lb1": Box("lb1", lb1, self.folder), "lb2": Box("lb2", lb2, self.folder)}
        self.nodes = [self.sw, self.cl, self.sv, *self.boxes.values()]
        # What is started in no box lives as long as the lab.
        self.processes = []

    def __enter__(self):
        try:
            self.build()
            self.start_servers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not stop this half-way.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in self.processes:
            process.kill()
        for node in self.nodes:
            if node.path.exists():
                with contextlib.suppress(Failure):
                    node.kill_all()
                run("ip", "netns", "del", node.namespace, check=False)
        if self.options.keep:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- construction -----------------------------------------------------------------------------------------------

    def build(self):
        for node in self.nodes:
            run("ip", "netns", "add", node.namespace)
            node.ip("link", "set", "lo", "up")
            # Link-local addresses at once.
            self.sysctl(node, "net.ipv6.conf.default.accept_dad", "0")
        for bridge in ("front", "back"):
            self.sw.ip("link", "add", bridge, "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
            self.sw.ip("link", "set", bridge, "up")
        self.plug(self.cl, "eth0", "cl", "front", CLIENT)
        self.plug(self.sv, "eth0", "sv", "back", *SERVERS)
        for name, box in self.boxes.items():
            self.plug(box, "eth0", f"{name}f", "front", FRONT[name])
            self.plug(box, "eth1", f"{name}b", "back", BACK[name])
            box.folder.mkdir()
            box.folder.chmod(0o777)
            box.mac = box.run("cat", "/sys/class/net/eth0/address").strip()
        self.sysctl(self.cl, "net.ipv4.ip_local_port_range", CLIENT_PORTS)
        self.sw.run("nft", "add table bridge lab; add chain bridge lab drops { type filter hook forward priority 0; }")

    def plug(self, node, device, port, bridge, *addresses):
        self.sw.ip("link", "add", port, "type", "veth", "peer", "name", device, "netns", node.namespace)
        self.sw.ip("link", "set", port, "master", bridge, "up")
        for address in addresses:
            node.ip("address", "add", f"{address}/24", "dev", device)
        node.ip("link", "set", device, "up")

    def sysctl(self, node, key, value):
        node.run("sh", "-c", 'echo "$1" > "/proc/sys/$(echo "$0" | tr . /)"', key, value)

    def start(self, node, argv, log, **how):
        process = Process(node.inside(argv), self.folder / log, core=node.core, **how)
        self.processes.append(process)
        return process

    def start_servers(self):
        folder = self.folder / "sv"
        folder.mkdir()
        folder.chmod(0o777)
        listen = "".join(f"listen {address}:{SERVER_PORT} backlog=4096; " for address in SERVERS)
        (folder / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  upstream waiter {{ server {WAITER}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    {listen}
    location / {{ return 200 "{"x" * 99}\\n"; }}
    location /wait/ {{ proxy_pass http://waiter; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
""")
        self.start(self.sv, [self.options.prober, "serve", WAITER], "waiter.log")
        argv = ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
        self.start(self.sv, argv, "servers.log")

    # --- faults -----------------------------------------------------------------------------------------------------

    def port(self, port, *words):
        self.sw.ip("link", "set", port, *words)

    def cut(self, name, side="f"):
        """Pulls the cable: both ends lose the carrier."""
        self.port(f"{name}{side}", "down")

    def silence(self, name, side="f"):
        """The switch forwards nothing from or to the port, and the box's carrier stays."""
        self.port(f"{name}{side}", "nomaster")

    def die(self, name):
        """The power goes: cable and processes, the cable first so that nobody says good-bye."""
        self.cut(name)
        self.boxes[name].kill_all()

    def drop_adverts(self, source=None):
        """Of one box, or of both."""
        match = f"ip saddr {FRONT[source]} " if source else ""
        self.sw.run("nft", f"add rule bridge lab drops {match}ip protocol 112 drop")

    def pass_adverts(self):
        self.sw.run("nft", "flush", "chain", "bridge", "lab", "drops")

    def replug(self, name, side="f"):
        self.port(f"{name}{side}", "master", {"f": "front", "b": "back"}[side], "up")

    def make_stale(self, name):
        """The client takes the VIP to be at `name`, as after that box's gratuitous ARP."""
        mac = self.boxes[name].mac
        self.cl.ip("neigh", "replace", VIP, "lladdr", mac, "dev", "eth0", "nud", "reachable")

    def restore(self):
        """As new: no process in a box, all cables in, no VIP, nothing remembered."""
        for name, box in self.boxes.items():
            box.kill_all()
            self.replug(name, "f")
            self.replug(name, "b")
            for vip in (VIP, SECOND_VIP):
                for prefix in (24, 32):
                    box.ip("address", "del", f"{vip}/{prefix}", "dev", "eth0", check=False)
            box.ip("neigh", "flush", "all")
        self.pass_adverts()
        self.cl.ip("neigh", "flush", "all")

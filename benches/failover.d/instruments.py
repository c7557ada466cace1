"""What watches the lab: requests, who holds the address, adverts on the wire, and time stolen from the machine.

All times are seconds since 1970.
"""

import contextlib
import dataclasses
import datetime
import re
import signal
import struct
import subprocess
import time

from lab import VIP, Failure, Process

PERIOD = 0.005
TIMEOUT = 3.0
# In flight at the servers, of a busy client's requests.
WAIT_PATH = "/wait/20"
# Shorter ones are the noise of scheduling, of which a busy lab has more.
OUTAGE = {"idle": 0.050, "saturated": 0.200}


class Tail:
    """The lines that were added to a file since it was last asked."""

    def __init__(self, path):
        path.touch()
        self.file, self.rest = open(path, "rb"), b""

    def lines(self):
        *whole, self.rest = (self.rest + self.file.read()).split(b"\n")
        return [line.decode() for line in whole]


def steal():
    """Seconds stolen from all CPUs since boot, in steps of 10 ms."""
    with open("/proc/stat") as stat:
        return int(stat.readline().split()[8]) / 100


# --- requests -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    kind: str
    start: float
    connected: float | None
    sent: float | None
    end: float
    outcome: str
    box: str

    @classmethod
    def parse(cls, line):
        kind, start, connected, sent, end, outcome, box = line.split()
        start = int(start) / 1e6
        at = [None if int(text) < 0 else start + int(text) / 1e6 for text in (connected, sent, end)]
        return cls(kind, start, *at, outcome, box)

    @property
    def ok(self):
        return self.outcome == "ok"


class Prober:
    """`examples/prober.rs` in the client's namespace."""

    def __init__(self, lab, path, busy=0):
        argv = [lab.options.prober, "probe", f"{VIP}:80", int(PERIOD * 1e3), int(TIMEOUT * 1e3), busy, WAIT_PATH]
        # A prober that waits for the CPU sees outages that are its own.
        with open(path, "wb") as output:
            self.process = Process(
                lab.cl.inside(argv), lab.folder / "prober.log", lab.cl.core, -5, stdout=output, stdin=subprocess.PIPE
            )
        lab.processes.append(self.process)
        self.tail, self.requests = Tail(path), []

    def read(self):
        """All requests that have ended so far."""
        self.requests += map(Request.parse, self.tail.lines())
        return self.requests

    def finish(self, outage):
        self.process.child.stdin.close()
        try:
            self.process.child.wait(TIMEOUT + 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return Traffic(self.read(), outage)


class Traffic:
    """The requests of one run. `outage`: the shortest pause that is one."""

    def __init__(self, requests, outage):
        self.outage = outage
        self.probes = sorted((r for r in requests if r.kind == "p"), key=lambda r: r.start)
        self.busy = [r for r in requests if r.kind == "b"]
        self.good = sorted(r.end for r in self.probes if r.ok)

    def pauses(self, since, until):
        """(begin, end) between the successes that follow one another, from the last one before `since`. The last
        pause ends with `until` when no success does."""
        before = [t for t in self.good if t <= since]
        times = [max(before, default=since), *(t for t in self.good if since < t <= until), until]
        return list(zip(times, times[1:]))

    def gap(self, since, until):
        """Longest time between two successive successes, less what is normal."""
        return max(0.0, max(end - begin for begin, end in self.pauses(since, until)) - PERIOD)

    def settled(self, since, until):
        """From `since` to the end of the last outage; 0 without one, infinite if it was not over."""
        outages = [pause for pause in self.pauses(since, until) if pause[1] - pause[0] > self.outage + PERIOD]
        if not outages:
            return 0.0
        return outages[-1][1] - since if outages[-1][1] < until else float("inf")

    def failures(self, since):
        """Of all kinds of requests that ended after `since`, by reason."""
        counts = {}
        for request in self.probes + self.busy:
            if not request.ok and request.end >= since:
                counts[request.outcome] = counts.get(request.outcome, 0) + 1
        return counts

    def unanswered(self, since, before):
        """Requests that were sent as a whole between the two, and failed."""
        requests = self.probes + self.busy
        return sum(not r.ok and r.sent is not None and r.end >= since and r.sent < before for r in requests)

    def slowest(self, since):
        return max((r.end - r.start for r in self.probes if r.ok and r.end >= since), default=0.0)

    def stall(self, since, until):
        """How late the prober itself was at worst: what a gap of this length is worth."""
        starts = [r.start for r in self.probes if since <= r.start <= until]
        return max((b - a for a, b in zip(starts, starts[1:])), default=PERIOD) - PERIOD


# --- the address ----------------------------------------------------------------------------------------------------


class Owners:
    """Which boxes hold the VIP, by netlink."""

    EVENT = re.compile(r"^\[([^\]]+)\]\s*(Deleted )?\d+: \S+\s+inet (\S+?)/")

    def __init__(self, lab):
        self.monitors, self.events = {}, []
        for name, box in lab.boxes.items():
            path = lab.folder / f"owner-{name}"
            with open(path, "wb") as output:
                argv = ["ip", "-n", box.namespace, "-ts", "-o", "monitor", "address"]
                process = Process(argv, lab.folder / "monitor.log", lab.cl.core, realtime=True, stdout=output)
            lab.processes.append(process)
            box.instruments.add(process.pid)
            self.monitors[name] = Tail(path)

    def read(self):
        for name, tail in self.monitors.items():
            for line in tail.lines():
                if (match := self.EVENT.match(line)) and match[3] == VIP:
                    at = datetime.datetime.fromisoformat(match[1]).timestamp()
                    self.events.append((at, name, match[2] is None))
        self.events.sort()
        return self.events

    def forget(self):
        self.read()
        self.events.clear()

    def now(self):
        holders = set()
        for _, name, there in self.read():
            (holders.add if there else holders.discard)(name)
        return holders

    def intervals(self, since, until, dead=None):
        """(begin, end, holders). `dead` maps a box to when it died: what it holds is of no interest then."""
        events = self.read() + [(at, name, False) for name, at in (dead or {}).items()]
        events = [e for e in sorted(events) if not (dead and e[2] and e[1] in dead and e[0] > dead[e[1]])]
        holders, begin, found = frozenset(), since, []
        for at, name, there in events:
            after = holders | {name} if there else holders - {name}
            if after != holders:
                at = min(max(at, since), until)
                if at > begin:
                    found.append((begin, at, holders))
                begin, holders = at, after
        return found + [(begin, until, holders)]


# --- the wire -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Advert:
    at: float
    source: str
    version: int
    priority: int
    sound: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Announcement:
    """A gratuitous ARP for the VIP."""

    at: float
    mac: str


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Wire:
    """tcpdump on the front bridge: what a switch would see, also of what it then drops."""

    def __init__(self, lab, path):
        self.path = path
        argv = ["tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-i", "front", "-w", path, "proto 112 or arp"]
        self.process = lab.start(lab.sw, argv, "tcpdump.log")
        deadline = time.monotonic() + 5
        while not (path.exists() and path.stat().st_size >= 24):
            if time.monotonic() > deadline or not self.process.alive():
                raise Failure(f"tcpdump: {self.process.log.read_text()[-500:]}")
            time.sleep(0.02)

    def finish(self):
        self.process.signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.child.wait(2)
        self.process.kill()
        return self.read()

    def read(self):
        """(adverts, announcements) so far."""
        data, adverts, announcements = self.path.read_bytes(), [], []
        at = 24
        while at + 16 <= len(data):
            seconds, micros, length, _ = struct.unpack_from("=IIII", data, at)
            frame = data[at + 16 : at + 16 + length]
            at += 16 + length
            if len(frame) < length or length < 34:
                continue
            when = seconds + micros / 1e6
            if frame[12:14] == b"\x08\x06":
                sender, target = frame[28:32], frame[38:42]
                if sender == target == bytes(map(int, VIP.split("."))):
                    announcements.append(Announcement(when, frame[22:28].hex(":")))
            elif frame[12:14] == b"\x08\x00" and frame[23] == 112:
                header = (frame[14] & 15) * 4
                total = struct.unpack_from("!H", frame, 16)[0]
                body = frame[14 + header : 14 + total]
                pseudo = frame[26:34] + struct.pack("!BBH", 0, 112, len(body)) if body[0] >> 4 == 3 else b""
                source = ".".join(map(str, frame[26:30]))
                adverts.append(Advert(when, source, body[0] >> 4, body[2], checksum(pseudo + body) == 0))
        return adverts, announcements

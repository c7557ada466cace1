"""What is broken, what is measured, and the bars."""

import contextlib
import dataclasses
import math
import signal
import time
from typing import Callable

from instruments import OUTAGE, PERIOD, Prober, Wire, steal
from lab import FRONT, VIP, Failure, Process, cpu_ns, send
from products import CHECK_FALL, CHECK_INTERVAL, PAIRS, Setting

BUSY = 16
# For sending, hearing and acting, where a bar is a number of advert intervals.
ALLOWANCE = 0.050
GOLDEN = (math.sqrt(5) - 1) / 2


class Run:
    """One fault on a pair of boxes that has just started."""

    def __init__(self, lab, owners, pair, setting, load, turn):
        self.lab, self.owners, self.setting, self.load = lab, owners, setting, load
        self.outage = OUTAGE[load]
        # Where between two adverts, or checks, the fault falls. Evenly spread however many runs there are, and the same
        # for all products.
        self.phase = turn * GOLDEN % 1
        self.boxes = {name: cls(lab.boxes[name], setting, lab.options) for name, cls in PAIRS[pair].items()}
        self.lb1, self.lb2 = self.boxes.values()
        self.at = self.until = None
        self.prober = self.wire = self.wrk = None
        # box -> when it died: what is still configured on it answers nobody.
        self.dead = {}
        self.notes = {}

    # --- the course of a run ----------------------------------------------------------------------------------------

    def begin(self, start=("lb1", "lb2"), busy=0, settle=1.0):
        """Both serve, the first holds the address, and requests flow."""
        self.lab.restore()
        time.sleep(0.1)
        self.owners.forget()
        self.wire = Wire(self.lab, self.lab.folder / "wire.pcap")
        first, *others = start
        self.boxes[first].start()
        self.wait(f"{first} does not get the address", lambda: self.owners.now() == {first}, 30)
        for name in others:
            self.boxes[name].start()
        self.prober = Prober(self.lab, self.lab.folder / "requests", busy)
        if self.load == "saturated":
            connections = f"-c{self.lab.options.connections}"
            argv = ["wrk", "-t1", connections, "-d1000000s", "--timeout", "2s", f"http://{VIP}/"]
            self.wrk = Process(self.lab.cl.inside(argv), self.lab.folder / "wrk.log", self.lab.cl.core)
            self.lab.processes.append(self.wrk)
        self.wait("no service", lambda: self.calm(settle), 30)
        if self.owners.now() != {first}:
            raise Failure(f"the address is on {self.owners.now()} before anything is broken")
        pids = self.lab.boxes[first].pids()
        before, stolen = cpu_ns(pids), steal()
        time.sleep(1)
        self.notes["busy_percent"] = round((cpu_ns(pids) - before) / 1e7, 1)
        self.steal = stolen
        time.sleep(self.phase * self.setting.period)

    def wait(self, what, until, limit):
        deadline = time.monotonic() + limit
        while not until():
            ended = [product.box.name for product in self.boxes.values() if product.main and not product.main.alive()]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(product.log_tail() for product in self.boxes.values())
                raise Failure(f"{what}{f', {ended} ended' if ended else ''}\n{logs}")
            time.sleep(0.02)

    def calm(self, seconds):
        """Whether probes have succeeded without an outage for so long, until now."""
        good = sorted(r.end for r in self.prober.read()[-4000:] if r.ok and r.kind == "p")
        now = last = time.time()
        for end in reversed(good):
            # Results take a moment to get here.
            if last - end > self.outage * (2 if last == now else 1) + PERIOD:
                return False
            if now - end > seconds:
                return True
            last = end
        return False

    def fault(self, action, *arguments):
        """Its time is taken before, so that a slow command counts against the product."""
        self.at = time.time()
        result = action(*arguments)
        self.notes["command_ms"] = round((time.time() - self.at) * 1e3, 1)
        return result

    def watch(self, least, limit, calm=1.0, until=lambda: True):
        """From the fault on: until service is steady and `until` holds, between `least` and `limit` seconds."""
        while (passed := time.time() - self.at) < limit:
            for product in self.boxes.values():
                product.reap()
            if passed >= least and self.calm(calm) and until():
                break
            time.sleep(0.05)
        self.until = time.time()

    def end(self):
        self.notes["steal_ms"] = round((steal() - self.steal) * 1e3)
        if self.wrk:
            self.wrk.kill()
        self.traffic = self.prober.finish(self.outage)
        self.adverts, self.announcements = self.wire.finish()
        self.intervals = self.owners.intervals(self.at, self.until, self.dead)

    def clear(self):
        """Whatever has happened: nothing of the run goes on."""
        for process in (self.wrk, self.prober and self.prober.process, self.wire and self.wire.process):
            if process:
                process.kill()
        for box in self.lab.boxes.values():
            with contextlib.suppress(Failure):
                box.kill_all()
        for product in self.boxes.values():
            product.kill()

    # --- what it showed ---------------------------------------------------------------------------------------------

    def gap(self, since=None):
        since = since or self.at
        return math.inf if self.settled(since) == math.inf else self.traffic.gap(since, self.until) * 1e3

    def settled(self, since=None):
        return self.traffic.settled(since or self.at, self.until) * 1e3

    def failed(self):
        return sum(self.traffic.failures(self.at).values())

    def held(self, wanted, since=0.0):
        """ms in which exactly the boxes `wanted` held the address, or so many."""
        return 1e3 * sum(
            end - max(begin, since)
            for begin, end, holders in self.intervals
            if end > since and (len(holders) if isinstance(wanted, int) else holders) == wanted
        )

    def moves(self):
        """Times that a box got the address."""
        sets = [holders for _, _, holders in self.intervals]
        return sum(len(after - before) for before, after in zip(sets, sets[1:]))

    def moved(self):
        """ms until the other box had the address."""
        return next(((begin - self.at) * 1e3 for begin, _, holders in self.intervals if "lb2" in holders), math.inf)

    def adverts_of(self, name):
        return [a for a in self.adverts if a.source == FRONT[name] and self.at <= a.at <= self.until]

    def evidence(self):
        """What every run has, for whoever doubts a number."""
        return self.notes | {
            "at": self.at,
            "watched_ms": round((self.until - self.at) * 1e3),
            "prober_late_ms": round(self.traffic.stall(self.at, self.until) * 1e3, 1),
            "failures": self.traffic.failures(self.at),
            "slowest_ms": round(self.traffic.slowest(self.at) * 1e3, 1),
            "probes": len(self.traffic.probes),
            "busy_requests": len(self.traffic.busy),
            "bad_adverts": sum(not advert.sound for advert in self.adverts),
            "holders": [
                [round((begin - self.at) * 1e3, 1), round((end - self.at) * 1e3, 1), sorted(holders)]
                for begin, end, holders in self.intervals
            ],
            "adverts": [
                [round((a.at - self.at) * 1e3, 1), a.source, a.priority] for a in edges(self.adverts)
            ],
            "announced": [[round((a.at - self.at) * 1e3, 1), a.mac] for a in self.announcements if a.at >= self.at],
        }


def edges(adverts):
    """Of each sender's series at one priority, the first and the last."""
    keep, last = [], {}
    for index, advert in enumerate(adverts):
        previous = last.get(advert.source)
        if previous is None or adverts[previous].priority != advert.priority:
            keep += [index] if previous is None else [previous, index]
        last[advert.source] = index
    return [adverts[index] for index in sorted({*keep, *last.values()})]


# --- the cases ------------------------------------------------------------------------------------------------------


def box_dies(run):
    run.begin()
    run.dead["lb1"] = time.time()
    run.fault(run.lab.die, "lb1")
    run.watch(run.setting.master_down + 0.3, run.setting.master_down + 10)
    run.end()
    return {"gap": run.gap()}


def link_cut(run):
    run.begin()
    run.fault(run.lab.cut, "lb1")
    run.watch(run.setting.master_down + 0.3, run.setting.master_down + 10)
    run.end()
    return {"gap": run.gap()}


def planned(run, action):
    run.begin(busy=BUSY)
    then = run.fault(action)
    # A product may drain first.
    run.watch(1.0, 15, until=lambda: run.owners.now() == {"lb2"})
    if then:
        then()
        time.sleep(0.2)
    run.end()
    announced = [a.at for a in run.announcements if a.at >= run.at and a.mac == run.lab.boxes["lb2"].mac]
    return {
        "gap": run.gap(),
        "failed": run.failed(),
        "unanswered": run.traffic.unanswered(run.at, min(announced, default=math.inf)),
        "both": run.held(2),
    }


def planned_stop(run):
    return planned(run, run.lb1.stop)


def handover(run):
    return planned(run, run.lb1.handover)


def soak(run):
    run.begin()
    run.at = time.time()
    run.watch(run.lab.options.soak, run.lab.options.soak + 1)
    run.end()
    return {"moves": run.moves(), "elections": len(run.adverts_of("lb2")), "gap": run.gap(), "failed": run.failed()}


def proxy_killed(run):
    run.begin()
    run.fault(run.lb1.signal_proxy, signal.SIGKILL)
    run.watch(1.5, 12)
    run.end()
    refused = run.traffic.failures(run.at).get("refused", 0)
    return {"gap": run.gap(), "refused": refused, "moves": run.moves()}


def proxy_hung(run):
    run.begin()
    run.fault(run.lb1.signal_proxy, signal.SIGSTOP)
    run.watch(1.5, 10)
    run.end()
    return {"back": run.settled()}


def backend_lost(run):
    run.begin()
    run.fault(run.lab.silence, "lb1", "b")
    run.watch(2.0, 10)
    run.end()
    return {"moved": run.moved(), "back": run.settled()}


def supervisor_killed(run):
    run.begin()
    run.fault(send, run.lb1.supervisor_pid(), signal.SIGKILL)
    run.watch(run.setting.master_down + 1, run.setting.master_down + 6)
    # Its proxy is its own process with keepalived.
    left = run.lb1.named("keepalived" if run.lb1.name == "keepalived" else "bascule.*")
    run.end()
    return {"gap": run.gap(), "both": run.held(2), "left": len(left)}


def vrrp_killed(run):
    run.begin()
    run.fault(send, run.lb1.vrrp_pid(), signal.SIGKILL)
    run.watch(run.setting.master_down + 1, run.setting.master_down + 6)
    run.end()
    return {"gap": run.gap(), "elections": len(run.adverts_of("lb2"))}


def master_returns(run):
    run.begin(start=("lb2",), busy=BUSY)
    run.fault(run.lb1.start)
    run.watch(1.0, run.setting.master_down + 15, until=lambda: run.owners.now() == {"lb1"})
    run.end()
    if run.owners.now() != {"lb1"}:
        raise Failure(f"the address did not come back but is on {run.owners.now()}")
    return {"gap": run.gap(), "failed": run.failed(), "both": run.held(2)}


def master_returns_never(run):
    run.begin(start=("lb2",), busy=BUSY)
    run.fault(run.lb1.start)
    run.watch(run.setting.master_down + 4, run.setting.master_down + 5)
    run.end()
    return {"moves": run.moves(), "gap": run.gap(), "failed": run.failed()}


def partition(run, break_it, heal):
    run.begin()
    run.at = begun = time.time()
    break_it()
    run.wait("no second owner", lambda: len(run.owners.now()) == 2, run.setting.master_down + 5)
    # Past the announcements that follow a promotion.
    time.sleep(run.lab.options.partition + run.phase * run.setting.interval)
    # The winner will be lb1.
    run.lab.make_stale("lb2")
    run.wait("no service from lb2", lambda: run.calm(0.5), 5)
    run.fault(heal)
    run.watch(3 * run.setting.interval + 1, 75, calm=3.0, until=lambda: len(run.owners.now()) == 1)
    run.end()
    before = run.owners.intervals(begun, run.at)
    run.notes["both_while_partitioned_ms"] = round(1e3 * sum(e - b for b, e, who in before if len(who) == 2))
    return {"both": run.held(2), "reached": run.settled(), "gap": run.gap()}


def adverts_lost(run):
    return partition(run, run.lab.drop_adverts, run.lab.pass_adverts)


def one_way(run):
    return partition(run, lambda: run.lab.drop_adverts("lb1"), run.lab.pass_adverts)


def switch_drops(run):
    return partition(run, lambda: run.lab.silence("lb1"), lambda: run.lab.replug("lb1"))


def vip_added(run):
    run.begin()
    run.lb1.setting = dataclasses.replace(run.setting, second_vip=True)
    run.fault(run.lb1.reload)
    run.watch(run.setting.master_down + 3, run.setting.master_down + 4)
    run.end()
    return {"both": run.held(2), "elections": len(run.adverts_of("lb2")), "gap": run.gap()}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. `bar` is for the worst run, `median` for the median; without them it is information."""

    metric: str
    label: str
    bar: Callable[[Setting], float] | None = None
    median: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    what: str
    run: Callable[[Run], dict]
    rows: list[Row]
    intervals: tuple = (1.0,)
    runs: int = 10
    loads: tuple = ("idle", "saturated")
    setting: dict = dataclasses.field(default_factory=dict)
    # keepalived's ways to watch nginx; bascule needs none.
    checks: tuple = ("fault",)
    pairs: tuple = ("bascule", "keepalived")


def at_most(number):
    return lambda _: number


def death_bar(setting):
    return 1e3 * (setting.master_down + ALLOWANCE)


def backend_bar(setting):
    """A server is down after `fall` failures: the first check is up to an interval late, all take their timeout."""
    return 1e3 * (CHECK_INTERVAL * (1 + CHECK_FALL) + setting.skew + ALLOWANCE)


def one_advert(setting):
    return 1e3 * setting.interval


GAP = "gap, ms"
BOTH = "on both boxes, ms"
PLANNED = [Row("gap", GAP, at_most(50), median=20), Row("failed", "failed requests", at_most(0)), Row("both", BOTH)]
HEALED = [
    Row("both", "after the heal on both boxes, ms", one_advert),
    Row("reached", "after the heal until a stale client is served for good, ms", one_advert),
]
FAST = (1.0, 0.1, 0.03)

CASES = {
    "dies": Case("box dies", box_dies, [Row("gap", GAP, death_bar)], FAST, 30),
    "cut": Case("link cut", link_cut, [Row("gap", GAP, death_bar)], FAST, 30),
    "stop": Case("planned stop", planned_stop, PLANNED, runs=30),
    "handover": Case("handover command", handover, PLANNED, runs=30),
    "stop_mixed": Case(
        "planned stop, to keepalived",
        planned_stop,
        [Row("unanswered", "requests sent before its ARP and failed", at_most(0)), Row("gap", GAP)],
        pairs=("mixed",),
    ),
    "handover_mixed": Case(
        "handover command, to keepalived",
        handover,
        [Row("unanswered", "requests sent before its ARP and failed", at_most(0)), Row("gap", GAP)],
        pairs=("mixed",),
    ),
    "soak": Case(
        "nothing broken, proxy saturated",
        soak,
        [
            Row("moves", "false failovers", at_most(0)),
            Row("elections", "adverts of the backup", at_most(0)),
            Row("gap", GAP),
            Row("failed", "failed requests"),
        ],
        (0.1, 0.03),
        1,
        loads=("saturated",),
    ),
    "proxy_kill": Case(
        "proxy kill -9",
        proxy_killed,
        [
            Row("gap", GAP, at_most(100)),
            Row("refused", "connections refused", at_most(0)),
            Row("moves", "moves", at_most(0)),
        ],
        checks=("fault", "weight", "plus"),
    ),
    "proxy_hang": Case(
        "proxy hung",
        proxy_hung,
        [Row("back", "until service is back, ms", at_most(700))],
        checks=("fault", "http"),
    ),
    "backend": Case(
        "back-end network of the master lost",
        backend_lost,
        [Row("moved", "until the address moved, ms", backend_bar), Row("back", "until service is back, ms")],
    ),
    "supervisor_kill": Case(
        "supervisor kill -9",
        supervisor_killed,
        [
            Row("gap", GAP, at_most(50)),
            # 100 ms beyond the handover, whose linger is 200 ms.
            Row("both", BOTH, at_most(300)),
            Row("left", "processes left behind", at_most(0)),
        ],
    ),
    "vrrp_kill": Case(
        "vrrp process kill -9",
        vrrp_killed,
        [Row("gap", GAP, at_most(50)), Row("elections", "adverts of the backup", at_most(0))],
        intervals=(1.0, 0.1),
    ),
    "return": Case(
        "master returns",
        master_returns,
        [Row("gap", GAP, at_most(20)), Row("failed", "failed requests"), Row("both", BOTH)],
        setting={"preempt": "when_ready"},
    ),
    "return_never": Case(
        "master returns, preempt never",
        master_returns_never,
        [Row("moves", "moves", at_most(0)), Row("gap", GAP, at_most(20))],
        setting={"preempt": "never"},
    ),
    "adverts_lost": Case("adverts lost both ways, then heal", adverts_lost, HEALED, loads=("idle",)),
    "one_way": Case("adverts lost from the master, then heal", one_way, HEALED, loads=("idle",)),
    "switch": Case("switch drops the master's port silently, then heal", switch_drops, HEALED, loads=("idle",)),
    "vip_added": Case(
        "an address added on one box first",
        vip_added,
        [Row("both", BOTH, at_most(0)), Row("elections", "adverts of the backup", at_most(0))],
        loads=("idle",),
    ),
}

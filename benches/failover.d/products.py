"""What is put on the boxes, set up as an operator would who cares about failover."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time

from lab import SECOND_VIP, SERVER_PORT, SERVERS, VIP, Failure, Process, process_state, send

ROUTER = 51
# How a server is found dead, by bascule's health checks.
CHECK_INTERVAL, CHECK_FALL = 0.2, 2


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a case wants of both boxes."""

    interval: float = 1.0
    version: int = 3
    # never | when_ready | immediate; keepalived knows no `when_ready` and takes it for the last.
    preempt: str = "immediate"
    # How keepalived watches nginx, see CHECKS.
    check: str = "fault"
    second_vip: bool = False
    priority: int | None = None

    @property
    def skew(self):
        """Of the backup. Version 2 has it in whole seconds' parts whatever the interval is."""
        return (256 - 100) / 256 * (self.interval if self.version == 3 else 1.0)

    @property
    def master_down(self):
        return 3 * self.interval + self.skew

    @property
    def period(self):
        """After which everything that a box does regularly repeats."""
        return max(self.interval, CHECKS[self.check].interval)

    @property
    def addresses(self):
        return [VIP, SECOND_VIP] if self.second_vip else [VIP]


@dataclasses.dataclass(frozen=True)
class Check:
    """A keepalived vrrp_script: its numbers, and what follows from them for the instance."""

    script: str
    interval: float
    options: str
    base: dict
    version: int | None = None
    unicast: bool = False


# As `pidof nginx`, but for the nginx of this box.
RUNS = 'kill -0 "$(cat {folder}/nginx.pid)"'
# What people write who have met a hung nginx.
ANSWERS = f"curl -sf -m 1 -o /dev/null -H 'Host: check' http://{{address}}/"
EQUAL = {"lb1": 150, "lb2": 100}
CHECKS = {
    "fault": Check(RUNS, 1, "fall 2\n  weight 0", EQUAL),
    "weight": Check(RUNS, 1, "fall 2\n  weight -60", EQUAL, version=2),
    "plus": Check(RUNS, 3, "weight 50", {"lb1": 101, "lb2": 100}, unicast=True),
    "http": Check(ANSWERS, 1, "timeout 1\n  fall 2\n  weight 0", EQUAL),
}


class Product:
    """What runs on one box. `main` is what an operator would start and stop."""

    def __init__(self, box, setting, options):
        self.box, self.setting, self.options = box, setting, options
        self.processes, self.main = [], None

    def clean(self):
        """What the last run left in the box's folder."""
        for path in self.box.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def spawn(self, argv, log):
        process = Process(self.box.inside(argv), self.box.folder / log, core=self.box.core)
        self.processes.append(process)
        return process

    def command(self, argv):
        """A command line tool, started and not waited for; reaped at the end."""
        self.spawn(argv, "commands.log")

    def named(self, pattern):
        """Processes of the box whose name matches."""
        found = []
        for pid in self.box.pids():
            state = process_state(pid)
            if state and re.fullmatch(pattern, state[0]) and state[1] not in "ZX":
                found.append(pid)
        return found

    def signal_proxy(self, number):
        pids = self.proxy_pids()
        if not pids:
            raise Failure(f"{self.box.name}: no proxy runs")
        for pid in pids:
            send(pid, number)

    def log_tail(self):
        return "\n".join(
            f"--- {self.box.name} {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted({process.log for process in self.processes})
        )

    def reap(self):
        """As init would: a zombie's pid still answers to `kill -0`."""
        for process in self.processes:
            process.alive()

    def kill(self):
        """What was started here; what came of it is in the box's namespace."""
        for process in self.processes:
            process.kill()


class Keepalived(Product):
    """nginx, and keepalived from Debian."""

    name = "keepalived"

    def configure(self):
        box, setting, check = self.box, self.setting, CHECKS[self.setting.check]
        servers = "".join(f"server {address}:{SERVER_PORT} max_fails=3 fail_timeout=1s; " for address in SERVERS)
        (box.folder / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
pid {box.folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  proxy_temp_path {box.folder}/proxy;
  client_body_temp_path {box.folder}/body;
  keepalive_requests 1000000000;
  upstream web {{ {servers} keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 0.0.0.0:80 backlog=4096;
    add_header X-Box {box.name} always;
    location / {{
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_connect_timeout 1s;
    }}
  }}
}}
""")
        script = box.folder / "check.sh"
        script.write_text("#!/bin/sh\n" + check.script.format(folder=box.folder, address=box.address) + "\n")
        script.chmod(0o755)
        interval = f"{setting.interval:g}"
        unicast = f"unicast_src_ip {box.address}\n  unicast_peer {{ {box.peer_address} }}" if check.unicast else ""
        addresses = "\n    ".join(f"{address}/24" for address in setting.addresses)
        (box.folder / "keepalived.conf").write_text(f"""
global_defs {{
  router_id {box.name}
  script_user root
  vrrp_version {check.version or setting.version}
}}
vrrp_script check {{
  script "{script}"
  interval {check.interval}
  {check.options}
}}
vrrp_instance VI_1 {{
  state BACKUP
  interface eth0
  virtual_router_id {ROUTER}
  priority {setting.priority or check.base[box.name]}
  advert_int {interval}
  {"nopreempt" if setting.preempt == "never" else ""}
  {unicast}
  virtual_ipaddress {{
    {addresses}
  }}
  track_script {{ check }}
}}
""")

    def start(self):
        self.clean()
        self.configure()
        folder = self.box.folder
        self.nginx = self.spawn(["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"], "nginx.log")
        # The check must not find nginx missing.
        deadline = time.monotonic() + 5
        while not (folder / "nginx.pid").exists() or not (folder / "nginx.pid").read_text():
            if time.monotonic() > deadline:
                raise Failure(self.log_tail())
            time.sleep(0.01)
        pids = ["-p", folder / "keepalived.pid", "-r", folder / "vrrp.pid"]
        # Where no syslog listens, syslog(3) writes to the console, which takes milliseconds a line on a serial one.
        argv = ["keepalived", "--dont-fork", "--no-syslog", "--log-console", "--vrrp", *pids]
        self.main = self.spawn([*argv, "-f", folder / "keepalived.conf"], "keepalived.log")

    def stop(self):
        """keepalived first, so that the other box takes over from one that still serves."""
        self.main.signal(signal.SIGTERM)

        def then():
            try:
                self.main.child.wait(2)
            except subprocess.TimeoutExpired:
                pass
            self.nginx.signal(signal.SIGQUIT)

        return then

    def reload(self):
        self.configure()
        self.main.signal(signal.SIGHUP)

    def handover(self):
        """keepalived has no command for it: what people do is to lower the priority."""
        self.setting = dataclasses.replace(self.setting, priority=50)
        self.reload()

    def proxy_pids(self):
        return self.named("nginx")

    def supervisor_pid(self):
        return self.main.pid

    def vrrp_pid(self):
        return int((self.box.folder / "vrrp.pid").read_text())


class Bascule(Product):
    name = "bascule"

    def configure(self):
        box, setting = self.box, self.setting
        quoted = ", ".join(f'"{address}:{SERVER_PORT}"' for address in SERVERS)
        addresses = ", ".join(f'"{address}/24"' for address in setting.addresses)
        interval = f"{setting.interval * 1e3:g}ms"
        millis = f"{CHECK_INTERVAL * 1e3:g}ms"
        self.file = box.folder / "bascule.toml"
        self.file.write_text(f"""
[global]
workers = 1
run_dir = "{box.folder}/run"
proxy_watchdog = "500ms"
{'user = "nobody"' if os.geteuid() == 0 else ""}

[listener.http]
bind = ["{VIP}:80"]
keepalive_requests = 1000000000
[[listener.http.route]]
pool = "web"
response_headers = {{ set = {{ X-Box = "{box.name}" }} }}

[pool.web]
servers = [{quoted}]
connect_timeout = "1s"
max_fails = 3
fail_timeout = "1s"
keepalive = 128
keepalive_requests = 1000000000


[pool.web.health_check]
type = "http"
path = "/"
interval = "{millis}"
timeout = "{millis}"
rise = 1
fall = {CHECK_FALL}

[vrrp.VI_1]
interface = "eth0"
virtual_router_id = {ROUTER}
version = {setting.version}
priority = {setting.priority or box.priority}
advert_interval = "{interval}"
virtual_addresses = [{addresses}]
preempt = "{setting.preempt}"
preempt_delay = "1s"
track_pools = ["web"]
""")

    def tool(self, *words):
        return [self.options.bascule, *words, "-c", self.file]

    def start(self):
        self.clean()
        self.configure()
        self.main = self.spawn([*self.tool("run"), "--node", self.box.name], "bascule.log")

    def stop(self):
        self.command(self.tool("stop"))

    def reload(self):
        self.configure()
        self.command(self.tool("reload"))

    def handover(self):
        self.command(self.tool("vrrp", "handover"))

    def proxy_pids(self):
        return self.named("bascule-proxy")

    def supervisor_pid(self):
        return self.main.pid

    def vrrp_pid(self):
        pids = self.named("bascule-vrrp")
        if len(pids) != 1:
            raise Failure(f"{self.box.name}: not one bascule-vrrp but {len(pids)}")
        return pids[0]


# Which product is on which box. `mixed` is a pair in the middle of a migration.
PAIRS = {
    "bascule": {"lb1": Bascule, "lb2": Bascule},
    "keepalived": {"lb1": Keepalived, "lb2": Keepalived},
    "mixed": {"lb1": Bascule, "lb2": Keepalived},
}

"""How each product is set up: as an operator who cares would do it, and for the same work."""

import dataclasses
import os
import pathlib

# Of `idle`; every product has to allow so many.
IDLE_CONNECTIONS = 9000


@dataclasses.dataclass
class Setting:
    """What a product's configuration depends on."""

    folder: pathlib.Path
    http: int
    tcp: int
    https: int
    pem: pathlib.Path
    origin: int
    log: bool
    bascule: pathlib.Path
    descriptors: int
    routes: int = 0


def nginx_modules():
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    return f"load_module {module};" if os.path.exists(module) else ""


def nginx(setting):
    """nginx as an operator who cares would set it up. Buffered logs, as every other product has them."""
    log = f"{setting.folder}/access.log combined buffer=32k flush=1s" if setting.log else "off"
    (setting.folder / "nginx.conf").write_text(f"""
{nginx_modules()}
daemon off;
worker_processes 1;
worker_rlimit_nofile {setting.descriptors};
pid {setting.folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {IDLE_CONNECTIONS + 1000}; multi_accept on; }}
http {{
  access_log {log};
  client_body_temp_path {setting.folder}/body;
  client_body_buffer_size 64k;
  proxy_temp_path {setting.folder}/proxy;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  upstream origin {{
    server 127.0.0.1:{setting.origin};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{setting.http} backlog=4096;
    listen 127.0.0.1:{setting.https} ssl http2 backlog=4096;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate {setting.pem};
    ssl_certificate_key {setting.pem};
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
    }}
  }}
}}
stream {{
  log_format session '$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time';
  access_log {log.replace(" combined", " session").replace("access.log", "tcp.log")};
  upstream tcp_origin {{ server 127.0.0.1:{setting.origin}; }}
  server {{ listen 127.0.0.1:{setting.tcp} backlog=4096; proxy_pass tcp_origin; }}
}}
""")
    return ["nginx", "-e", "stderr", "-p", str(setting.folder), "-c", str(setting.folder / "nginx.conf")]


def haproxy(setting):
    # Its standard output is a file here.
    log = "log stdout format raw local0" if setting.log else ""
    http_log, tcp_log = ("option httplog\n  log global", "option tcplog\n  log global") if setting.log else ("", "")
    (setting.folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn {IDLE_CONNECTIONS + 500}
  maxpipes 256
  {log}
defaults
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  timeout http-keep-alive 75s
frontend web
  mode http
  {http_log}
  bind 127.0.0.1:{setting.http} backlog 4096
  bind 127.0.0.1:{setting.https} backlog 4096 ssl crt {setting.pem} alpn h2,http/1.1
  default_backend origin
backend origin
  mode http
  server origin 127.0.0.1:{setting.origin}
frontend tcp
  mode tcp
  {tcp_log}
  option splice-auto
  bind 127.0.0.1:{setting.tcp} backlog 4096
  default_backend tcp_origin
backend tcp_origin
  mode tcp
  option splice-auto
  server origin 127.0.0.1:{setting.origin}
""")
    return ["haproxy", "-db", "-f", str(setting.folder / "haproxy.cfg")]


def bascule(setting):
    """The same work as the others': no fields added to requests that they do not add."""
    log = f'[access_log]\npath = "{setting.folder}/access.log"\nformat = "combined"\n' if setting.log else ""
    routes = "".join(
        f'[[listener.web.route]]\npath = "/route{number:05}"\npool = "origin"\n' for number in range(setting.routes)
    )
    (setting.folder / "bascule.toml").write_text(f"""
[global]
workers = 1
run_dir = "{setting.folder}/run"
{'user = "nobody"' if os.geteuid() == 0 else ""}

{log}
[defaults.site]
x_forwarded = false
request_id = false

[listener.web]
bind = ["127.0.0.1:{setting.http}"]
keepalive_requests = 1000000000
{"" if routes else 'pool = "origin"'}

{routes}
[listener.secure]
bind = ["127.0.0.1:{setting.https}"]
keepalive_requests = 1000000000
pool = "origin"
tls = {{ certificates = ["{setting.pem}"] }}

[listener.tcp]
bind = ["127.0.0.1:{setting.tcp}"]
protocol = "tcp"
pool = "origin"

[pool.origin]
servers = ["127.0.0.1:{setting.origin}"]
keepalive = 128
keepalive_requests = 1000000000
""")
    return [str(setting.bascule), "run", "-c", str(setting.folder / "bascule.toml")]


PRODUCTS = {"nginx": nginx, "haproxy": haproxy, "bascule": bascule}


def nginx_origin(folder, port, descriptors):
    """nginx as the origin, for those who trust no origin of ours."""
    folder.mkdir()
    folder.chmod(0o755)
    for name, length in [("16k", 16 << 10), ("1m", 1 << 20)]:
        (folder / name).write_bytes(b"x" * length)
    (folder / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {IDLE_CONNECTIONS + 1000}; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  client_body_buffer_size 64k;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  sendfile on;
  open_file_cache max=16;
  root {folder};
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "{"x" * 99}\\n"; }}
    location = /16k {{ }}
    location = /1m {{ }}
  }}
}}
""")
    return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]

#!/usr/bin/env python3
"""What `sublet route` costs a request, beside nginx and haproxy, in one run.

Four engines that take no time (instant_upstream) stand behind each proxy in turn. wrk sends chat
requests of several sizes, over 1 and 64 connections, answered whole and streamed: directly to an
engine, through nginx, through haproxy, and through `sublet route` with the policy `cost`. All keep
connections alive on both sides, log nothing, and have one thread, which has a processor of its
own; wrk and the engines share the others. Each combination is measured several times, in turns, and
the medians are shown; ratios are within a repetition.

    requests a second    of the proxy, with 64 connections as fast as its thread goes
    added                median and 99th percentile over those of going directly
    processor            milliseconds of the proxy's processes for 1,000 requests
    memory               resident, of the proxy's processes, at the end

The figures are also written as JSON (--benchmark_out). A run of the tests measures one combination,
briefly, so that none of this rots.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE.parents[2] / "build/bin"
BODIES = [200, 2 << 10, 16 << 10, 128 << 10, 1 << 20]
CONNECTIONS = [1, 64]
PROXIES = ["nginx", "haproxy", "sublet"]
UPSTREAMS = 4

NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 64m;
  client_body_buffer_size 2m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream engines {{
    {servers}
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

HAPROXY = """\
global
  nbthread 1
  maxconn 8192
  tune.bufsize 32768
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout client 30s
  timeout server 30s
  timeout connect 5s
frontend clients
  bind 127.0.0.1:{port}
  default_backend engines
backend engines
  balance roundrobin
  {servers}
"""

ROUTE = """\
version: sublet.route/v1
listen: {{address: 127.0.0.1, port: {port}}}
threads: 1
policy: cost
replicas:
{servers}
"""


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processors():
    """One for the proxy, the others for the rest; all for all where there is one."""
    all_of_them = sorted(os.sched_getaffinity(0))
    return (set(all_of_them[-1:]), set(all_of_them[:-1] or all_of_them))


class Proxy:
    """A proxy that runs, and what it has used."""

    def __init__(self, name, port, process):
        self.name, self.port, self.process = name, port, process

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid] + [int(pid) for pid in children.read_text().split()]

    def processor_seconds(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def resident_mib(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/statm").read_text().split()
            total += int(fields[1])
        return total * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def await_port(port, process, path="/"):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).read()
            return
        time.sleep(0.02)
    raise SystemExit(f"{process.args[0]} doesn't answer")


def start(stack, cpus, command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: os.sched_setaffinity(0, cpus))

    def end():
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    stack.callback(end)
    return process


def start_proxy(stack, name, ports, folder, options, cpus):
    port = free_port()
    if name == "nginx":
        servers = " ".join(f"server 127.0.0.1:{each};" for each in ports)
        text, command = NGINX, [options.nginx, "-c", folder / "nginx.conf", "-p", folder]
    elif name == "haproxy":
        servers = "\n  ".join(f"server engine{each} 127.0.0.1:{each}" for each in ports)
        text, command = HAPROXY, [options.haproxy, "-f", folder / "haproxy.conf", "-q"]
    else:
        servers = "\n".join(f"  - {{name: engine-{each}, url: 'http://127.0.0.1:{each}', "
                            f"models: [demo]}}" for each in ports)
        text, command = ROUTE, [options.sublet, "route", "--config", folder / "sublet.conf"]
    (folder / f"{name}.conf").write_text(
        text.format(folder=folder, port=port, servers=servers))
    process = start(stack, cpus, [str(word) for word in command])
    await_port(port, process, "/ready" if name == "sublet" else "/")
    return Proxy(name, port, process)


def load(port, body, connections, stream, seconds, cpus):
    environment = dict(os.environ, SUBLET_BODY=str(body), SUBLET_STREAM="1" if stream else "0")
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s",
         str(HERE / "load.lua"), f"http://127.0.0.1:{port}/v1/chat/completions"],
        env=environment, capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    seen["requests_per_s"] = seen["requests"] / seen["seconds"]
    return seen


def measure(targets, proxies, cell, options, cpus):
    """One repetition of one combination: each target after the other."""
    seen = {}
    for name, port in targets.items():
        proxy = proxies.get(name)
        before = proxy.processor_seconds() if proxy else 0
        seen[name] = load(port, *cell, options.seconds, cpus)
        if proxy and seen[name]["requests"]:
            spent = proxy.processor_seconds() - before
            seen[name]["cpu_ms_per_1000"] = spent * 1e6 / seen[name]["requests"]
            seen[name]["resident_mib"] = proxy.resident_mib()
    return seen


def of_cell(cell, repetitions):
    """Medians, and ratios within a repetition."""
    body, connections, stream = cell
    row = {"body": body, "connections": connections, "stream": stream, "by": {}}
    for name in repetitions[0]:
        row["by"][name] = {key: statistics.median(each[name][key] for each in repetitions)
                           for key in repetitions[0][name]}
        row["by"][name]["errors"] = sum(each[name]["errors"] for each in repetitions)
        for key in ("p50_us", "p99_us"):
            row["by"][name]["added_" + key] = statistics.median(
                each[name][key] - each["direct"][key] for each in repetitions)
    for peer in ("nginx", "haproxy"):
        if peer in row["by"] and "sublet" in row["by"]:
            row[f"to_{peer}"] = statistics.median(
                each["sublet"]["requests_per_s"] / each[peer]["requests_per_s"]
                for each in repetitions)
    return row


def size_name(size):
    return f"{size} B" if size < 1024 else f"{size >> 10} KiB" if size < 1 << 20 else "1 MiB"


def show(row):
    by = row["by"]
    what = f"{size_name(row['body']):>8} {row['connections']:>3} {'sse' if row['stream'] else ''}"
    cells = [f"{by[name]['requests_per_s']:>9,.0f}" for name in ("direct", *PROXIES) if name in by]
    cells.append(f"{row.get('to_nginx', 0):>7.2f}")
    for name in PROXIES:
        if name in by:
            cells.append(f"{by[name]['added_p50_us']:>6.0f}/{by[name]['added_p99_us']:<6.0f}")
    for name in PROXIES:
        if name in by:
            cells.append(f"{by[name]['cpu_ms_per_1000']:>6.1f}")
    errors = sum(each["errors"] for each in by.values())
    print(f"{what:<17}" + " ".join(cells) + (f"  {errors} errors" if errors else ""), flush=True)


def heading(names):
    print(f"{'':<17}" + "requests a second".ljust(10 * (len(names) + 1)) + "sublet  "
          + "added us, p50/p99".ljust(14 * len(names)) + "ms of processor, 1,000 requests")
    print(f"{'body, connections':<17}" + " ".join(f"{name:>9}" for name in ("direct", *names))
          + " /nginx " + " ".join(f"{name:^13}" for name in names) + " "
          + " ".join(f"{name:>6.6}" for name in names))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sublet", default=str(PROGRAMS / "sublet"))
    add("--upstream", default=str(PROGRAMS / "instant_upstream"))
    add("--nginx", default="/usr/sbin/nginx")
    add("--haproxy", default="/usr/sbin/haproxy")
    add("--proxies", default=",".join(PROXIES))
    add("--bodies", default=",".join(map(str, BODIES)))
    add("--connections", default=",".join(map(str, CONNECTIONS)))
    add("--stream", choices=["no", "yes", "both"], default="both")
    add("--seconds", type=int, default=2, help="of each load")
    add("--repetitions", type=int, default=3)
    add("--benchmark_out", default="", help="a file for the figures as JSON")
    # ./dev bench says this to every benchmark.
    add("--benchmark_counters_tabular", help=argparse.SUPPRESS)
    add("--benchmark_out_format", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.proxies = [name for name in options.proxies.split(",") if name]
    return options


def main():
    options = parse()
    proxy_cpus, other_cpus = processors()
    streams = {"no": [False], "yes": [True], "both": [False, True]}[options.stream]
    cells = [(int(body), int(connections), stream) for stream in streams
             for body in options.bodies.split(",")
             for connections in options.connections.split(",")]
    rows = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = start(stack, other_cpus, [options.upstream, str(UPSTREAMS)])
        ports = [int(port) for port in upstream.stdout.readline().split()]
        proxies = {name: start_proxy(stack, name, ports, folder, options, proxy_cpus)
                   for name in options.proxies}
        targets = {"direct": ports[0]} | {name: each.port for name, each in proxies.items()}
        heading(options.proxies)
        for cell in cells:
            rows.append(of_cell(cell, [measure(targets, proxies, cell, options, other_cpus)
                                       for _ in range(options.repetitions)]))
            show(rows[-1])
        print("resident MiB  " + "  ".join(f"{name} {each.resident_mib():.1f}"
                                           for name, each in proxies.items()))
    if options.benchmark_out:
        pathlib.Path(options.benchmark_out).write_text(json.dumps(
            {"processors": [sorted(proxy_cpus), sorted(other_cpus)], "rows": rows}, indent=1))
    wrong = sum(each["errors"] for row in rows for each in row["by"].values())
    if wrong:
        sys.exit(f"{wrong} requests were not answered well")


if __name__ == "__main__":
    main()

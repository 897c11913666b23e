#!/usr/bin/env python3
"""Forty encoders on one GPU: in turns, under plain MPS, and brought up by Sublet, in one run.

    prove_forty.py --sublet build/bin/sublet --output proof.json

For each way: starts forty copies of encoder_server.py, each of them busy all the time, waits until
all have done their first request, and measures one window of time (replicas.py). Then one fails:
it is killed in the midst of its work, it touches memory that isn't there, it takes all the memory
that it gets; each time it is written down which of the others noticed, and for how long.

    time-slicing   no MPS: the driver gives one process after the other its turn
    mps            one MPS control daemon with no limits, as its manual starts it
    sublet         sublet up forty-encoders.yaml, as it stands
    two-tenants    sublet up forty-encoders-two-tenants.yaml: two MPS servers

A word behind a dash varies one: `mps-spin`, `sublet-spin`: the encoders wait for the GPU without
sleeping, as PyTorch does by itself; `sublet-10`: under a cap of 10 % of the SMs instead of the
plan's. The failures are tried on the four without a variation.

Needs a GPU that nobody else uses, and PyTorch with CUDA for the python3 that is found.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

import replicas

HERE = pathlib.Path(__file__).resolve().parent
SERVER = HERE / "encoder_server.py"
PORTS = range(8200, 8240)
CULPRIT = 8207
NEIGHBOUR = 8213
SECOND_TENANT = range(8220, 8240)
WAYS = ["time-slicing", "mps", "sublet", "two-tenants", "sublet-10", "time-slicing-spin",
        "mps-spin", "sublet-spin"]
KINDS = ["time-slicing", "mps", "sublet", "two-tenants"]
SETTLE_SECONDS = 2
REPEATS = 3
HOLD_SECONDS = 3


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# ---- ways to run them ---------------------------------------------------------------------------


@contextlib.contextmanager
def plain(pipe_directory, spin):
    """Forty processes, started all at once; those that end stay ended."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("CUDA_MPS_")}
    environment["CUDA_MPS_PIPE_DIRECTORY"] = pipe_directory
    command = ["python3", str(SERVER), "--load", "--breakable"] + ["--spin"] * spin
    processes = [subprocess.Popen(command + ["--port", str(port)], env=environment,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                 for port in PORTS]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@contextlib.contextmanager
def plain_mps():
    """One control daemon without limits; yields its pipe directory."""
    with tempfile.TemporaryDirectory(prefix="plain-mps-") as folder:
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("CUDA_MPS_")}
        environment |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        control = ["nvidia-cuda-mps-control"]
        subprocess.run(control + ["-d"], env=environment, check=True)
        try:
            yield folder
        finally:
            subprocess.run(control, input="quit -t 2\n", text=True, env=environment, timeout=20,
                           check=False)


class Sublet:
    """The program, with a state and a socket of its own."""

    def __init__(self, program, folder):
        self._program = program
        self._environment = dict(os.environ, XDG_RUNTIME_DIR=f"{folder}/run",
                                 XDG_STATE_HOME=f"{folder}/state")
        os.makedirs(f"{folder}/run", mode=0o700, exist_ok=True)

    def call(self, *arguments):
        done = subprocess.run([self._program, *arguments], env=self._environment, check=False,
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"sublet {arguments[0]}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout

    @contextlib.contextmanager
    def up(self, file):
        self.call("up", "--json", str(file))
        try:
            yield
        finally:
            self.call("down")

    def events(self, after):
        lines = self.call("events", "--json", "--after", str(after)).splitlines()
        return [json.loads(line) for line in lines]

    def status(self):
        return json.loads(self.call("ps", "--json"))

    def write_plan(self, fleet, path, spin, sm_percent):
        """The plan of a fleet, varied."""
        self.call("plan", str(fleet), "--output", path)
        with open(path, encoding="utf-8") as file:
            plan = json.load(file)
        for workload in plan["workloads"]:
            workload["command"] = ["python3", str(SERVER), "--load", "--breakable"]
            workload["command"] += ["--spin"] * spin
        if sm_percent:
            for replica in plan["gpus"][0]["partitions"][0]["replicas"]:
                replica["sm_percent"] = sm_percent
                # The CUDA context grows with the cap, by less than 6 MiB a percent.
                replica["context_mib"] += 6 * sm_percent
                replica["memory_mib"] += 6 * sm_percent
        with open(path, "w", encoding="utf-8") as file:
            json.dump(plan, file)
        return path


# ---- what is measured ---------------------------------------------------------------------------


def measure(began, idle_mib, seconds):
    start_s = replicas.await_ready(PORTS, began)
    say(f"all ready after {start_s:.1f} s")
    time.sleep(SETTLE_SECONDS)
    result = replicas.measure_window(PORTS, seconds)
    result["start_s"] = start_s
    result["idle_memory_mib"] = idle_mib
    say(f"{result['requests_per_s']:.0f} a second, p50 {result['p50_ms']:.2f} ms, worst p99 "
        f"{result['p99_ms_worst']:.2f} ms, {result['gpu_memory_mib']} MiB")
    return result


def kill(port):
    os.kill(replicas.ask(port, "/")["pid"], signal.SIGKILL)


def touch_bad_memory(port):
    return replicas.ask(port, "/break", {"how": "fault"})


def take_all_memory(port):
    """It takes what it gets and holds it; meanwhile a neighbour asks for a little."""
    wish = {"how": "memory", "hold_s": HOLD_SECONDS}
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        culprit = pool.submit(replicas.ask, port, "/break", wish)
        time.sleep(HOLD_SECONDS / 2)
        neighbour = replicas.ask(NEIGHBOUR, "/break", {"how": "memory", "most_mib": 32})
        return {"culprit": culprit.result(), "neighbour": neighbour}


def failures(sublet):
    """Everything that goes wrong, from harmless to not."""
    yield "nothing", lambda: time.sleep(1)
    yield "memory", lambda: take_all_memory(CULPRIT)
    for number in range(REPEATS if sublet else 0):
        yield f"restart {number + 1}", lambda port=CULPRIT - number: sublet.call(
            "restart", replica_at(sublet, port))
    for number in range(REPEATS if sublet else 1):
        yield f"kill {number + 1}", lambda port=CULPRIT + 1 + number: kill(port)
    yield "fault", lambda: touch_bad_memory(CULPRIT)


def replica_at(sublet, port):
    pid = replicas.ask(port, "/")["pid"]
    return next(share["share"]["name"] for share in sublet.status()["shares"]
                if share["pid"] == pid)


def shares_of(status):
    """What the node says of each share, and of each MPS server."""
    shares = [{name: share["share"].get(name) for name in
               ("name", "tenant", "mode", "memory_mib", "memory_limit_mib", "sm_percent")}
              | {"memory_used_mib": share["memory_used_mib"]} for share in status["shares"]]
    domains = [{"name": each["domain"]["name"], "clients": each["clients"],
                "limits_confirmed": each["limits_confirmed"]} for each in status["domains"]]
    return {"shares": shares, "domains": domains}


def try_failures(sublet=None):
    """Each failure: what the others noticed. A pause counts as noticed where it is twice as long as
    the longest that any of them had while nothing failed."""
    tried = {}
    last = 0
    for name, act in failures(sublet):
        if sublet:
            last = max([event["sequence"] for event in sublet.events(last)], default=last)
        seen = replicas.watch_failure(PORTS, act, restarts=sublet is not None)
        if sublet:
            seen["events"] = sublet.events(last)
        tried[name] = seen
        usual_ms = tried["nothing"]["longest_pause_ms"]
        seen["paused"] = sum(pause > 2 * usual_ms for pause in seen["pauses_ms"].values())
        say(f"{name}: {seen['went_on']} went on, {seen['paused']} of them with a pause (longest "
            f"{seen['longest_pause_ms'] or 0:.1f} ms), "
            f"{seen['started_again']} started again (outage {seen['longest_outage_s'] or 0:.1f} "
            f"s), {len(seen['gone'])} gone")
    return tried


def await_idle(idle_mib):
    """The next way begins on a GPU that is as empty as it was."""
    deadline = time.monotonic() + 30
    while replicas.gpu_memory_mib() > idle_mib and time.monotonic() < deadline:
        time.sleep(0.2)


def run_way(way, options, sublet, folder):
    kind = next(each for each in KINDS if way.startswith(each))
    variation = way[len(kind) + 1:]
    spin = variation == "spin"
    idle_mib = replicas.gpu_memory_mib()
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        by_sublet = None
        if kind == "time-slicing":
            stack.enter_context(plain("/nonexistent", spin))
        elif kind == "mps":
            stack.enter_context(plain(stack.enter_context(plain_mps()), spin))
        else:
            file = HERE / ("forty-encoders.yaml" if kind == "sublet"
                           else "forty-encoders-two-tenants.yaml")
            if variation:
                percent = int(variation) if variation.isdigit() else None
                file = sublet.write_plan(file, f"{folder}/{way}.plan.json", spin, percent)
                began = time.monotonic()
            by_sublet = sublet
            stack.enter_context(sublet.up(file))
        result = measure(began, idle_mib, options.seconds)
        if by_sublet:
            result["shares"] = shares_of(by_sublet.status())
        if not variation and not options.no_failures:
            result["failures"] = try_failures(by_sublet)
    await_idle(idle_mib)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sublet", default="sublet", help="the program (default: from PATH)")
    parser.add_argument("--output", required=True, help="where the JSON goes")
    parser.add_argument("--seconds", type=float, default=10, help="of the window (default: 10)")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="WAY",
                        help=f"(default: {' '.join(WAYS)})")
    parser.add_argument("--no-failures", action="store_true")
    options = parser.parse_args()
    program = options.sublet if "/" not in options.sublet else os.path.abspath(options.sublet)

    name, driver = replicas.nvidia_smi("name,driver_version")[0]
    result = {"gpu": name, "driver": driver, "cores": os.cpu_count(),
              "kernel": platform.release(), "date": time.strftime("%Y-%m-%d"), "ways": {}}
    with tempfile.TemporaryDirectory(prefix="forty-") as folder:
        sublet = Sublet(program, folder)
        for way in options.ways:
            say(f"--- {way}")
            try:
                result["ways"][way] = run_way(way, options, sublet, folder)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                say(f"failed: {error}")
                result["ways"][way] = {"failed": str(error)}
            # After each: what is measured shall not be lost.
            with open(options.output, "w", encoding="utf-8") as file:
                json.dump(result, file, indent=1)
    return 1 if any("failed" in each for each in result["ways"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())

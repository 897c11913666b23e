#!/usr/bin/env python3
"""Two engines that share one GPU, behind `sublet route`: how long a turn of a conversation waits
for its first token when requests go where their cache is, and when they go round.

    prove_routing.py --sublet build/bin/sublet --output proof.json

`sublet up two-engines.yaml` brings up two copies of torch_engine.py under MPS. Then, for each
policy in turn, forth and back (so that what drifts falls on all): the engines' caches are emptied,
the router is started, and the same conversations (conversations.py) are had through it. Turns of
the first seconds, when nothing can be cached yet, aren't counted.

The router is told nothing of the engines: it finds them, and which share of which GPU each has, at
the node's daemon.

With --rehearse the engines are tiny and on the CPU, under `sublet up` on a simulated GPU: it tries
the script.

Needs a GPU that nobody else uses, PyTorch with CUDA, aiohttp and msgpack for the python3 that is
found; and libzmq (kv_events.py).
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import conversations

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "small-decoder"
ENGINES = {"left": 8301, "right": 8302}
PORT = 8300
# Ports of KV events and their replay, from an engine's own: as two-engines.yaml has them.
ROUTE = """\
version: sublet.route/v1
listen: {{address: 127.0.0.1, port: {port}}}
policy: {policy}
discovery: {{node: {{kv_events_port_offset: 100, kv_replay_port_offset: 110}}}}
"""
TINY = ["--device", "cpu", "--layers", "2", "--heads", "4", "--kv-heads", "2", "--head", "16",
        "--inner", "128", "--length", "2048", "--blocks", "120", "--block-tokens", "16",
        "--chunk", "256"]


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def ask(port, path, data=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def await_answer(port, path, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise SystemExit(f"ended with {process.returncode} before it served port {port}")
        with contextlib.suppress(OSError):
            ask(port, path)
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers at port {port} after {seconds} s")


def await_replicas(router):
    """Until both engines are there and announce what they cache."""
    await_answer(PORT, "/ready", router)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        workers = json.loads(ask(PORT, "/workers"))["workers"]
        if len(workers) == len(ENGINES) and all(
                each["health"] == "healthy" and each["cache"]["knowledge"] == "EXACT"
                for each in workers):
            return
        time.sleep(0.1)
    say("not all engines are known exactly: " + json.dumps(workers))


@contextlib.contextmanager
def ended(processes):
    """Ends them when it is left."""
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def fleet_file(folder, rehearse):
    text = (HERE / "two-engines.yaml").read_text()
    if not rehearse:
        return HERE / "two-engines.yaml"
    words = [sys.executable, str(HERE / "torch_engine.py"), *TINY]
    path = folder / "fleet.yaml"
    path.write_text(text.replace("python3, torch_engine.py", ", ".join(map(json.dumps, words))))
    return path


@contextlib.contextmanager
def brought_up(sublet, folder, rehearse):
    subprocess.run([sublet, "up", str(fleet_file(folder, rehearse))], check=True)
    try:
        yield json.loads(subprocess.run([sublet, "ps", "--json"], check=True,
                                        capture_output=True, text=True).stdout)
    finally:
        subprocess.run([sublet, "down"], check=False)


def engine_metrics():
    """Each engine's own counters."""
    seen = {}
    for name, port in ENGINES.items():
        lines = [line.rsplit(" ", 1) for line in ask(port, "/metrics").splitlines()]
        seen[name] = {key.split("{")[0]: float(value) for key, value in lines}
    return seen


def run_policy(sublet, policy, talk, after_s, folder):
    for port in ENGINES.values():
        ask(port, "/reset_prefix_cache", b"")
    config = folder / "route.yaml"
    config.write_text(ROUTE.format(policy=policy, port=PORT))
    before = engine_metrics()
    log = open(folder / "route.log", "a", encoding="utf-8")
    with log, ended([subprocess.Popen([sublet, "route", "--config", str(config)], stdout=log,
                                      stderr=log)]) as (router,):
        await_replicas(router)
        turns = conversations.talk(f"http://127.0.0.1:{PORT}", MODEL, talk)
        workers = json.loads(ask(PORT, "/workers"))
    after = engine_metrics()
    spent = {name: {key: after[name][key] - before[name][key] for key in after[name]
                    if key.endswith("_total")} for name in after}
    return {"policy": policy, "summary": conversations.summary(turns, after_s), "engines": spent,
            "workers": workers, "turns": [dataclasses.asdict(turn) for turn in turns]}


def table(runs):
    lines = [f"{'policy':<14}{'turns':>7}{'hit':>8}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}"
             f"{'mean ms':>9}{'errors':>8}  left/right"]
    for run in runs:
        each = run["summary"]
        lines.append(
            f"{run['policy']:<14}{each['turns']:>7}{each['hit_ratio'] or 0:>8.1%}"
            f"{each['ttft_ms_p50']:>9.0f}{each['ttft_ms_p90']:>9.0f}{each['ttft_ms_p99']:>9.0f}"
            f"{each['ttft_ms_mean']:>9.0f}{each['errors']:>8}  "
            + "/".join(str(count) for count in each["by_replica"].values()))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sublet", default="build/bin/sublet")
    parser.add_argument("--output", default="proof.json")
    parser.add_argument("--policies", default="round-robin,cost")
    parser.add_argument("--seconds", type=float, default=42)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    sublet = os.path.abspath(options.sublet)
    policies = options.policies.split(",")
    talk = conversations.Talk(seconds=options.seconds)
    if options.rehearse:
        talk = dataclasses.replace(talk, conversations=8, turns=5, context_words=200,
                                   turn_words=40, answer_tokens=8, think_s=0.5)
    runs = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        status = stack.enter_context(brought_up(sublet, folder, options.rehearse))
        for policy in policies + policies[::-1]:
            say(f"{policy}: {talk.conversations} conversations for {talk.seconds:.0f} s")
            runs.append(run_policy(sublet, policy, talk, talk.seconds / 4, folder))
            # Written each time: what was measured isn't lost where the next one fails.
            pathlib.Path(options.output).write_text(json.dumps(
                {"talk": dataclasses.asdict(talk), "status": status, "runs": runs}))
            say("\n" + table(runs))


if __name__ == "__main__":
    main()

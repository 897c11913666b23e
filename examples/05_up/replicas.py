"""Running copies of encoder_server.py, seen from outside: what they do, and what a failure of one
does to the others. Used by prove_forty.py.

Times are of CLOCK_MONOTONIC, which is one clock for all processes of a machine: each copy writes
down when each of its requests ended, so a pause of its loop is seen in its own record, not in
answers that come late.
"""

import concurrent.futures
import http.client
import json
import statistics
import subprocess
import time
import urllib.request

READY_SECONDS = 300
STEADY_SECONDS = 3  # So long all must be there again before a failure counts as over.
OVER_SECONDS = 90  # After that it isn't waited for any more.
LOOK_SECONDS = 0.25


def ask(port, path, body=None, timeout=60):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def try_ask(port, path):
    """The answer, or nothing where nobody gives one."""
    try:
        return ask(port, path, timeout=10)
    except (OSError, ValueError, http.client.HTTPException):
        return None


def ask_all(ports, path):
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(ports, pool.map(lambda port: try_ask(port, path), ports)))


def await_ready(ports, began):
    """Seconds from `began` until every copy has done its first request."""
    while time.monotonic() - began < READY_SECONDS:
        seen = ask_all(ports, "/")
        if all(each and each["began"] for each in seen.values()):
            return max(each["began"] for each in seen.values()) - began
        time.sleep(LOOK_SECONDS)
    missing = [port for port, each in seen.items() if not each]
    raise RuntimeError(f"not ready after {READY_SECONDS} s: ports {missing}")


def nvidia_smi(query, what="gpu"):
    command = ["nvidia-smi", f"--query-{what}={query}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [[field.strip() for field in line.split(",")] for line in lines]


def gpu_memory_mib():
    return int(nvidia_smi("memory.used")[0][0])


def busy_cores(before, after):
    """Of two looks at /proc/stat."""
    ticks = [b - a for a, b in zip(before, after)]
    idle = ticks[3] + ticks[4]
    return (sum(ticks[:8]) - idle) / sum(ticks[:8])


def processor_ticks():
    with open("/proc/stat", encoding="ascii") as stat:
        return [int(field) for field in stat.readline().split()[1:]]


def measure_window(ports, seconds):
    """What all of them do in one window of time, together and each."""
    begin = time.monotonic()
    ticks = processor_ticks()
    time.sleep(seconds / 2)
    power, clock, memory = nvidia_smi("power.draw,clocks.sm,memory.used")[0]
    processes = [int(mib) for _, mib in nvidia_smi("pid,used_memory", "compute-apps")]
    time.sleep(max(0, begin + seconds - time.monotonic()))
    share = busy_cores(ticks, processor_ticks())
    # Half a second more, so that what ended in the window has been written down.
    time.sleep(0.5)
    each = list(ask_all(ports, f"/load?from={begin!r}&to={begin + seconds!r}").values())
    sights = ask_all(ports, "/")
    if not all(answer and answer["complete"] and answer["requests"] for answer in each):
        raise RuntimeError("a replica did nothing in the window, or forgot what it did")
    total = sum(answer["requests_per_s"] for answer in each)
    rates = sorted(answer["requests_per_s"] for answer in each)
    return {
        "seconds": seconds,
        "requests_per_s": total,
        "requests_per_s_least": rates[0],
        "requests_per_s_most": rates[-1],
        "p50_ms": statistics.median(answer["p50_ms"] for answer in each),
        "p50_ms_worst": max(answer["p50_ms"] for answer in each),
        "p99_ms": statistics.median(answer["p99_ms"] for answer in each),
        "p99_ms_worst": max(answer["p99_ms"] for answer in each),
        "gpu_memory_mib": int(memory),
        "process_memory_mib": statistics.median(processes),
        "allocated_mib": statistics.median(sight["allocated_mib"] for sight in sights.values()),
        "sms": sorted({sight["sms"] for sight in sights.values()}),
        "power_w": float(power),
        "millijoule_a_request": float(power) / total * 1e3,
        "sm_clock_mhz": int(clock),
        "busy_share_of_cores": share,
        "each": [{name: answer.get(name) for name in
                  ("requests", "p50_ms", "p99_ms", "longest_pause_ms")} for answer in each],
    }


def watch_failure(ports, act, restarts):
    """Does `act` and watches until all is quiet again; what each copy noticed of it.

    restarts: somebody starts again those that end, so all are waited for.
    """
    before = ask_all(ports, "/")
    asked = time.monotonic()
    try:
        answer = act()
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        answer = str(error)  # Who fails may not have answered first.
    steady_since = None
    while time.monotonic() - asked < OVER_SECONDS:
        seen = ask_all(ports, "/")
        there = all(each and each["began"] for each in seen.values())
        now = time.monotonic()
        steady_since = (steady_since or now) if there or not restarts else None
        if steady_since and now - steady_since > STEADY_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    seen = ask_all(ports, "/")
    end = time.monotonic()
    went_on = [port for port in ports if same(before[port], seen[port])]
    again = [port for port in ports if seen[port] and port not in went_on]
    pauses = ask_all(went_on, f"/load?from={asked!r}&to={end!r}")
    outages = {port: (seen[port]["began"] or end) - asked for port in again}
    return {
        "answer": answer,
        "went_on": len(went_on),
        "longest_pause_ms": max((each["longest_pause_ms"] for each in pauses.values() if each),
                                default=None),
        "median_pause_ms": statistics.median(
            [each["longest_pause_ms"] for each in pauses.values() if each] or [0]),
        "pauses_ms": {port: each["longest_pause_ms"] for port, each in pauses.items() if each},
        "started_again": len(again),
        "longest_outage_s": max(outages.values(), default=None),
        "outages_s": outages,
        "gone": [port for port in ports if not seen[port]],
    }


def same(before, now):
    return bool(before and now and before["pid"] == now["pid"])

#!/usr/bin/env python3
"""What servers with --load (encoder_server.py) did in one window of time, each and together.

    load_window.py --ports 8200-8239 --seconds 10

Waits until the window has passed, asks every server for the same window, and prints JSON: the sum
of the rates, the worst latencies, and each server's own figures. Standard library only.
"""

import argparse
import concurrent.futures
import json
import sys
import time
import urllib.request


def parse_ports(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def ask(port, begin, end):
    url = f"http://127.0.0.1:{port}/load?from={begin!r}&to={end!r}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer) | {"port": port}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", type=parse_ports, required=True, help="as 8200-8239")
    parser.add_argument("--seconds", type=float, default=10, help="of the window (default: 10)")
    options = parser.parse_args()

    begin = time.monotonic()
    end = begin + options.seconds
    # Half a second more, so that what ended in the window has been written down.
    time.sleep(options.seconds + 0.5)
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        servers = list(pool.map(lambda port: ask(port, begin, end), options.ports))
    busy = [server for server in servers if server["requests"] > 0]
    total = {
        "servers": len(servers),
        "silent": len(servers) - len(busy),
        "complete": all(server["complete"] for server in servers),
        "seconds": options.seconds,
        "requests_per_s": sum(server["requests_per_s"] for server in servers),
    }
    if busy:
        total["p50_ms_worst"] = max(server["p50_ms"] for server in busy)
        total["p99_ms_worst"] = max(server["p99_ms"] for server in busy)
        by_p50 = sorted(server["p50_ms"] for server in busy)
        total["p50_ms_median"] = by_p50[len(by_p50) // 2]
    json.dump(total | {"each": servers}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()

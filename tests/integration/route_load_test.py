"""`sublet route` under load by programs that nobody here wrote (wrk, h2load), in front of engines
that take no time: python3 route_load_test.py SUBLET INSTANT_UPSTREAM

SUBLET_SOAK_REQUESTS (60,000) is how many requests the memory must be flat over.
"""

import http.client
import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
UPSTREAM = sys.argv.pop(2) if len(sys.argv) > 2 else ROOT / "build/bin/instant_upstream"
SUBLET = sys.argv.pop(1) if len(sys.argv) > 1 else ROOT / "build/bin/sublet"
LOAD = ROOT / "tests/bench/route_overhead/load.lua"
SOAK = int(os.environ.get("SUBLET_SOAK_REQUESTS", "60000"))
IDLE = 10_000
FIRST = 4
COMERS = 1_000
PATIENCE_S = 60
PATH = "/v1/chat/completions"
CHAT = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "word " * 400}]})


class LoadTest(unittest.TestCase):
    def setUp(self):
        # Ours and, inherited, the router's.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sublet-load-"))
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", self.folder], check=True))
        upstream = self.run_program([UPSTREAM, FIRST + COMERS], stdout=subprocess.PIPE)
        self.ports = [int(port) for port in upstream.stdout.readline().split()]
        config = self.folder / "route.yaml"
        config.write_text("version: sublet.route/v1\nreplicas:\n" + "".join(
            f"  - {{name: engine/{at}, url: 'http://127.0.0.1:{port}', models: [demo]}}\n"
            for at, port in enumerate(self.ports[:FIRST])))
        self.log = []
        self.route = self.run_program([SUBLET, "route", "--config", config, "--port", "0"],
                                      stderr=subprocess.PIPE, text=True)
        line = self.route.stderr.readline()
        while not (match := re.search(r"serves http://[\d.]+:(\d+)", line)):
            self.assertTrue(line, "it ended before it served")
            line = self.route.stderr.readline()
        self.port = int(match.group(1))
        reader = threading.Thread(target=lambda: self.log.extend(self.route.stderr))
        reader.start()
        self.addCleanup(reader.join)
        self.addCleanup(self.route.terminate)
        self.until(lambda: self.ask("GET", "/ready")[0] == 200, "it is ready")

    def run_program(self, command, **options):
        program = subprocess.Popen([str(word) for word in command], **options)

        def end():
            if program.poll() is None:
                program.terminate()
            program.wait(PATIENCE_S)
            for stream in (program.stdout, program.stderr):
                if stream:
                    stream.close()

        self.addCleanup(end)
        return program

    def until(self, holds, what):
        end = time.monotonic() + PATIENCE_S
        while not holds():
            self.assertLess(time.monotonic(), end, f"{what}: never; {self.log[-5:]}")
            time.sleep(0.02)

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read().decode()
        connection.close()
        return response.status, content

    def workers(self):
        content = self.ask("GET", "/workers")[1]
        return {each["name"]: each for each in json.loads(content)["workers"]}

    def resident_mib(self):
        fields = pathlib.Path(f"/proc/{self.route.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def wrk(self, seconds, body=2048, connections=16):
        """Starts it."""
        return self.run_program(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", LOAD,
             f"http://127.0.0.1:{self.port}{PATH}"],
            stdout=subprocess.PIPE, text=True, env=dict(os.environ, SUBLET_BODY=str(body)))

    def told_by(self, wrk):
        output, _ = wrk.communicate(timeout=PATIENCE_S * 2)
        self.assertEqual(wrk.returncode, 0, output)
        return json.loads(output.strip().splitlines()[-1])

    def h2load(self, requests, connections=16):
        body = self.folder / "body.json"
        body.write_text(CHAT)
        done = subprocess.run(
            ["h2load", "--h1", f"-n{requests}", f"-c{connections}", f"-d{body}",
             f"http://127.0.0.1:{self.port}{PATH}"],
            capture_output=True, text=True, check=True)
        found = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, "
                          r"(\d+) failed", done.stdout)
        self.assertTrue(found, done.stdout)
        return [int(each) for each in found.groups()]

    def test_every_request_of_h2load_is_answered(self):
        self.assertEqual(self.h2load(5_000), [5_000, 5_000, 5_000, 0])
        served = [each["totals"]["served"] for each in self.workers().values()]
        self.assertEqual(sum(served), 5_000)

    def test_a_thousand_replicas_come_and_go_under_load(self):
        load = self.wrk(seconds=8)
        for at in range(COMERS):
            status, content = self.ask("POST", "/workers", json.dumps(
                {"name": f"comer/{at}", "models": ["demo"],
                 "url": f"http://127.0.0.1:{self.ports[FIRST + at]}"}))
            self.assertLess(status, 300, content)
        workers = self.workers()
        self.assertEqual(len(workers), FIRST + COMERS)
        came = sum(each["totals"]["served"] for name, each in workers.items()
                   if name.startswith("comer/"))
        self.assertGreater(came, 0, "the load never came to those that were added")
        for at in range(COMERS):
            status, content = self.ask("DELETE", f"/workers/comer/{at}")
            self.assertLess(status, 300, content)
        self.until(lambda: len(self.workers()) == FIRST, "those that came have gone")
        seen = self.told_by(load)
        self.assertEqual(seen["errors"], 0, self.log[-5:])
        self.assertGreater(seen["requests"], 1_000)

    def test_ten_thousand_idle_connections_disturb_nobody(self):
        self.told_by(self.wrk(seconds=1))
        before = self.resident_mib()
        idle = []
        self.addCleanup(lambda: [each.close() for each in idle])
        for _ in range(IDLE):
            idle.append(socket.create_connection(("127.0.0.1", self.port), PATIENCE_S))
        # Some have asked before; the others haven't said a word.
        for each in idle[::10]:
            each.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        for each in idle[::10]:
            self.assertTrue(each.recv(4096).startswith(b"HTTP/1.1 200"))
        self.assertEqual(self.told_by(self.wrk(seconds=2))["errors"], 0)
        grown = self.resident_mib() - before
        self.assertLess(grown * 1024 / IDLE, 4, f"KiB a connection: it grew by {grown:.1f} MiB")
        idle[1].sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        self.assertTrue(idle[1].recv(4096).startswith(b"HTTP/1.1 200"))

    def test_memory_is_flat(self):
        self.h2load(SOAK // 3)
        before = self.resident_mib()
        self.h2load(SOAK)
        after = self.resident_mib()
        print(f"  {SOAK:,} requests: {before:.1f} MiB before, {after:.1f} after", file=sys.stderr)
        # A leak of 70 bytes a request is found; what the allocator rounds is not taken for one.
        self.assertLess(after - before, 4)


if __name__ == "__main__":
    unittest.main(verbosity=2)

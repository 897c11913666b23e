"""`sublet route` as it is shipped, in front of simulated engines: python3 route_test.py SUBLET"""

import http.client
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from openapi_check import METHODS, ROUTER

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUBLET = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else ROOT / "build/bin/sublet"
PATIENCE_S = 30

ENGINES = """
replicas:
  - {name: demo/0, simulate: {decode_step_ms: 2}}
  - {name: demo/1, simulate: {decode_step_ms: 2, kv_events: false}}
"""
CHAT = {"model": "demo", "max_tokens": 8,
        "messages": [{"role": "user", "content": "a secret prompt"}]}


class Route:
    """A running router, and how to talk to it."""

    def __init__(self, *flags):
        self.log = []
        self.program = subprocess.Popen(
            [SUBLET, "route", "--port", "0", *map(str, flags)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=lambda: self.log.extend(self.program.stderr))
        self.reader.start()
        line = self.wait_for_log(r"serves https?://[\d.]+:(\d+)")
        self.port = int(line.group(1))

    def wait_for_log(self, pattern):
        return wait(lambda: next(filter(None, (re.search(pattern, line)
                                               for line in self.log)), None),
                    lambda: f"{pattern} in {self.log}, status {self.program.poll()}")

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        response.close()
        return response.status, content.decode(), response.headers

    def json(self, method, path, body=None, headers=None):
        status, content, _ = self.ask(method, path, body, headers)
        assert status < 400, (status, content)
        return json.loads(content)

    def end(self):
        if self.program.poll() is None:
            self.program.terminate()
        status = self.program.wait(PATIENCE_S)
        self.reader.join()
        self.program.stderr.close()
        return status


def wait(what, otherwise=lambda: "it never came"):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(otherwise())


class RouteTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "route.yaml"

    def write(self, text):
        # As an editor does it: a new file in the old one's place.
        new = self.folder / "new"
        new.write_text("version: sublet.route/v1\n" + text)
        new.rename(self.file)

    def start(self, text=ENGINES, *flags):
        self.write(text)
        route = Route("--config", self.file, *flags)
        self.addCleanup(route.end)
        return route

    def ready(self, route):
        wait(lambda: route.ask("GET", "/ready")[0] == 200, lambda: route.ask("GET", "/ready"))

    def test_the_example_works_as_written(self):
        manual = (ROOT / "examples/06_route/README.md").read_text()
        self.assertIn("build/bin/sublet route --config examples/06_route/route.yaml &", manual)
        command = re.search(r"^    (curl -N localhost:8080\S+ -d '.*)$", manual, re.M).group(1)
        route = Route("--config", ROOT / "examples/06_route/route.yaml")
        self.addCleanup(route.end)
        self.ready(route)
        done = subprocess.run(["sh", "-c", command.replace("8080", str(route.port)) + " -sS"],
                              capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        events = [line[6:] for line in done.stdout.splitlines() if line.startswith("data: ")]
        self.assertEqual(events[-1], "[DONE]")
        self.assertGreater(len(events), 10)
        self.assertTrue(any("SIMULATED" in line for line in route.log))

    def test_answers_are_as_the_document_has_them(self):
        document = ROUTER.document()
        route = self.start()
        self.ready(route)
        self.assertEqual(route.ask("POST", "/v1/chat/completions", CHAT)[0], 200)
        asked = set()

        def check(method, path, status, body=None):
            got, content, headers = route.ask(method, path, body)
            self.assertEqual(got, status, content)
            ROUTER.check(path, method, got, content, headers["content-type"])
            operation = ROUTER.operation_of(path, method)
            asked.add(operation["operationId"])
            return content

        check("GET", "/health", 200)
        check("GET", "/ready", 200)
        check("GET", "/metrics", 200)
        check("GET", "/v1/models", 200)
        check("POST", "/workers", 201,
              {"url": "http://127.0.0.1:9", "name": "gone", "models": ["x"]})
        wait(lambda: route.json("GET", "/workers/gone")["health"] == "unhealthy")
        check("GET", "/workers", 200)
        check("GET", "/workers/demo/0", 200)
        check("GET", "/workers/gone", 200)
        check("DELETE", "/workers/gone", 200)
        check("POST", "/add_worker?url=http://127.0.0.1:9", 201)
        check("GET", "/list_workers", 200)
        check("POST", "/remove_worker?url=http://127.0.0.1:9", 200)
        check("GET", "/workers/none", 404)
        check("DELETE", "/workers/demo/0", 409)
        check("POST", "/workers", 400, {"ulr": "x"})
        operations = {item[method]["operationId"] for item in document["paths"].values()
                      for method in METHODS if method in item}
        self.assertEqual(asked, operations)

    def test_caches_become_known(self):
        route = self.start()
        self.ready(route)
        # Until it has said something, nothing is known of what it holds.
        pinned = {"x-sublet-replica": "demo/0"}
        self.assertEqual(route.ask("POST", "/v1/chat/completions", dict(CHAT, messages=[
            {"role": "user", "content": "a beginning " * 100}]), pinned)[0], 200)
        wait(lambda: route.json("GET", "/workers/demo/0")["cache"]["knowledge"] == "EXACT",
             lambda: route.json("GET", "/workers/demo/0"))
        self.assertEqual(route.json("GET", "/workers/demo/1")["cache"]["knowledge"], "APPROX")
        long = {"model": "demo", "max_tokens": 4,
                "messages": [{"role": "user", "content": "once upon a time " * 400}]}
        where = set()
        for _ in range(4):
            status, content, headers = route.ask("POST", "/v1/chat/completions", long)
            self.assertEqual(status, 200, content)
            where.add(headers["x-sublet-replica"])
        self.assertEqual(len(where), 1)
        self.assertGreater(
            json.loads(content)["usage"]["prompt_tokens_details"]["cached_tokens"], 500)
        text = route.ask("GET", "/metrics")[1]
        self.assertRegex(text, r'sublet_route_cached_tokens_total\{model="demo"\} [1-9]')

    def test_the_file_is_read_again(self):
        route = self.start()
        self.ready(route)
        self.write("policy: round-robin\n" + ENGINES)
        wait(lambda: route.json("GET", "/workers")["policy"] == "round-robin")
        self.write("polcy: cost\n" + ENGINES)
        why = wait(lambda: route.json("GET", "/workers")["config"].get("why"))
        self.assertIn("route.yaml:2:1", why)
        self.assertIn("sublet_route_config_ok 0\n", route.ask("GET", "/metrics")[1])
        self.assertEqual(route.ask("POST", "/v1/chat/completions", CHAT)[0], 200)
        self.write("policy: session\n" + ENGINES.replace("demo/1", "demo/2"))
        wait(lambda: route.json("GET", "/workers")["policy"] == "session")
        names = wait(lambda: [names for names in
                              [[w["name"] for w in route.json("GET", "/workers")["workers"]]]
                              if names == ["demo/0", "demo/2"]])
        self.assertTrue(names)
        self.write("threads: 3\n" + ENGINES)
        route.wait_for_log("threads waits for a restart")

    def test_the_log_goes_on_in_a_new_file(self):
        log = self.folder / "access.jsonl"
        route = self.start(ENGINES + "access_log: {path: access.jsonl}\n")
        self.ready(route)

        def lines(path):
            return [json.loads(line) for line in path.read_text().splitlines()
                    if '"kind":"chat"' in line] if path.exists() else []

        route.ask("POST", "/v1/chat/completions", CHAT)
        line = wait(lambda: lines(log))[0]
        self.assertEqual(line["outcome"], "served")
        self.assertIn(line["replica"], ("demo/0", "demo/1"))
        self.assertIs(line["simulated"], True)
        self.assertTrue(line["reason"])
        self.assertNotIn("secret prompt", log.read_text())
        log.rename(self.folder / "access.jsonl.1")
        route.program.send_signal(signal.SIGHUP)
        wait(log.exists)
        route.ask("POST", "/v1/chat/completions", CHAT)
        wait(lambda: lines(log))

    def test_keys_are_asked_for_and_kept_secret(self):
        keys = self.folder / "keys.yaml"
        keys.write_text("version: sublet.route-keys/v1\nkeys:\n"
                        "  - {name: web, key: sk-the-web-sites-key, tenant: shop}\n"
                        "  - {name: ops, key: sk-the-operators-key, admin: true}\n")
        keys.chmod(0o600)
        route = self.start(ENGINES + "keys_file: keys.yaml\naccess_log: {path: access.jsonl}\n")
        self.ready(route)
        web = {"Authorization": "Bearer sk-the-web-sites-key"}
        ops = {"Authorization": "Bearer sk-the-operators-key"}
        worker = {"url": "http://127.0.0.1:9"}
        self.assertEqual(route.ask("POST", "/v1/chat/completions", CHAT)[0], 401)
        self.assertEqual(route.ask("POST", "/v1/chat/completions", CHAT, web)[0], 200)
        self.assertEqual(route.ask("GET", "/workers")[0], 401)
        self.assertEqual(route.ask("GET", "/workers", None, web)[0], 200)
        self.assertEqual(route.ask("POST", "/workers", worker, web)[0], 403)
        self.assertEqual(route.ask("POST", "/workers", worker, ops)[0], 201)
        # A key that is taken away is out at once.
        keys.write_text(keys.read_text().replace("the-web-sites-key", "another-key-of-theirs"))
        wait(lambda: route.ask("GET", "/workers", None, web)[0] == 401)
        keys.chmod(0o644)
        wait(lambda: "others could read" in route.json("GET", "/workers", None, ops)["config"].get(
            "why", ""))
        route.end()
        everything = "".join(route.log) + (self.folder / "access.jsonl").read_text()
        self.assertNotIn("sk-", everything)
        self.assertNotIn("secret prompt", everything)

    def test_a_model_has_other_names_too(self):
        route = self.start(ENGINES + "aliases: {gpt-4o: demo}\n")
        self.ready(route)
        wait(lambda: "gpt-4o" in [m["id"] for m in route.json("GET", "/v1/models")["data"]])
        self.assertEqual(route.json("POST", "/v1/chat/completions",
                                    dict(CHAT, model="gpt-4o"))["model"], "demo")
        self.assertEqual(route.ask("POST", "/v1/chat/completions",
                                   dict(CHAT, model="gpt-5"))[0], 404)

    def test_a_key_may_ask_so_much_a_minute(self):
        keys = self.folder / "keys.yaml"
        keys.write_text("version: sublet.route-keys/v1\nkeys:\n"
                        "  - {name: web, key: sk-the-web-sites-key, requests_per_minute: 12}\n"
                        "  - {name: bulk, key: sk-the-night-batch-s, tokens_per_minute: 600}\n")
        keys.chmod(0o600)
        route = self.start(ENGINES + "keys_file: keys.yaml\n")
        self.ready(route)
        web = {"Authorization": "Bearer sk-the-web-sites-key"}
        bulk = {"Authorization": "Bearer sk-the-night-batch-s"}
        # Ten seconds' worth at once.
        statuses = [route.ask("POST", "/v1/chat/completions", CHAT, web)[0] for _ in range(3)]
        self.assertEqual(statuses, [200, 200, 429])
        _, content, headers = route.ask("POST", "/v1/chat/completions", CHAT, web)
        self.assertIn("rate_limit_exceeded", content)
        self.assertIn(int(headers["retry-after"]), range(1, 12))
        long = dict(CHAT, messages=[{"role": "user", "content": "x" * 8000}])
        self.assertEqual(route.ask("POST", "/v1/chat/completions", long, bulk)[0], 200)
        _, content, headers = route.ask("POST", "/v1/chat/completions", long, bulk)
        self.assertGreater(int(headers["retry-after"]), 60)

    def test_an_answer_under_way_comes_to_its_end(self):
        route = self.start(ENGINES.replace("decode_step_ms: 2", "decode_step_ms: 20"))
        self.ready(route)
        connection = http.client.HTTPConnection("127.0.0.1", route.port, timeout=PATIENCE_S)
        body = dict(CHAT, stream=True, max_tokens=40)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        first = response.readline()
        self.assertTrue(first.startswith(b"data: "), first)
        route.program.terminate()
        route.wait_for_log("no new connections")
        rest = response.read().decode()
        self.assertIn("data: [DONE]", rest)
        # Not end(), which would tell it a second time: that ends it at once.
        self.assertEqual(route.program.wait(PATIENCE_S), 0)

    def test_starts_without_replicas_and_takes_them_as_they_come(self):
        route = self.start("")
        status, content, _ = route.ask("GET", "/ready")
        self.assertEqual(status, 503)
        self.assertIn("no replicas", content)
        self.assertIn(route.ask("POST", "/v1/chat/completions", CHAT)[0], (404, 503))
        self.write(ENGINES)
        self.ready(route)
        self.assertEqual(route.ask("POST", "/v1/chat/completions", CHAT)[0], 200)

    def run_route(self, *flags):
        return subprocess.run([SUBLET, "route", *map(str, flags)], capture_output=True, text=True,
                              timeout=PATIENCE_S)

    def test_check_says_whether_the_file_can_be_used(self):
        self.write(ENGINES)
        done = self.run_route("--config", self.file, "--check")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("2 replicas", done.stdout)
        self.write("keys_file: absent.yaml\n")
        self.assertEqual(self.run_route("--config", self.file, "--check").returncode, 4)
        self.write("listen: {port: 99999}\n")
        done = self.run_route("--config", self.file, "--check")
        self.assertEqual(done.returncode, 3)
        self.assertIn("route.yaml:2:16", done.stderr)
        self.write("discovery: {kubernetes: {service: llama}}\n")
        done = self.run_route("--config", self.file, "--check")
        self.assertEqual(done.returncode, 4)
        self.assertIn("api_server", done.stderr)

    def test_tells_a_newcomer_what_it_needs(self):
        done = self.run_route()
        self.assertEqual(done.returncode, 2)
        self.assertIn("--replica http://", done.stderr)
        done = self.run_route("--replica", "localhost:8000")
        self.assertEqual(done.returncode, 2)
        self.assertIn("http://10.0.0.7:8000", done.stderr)
        done = self.run_route("--replica", "http://127.0.0.1:9", "--policy", "best")
        self.assertEqual(done.returncode, 2)
        self.assertIn("round-robin", done.stderr)

    def test_a_port_that_is_taken_is_said(self):
        route = self.start()
        done = self.run_route("--replica", "http://127.0.0.1:9", "--port", route.port)
        self.assertEqual(done.returncode, 7, done.stderr)
        self.assertIn(str(route.port), done.stderr)


if __name__ == "__main__":
    unittest.main()

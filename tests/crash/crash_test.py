"""Kills the node's daemon at every crash point of every kind of change, starts another, and looks
whether the node is as before or as it was to become, with nothing left over.

Usage: crash_test.py SUBLET_PROGRAM CRASH_POINTS_HEADER
"""

import json
import os
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
from node_harness import Node, marked, wait_for

SUBLET = os.path.abspath(sys.argv[1])
POINTS = re.findall(r'"([a-z-]+)"', pathlib.Path(sys.argv[2]).read_text())
del sys.argv[1:3]

FLEET = """
version: sublet.fleet/v1
name: {name}
workloads:
  - name: chat
    tenant: shop
    replicas: 2
    memory: 6GiB
    compute: {{sm_percent: 25}}
    command: [sleep, "{seconds}"]
  - name: search
    tenant: desk
    memory: 4GiB
    compute: {{sm_percent: 20}}
    command: [sleep, "1000"]
"""

MIG_FLEET = """
version: sublet.fleet/v1
name: cut
tenants:
  - {name: a, isolation: hardware}
  - {name: b, isolation: hardware}
workloads:
  - {name: one, tenant: a, memory: 6GiB, compute: {sm_percent: 10}, command: [sleep, "1000"]}
  - {name: two, tenant: b, memory: 6GiB, compute: {sm_percent: 10}, command: [sleep, "1000"]}
"""

MIG = """
version: v1
mig-configs:
  two:
    - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 1, 2g.20gb: 1}}
"""

reached = set()


class CrashTest(unittest.TestCase):
    def setUp(self):
        self.sim = "l4:1"  # Without MIG, so that plans use MPS.
        self.node = Node(SUBLET, self.sim)
        # Each point has a node of its own; the one that is there at the end is closed.
        self.addCleanup(lambda: self.node.close())

    def use(self, sim):
        self.sim = sim
        self.node.close()
        self.node = Node(SUBLET, sim)

    def write(self, name, text):
        path = self.node.folder / name
        path.write_text(text)
        return str(path)

    def check_up(self, status, names):
        self.assertEqual({share["share"]["name"] for share in status["shares"]}, names)
        for share in status["shares"]:
            self.assertIn(share["state"], ("running", "ready"), share)

    def check_clean(self, status):
        self.assertEqual(self.node.leaks(status), [], self.node.said())

    def crash(self, point, *verb, before=()):
        """Starts a daemon that dies at `point` while the verb is done."""
        self.node.start(SUBLET_CRASH_AT=point)
        for arguments in before:
            done = self.node.verb(*arguments)
            self.assertEqual(done.returncode, 0, done.stderr + self.node.said())
        asked = self.node.verb_in_background(*verb)
        try:
            asked.communicate(timeout=90)
        finally:
            asked.kill()
        # Its connections end before it does, and some points come after the verb has its answer.
        self.assertTrue(self.node.await_crash(), f"it passed {point}\n{self.node.said()}")
        reached.add(point)

    def each_point(self, change, *points):
        """Runs change(point) in a node of its own for each point, all of which lie on its way."""
        for point in points:
            with self.subTest(point=point):
                self.assertIn(point, POINTS)
                try:
                    change(point)
                finally:
                    self.use(self.sim)

    def test_up(self):
        def change(point):
            fleet = self.write("fleet.yaml", FLEET.format(name="shop", seconds=1000))
            self.crash(point, "up", fleet)
            self.node.start()
            status = self.node.await_quiet()
            if status.get("plan"):
                self.check_up(status, {"chat/0", "chat/1", "search/0"})
            else:
                self.check_up(status, set())
            self.check_clean(status)
            # And it goes on from there.
            self.assertEqual(self.node.verb("up", fleet).returncode, 0, self.node.said())
            status = self.node.await_quiet()
            self.check_up(status, {"chat/0", "chat/1", "search/0"})
            self.check_clean(status)
        self.each_point(
            change, "operation-written", "domain-creating", "domain-started", "domain-present",
            "replica-creating", "replica-launched", "replica-present", "operation-reached",
            "operation-settled")

    def test_another_plan(self):
        def change(point):
            first = self.write("first.yaml", FLEET.format(name="shop", seconds=1000))
            second = self.write("second.yaml", FLEET.format(name="shop", seconds=2000))
            self.node.start()
            self.assertEqual(self.node.verb("up", first).returncode, 0, self.node.said())
            kept = self.node.shares()["search/0"]["pid"]
            self.node.stop()
            self.crash(point, "up", second)
            self.node.start()
            status = self.node.await_quiet()
            self.check_up(status, {"chat/0", "chat/1", "search/0"})
            self.check_clean(status)
            # All of one plan or all of the other, and who isn't concerned wasn't touched.
            seconds = set()
            for share in status["shares"]:
                if share["share"]["name"].startswith("chat"):
                    line = pathlib.Path(f"/proc/{share['pid']}/cmdline").read_bytes()
                    seconds.add(line.split(b"\0")[1])
                else:
                    self.assertEqual(share["pid"], kept)
            self.assertEqual(len(seconds), 1, seconds)
        self.each_point(
            change, "operation-written", "replica-removing", "replica-ended",
            "replica-removed", "replica-creating", "replica-launched", "replica-present",
            "operation-reached", "operation-settled")

    def test_down(self):
        def change(point):
            fleet = self.write("fleet.yaml", FLEET.format(name="shop", seconds=1000))
            self.node.start()
            self.assertEqual(self.node.verb("up", fleet).returncode, 0, self.node.said())
            self.node.stop()
            self.crash(point, "down")
            self.node.start()
            status = self.node.await_quiet()
            names = {"chat/0", "chat/1", "search/0"} if status.get("plan") else set()
            self.check_up(status, names)
            self.check_clean(status)
        self.each_point(
            change, "operation-written", "replica-removing", "replica-ended",
            "replica-removed", "domain-removing", "domain-ended", "operation-reached",
            "operation-settled")

    def test_a_plan_that_fails(self):
        def change(point):
            good = self.write("good.yaml", FLEET.format(name="shop", seconds=1000))
            bad = self.write("bad.yaml", FLEET.format(name="shop", seconds=1000).replace(
                'command: [sleep, "1000"]', "command: [sleep, never]", 2))
            self.node.start()
            self.assertEqual(self.node.verb("up", good).returncode, 0, self.node.said())
            self.node.stop()
            self.crash(point, "up", bad)
            self.node.start()
            status = self.node.await_quiet()
            self.check_up(status, {"chat/0", "chat/1", "search/0"})
            self.check_clean(status)
        self.each_point(
            change, "operation-back", "replica-removed", "replica-present",
            "operation-settled")

    def test_run(self):
        def change(point):
            self.crash(point, "run", "--gpu-memory", "4GiB", "--sm", "20%", "--",
                              "sleep", "0.2")
            self.node.start()
            wait_for("nothing is held", lambda: not self.node.status()["shares"])
            self.check_clean(self.node.status())
        self.each_point(
            change, "domain-creating", "domain-started", "domain-present", "run-creating",
            "run-present", "run-ended", "run-returned", "domain-removing", "domain-ended")

    def test_run_survives(self):
        """A command that runs goes on, and its share stays its own."""
        self.node.start()
        held = self.node.verb_in_background("run", "--gpu-memory", "4GiB", "--", "sleep", "1000")
        self.addCleanup(held.kill)
        share = wait_for("it holds", lambda: next(
            (s for s in self.node.status()["shares"] if s["state"] == "running"), None))
        self.node.kill()
        self.node.start()
        status = self.node.await_quiet()
        self.assertEqual([s["pid"] for s in status["shares"]], [share["pid"]])
        self.check_clean(status)
        held.kill()
        wait_for("it is returned", lambda: not self.node.status()["shares"])

    def test_mig(self):
        self.use("a100-80gb:1")
        def change(point):
            config = self.write("mig.yaml", MIG)
            self.crash(point, "mig", "apply", "-f", config)
            self.node.start()
            self.node.await_quiet()
            count = len(self.node.instances()[0])
            self.assertIn(count, (0, 2), self.node.instances())
            wanted = self.node.verb("mig", "assert", "-f", config)
            self.assertEqual(wanted.returncode, 0 if count else 1, wanted.stdout)
        self.each_point(
            change, "mig-operation-written", "mig-step-will", "mig-step-half", "mig-step-done",
            "mig-operation-settled")

    def test_a_plan_with_mig(self):
        self.use("a100-80gb:1")
        def change(point):
            fleet = self.write("cut.yaml", MIG_FLEET)
            self.crash(point, "up", fleet)
            self.node.start()
            status = self.node.await_quiet()
            if status.get("plan"):
                self.check_up(status, {"one/0", "two/0"})
                self.assertEqual(len(self.node.instances()[0]), 2)
            else:
                self.check_up(status, set())
                self.assertEqual(self.node.instances().get(0, []), [])
            self.check_clean(status)
            self.node.verb("up", fleet)
            self.assertEqual(self.node.verb("down").returncode, 0, self.node.said())
            self.assertEqual(self.node.instances().get(0, []), [])
        self.each_point(
            change, "mig-step-will", "mig-step-half", "mig-step-done", "replica-present",
            "operation-reached")

    def test_a_plan_with_mig_that_fails(self):
        self.use("a100-80gb:1")

        def change(point):
            fleet = self.write("cut.yaml", MIG_FLEET.replace("1000", "never"))
            self.crash(point, "up", fleet)
            self.node.start()
            status = self.node.await_quiet()
            self.check_up(status, set())
            self.assertEqual(self.node.instances().get(0, []), [])
            self.check_clean(status)
        self.each_point(
            change, "operation-back", "mig-undone", "operation-settled")

    def test_zz_every_point_was_reached(self):
        # Its name is the last in the alphabet, and so it runs after all others.
        self.assertEqual(sorted(set(POINTS) - reached), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)

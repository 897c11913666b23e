"""What a node does when GPUs, MPS servers and programs fail.

Usage: node_faults_test.py SUBLET_PROGRAM
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

from node_harness import Node, wait_for

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
NVML = pathlib.Path(SUBLET).parent.parent / "lib/sublet-sim/libnvidia-ml.so.1"
CONFLICT = 7

# What happens to the simulated machine.
DO = """
import ctypes, sys
nvml = ctypes.CDLL(sys.argv[1])
assert nvml.nvmlInit_v2() == 0
for rule in sys.argv[2:]:
    code = nvml.subletSimClearFaults() if rule == "clear" else nvml.subletSimFault(rule.encode())
    assert code == 0, (rule, code)
"""


def fleet(command, replicas=3):
    """Of two tenants with an MPS server each."""
    return f"""
version: sublet.fleet/v1
name: pair
tenants:
  - {{name: shop, isolation: fault}}
  - {{name: desk, isolation: fault}}
workloads:
  - name: chat
    tenant: shop
    replicas: {replicas}
    memory: 2GiB
    compute: {{sm_percent: 20}}
    command: {json.dumps(command)}
  - name: search
    tenant: desk
    memory: 2GiB
    compute: {{sm_percent: 20}}
    command: [{PYTHON}, {HERE}/gpu_client.py]
"""


class FaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # That one hangs is found within half a minute, in which the other tests run.
        cls.hanging = Node(SUBLET, "l4:1")
        cls.addClassCleanup(cls.hanging.close)
        cls.hanging.start()
        path = cls.hanging.folder / "fleet.yaml"
        path.write_text(fleet([PYTHON, f"{HERE}/gpu_client.py"], replicas=1))
        cls.hanging.verb("up", str(path))
        cls.before = cls.pids(cls.hanging)
        cls.server = cls.domains(cls.hanging)
        os.kill(cls.server["shop"]["pid"], signal.SIGSTOP)

    def setUp(self):
        self.nodes = []
        self.addCleanup(lambda: [node.close() for node in self.nodes])

    def make(self, sim="l4:1", config="", **variables):
        # An l4 is without MIG, so that plans use MPS.
        node = Node(SUBLET, sim)
        self.nodes.append(node)
        arguments = []
        if config:
            (node.folder / "daemon.yaml").write_text("version: sublet.daemon/v1\n" + config)
            arguments = ["--config", str(node.folder / "daemon.yaml")]
        node.start(*arguments, **variables)
        return node

    def up(self, node, text):
        path = node.folder / "fleet.yaml"
        path.write_text(text)
        done = node.verb("up", str(path))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + node.said())
        return self.pids(node)

    @staticmethod
    def pids(node):
        return {name: share.get("pid") for name, share in node.shares().items()}

    @staticmethod
    def domains(node):
        return {each["domain"]["tenant"]: each for each in node.status()["domains"]}

    def do(self, node, *rules):
        subprocess.run([PYTHON, "-c", DO, str(NVML), *rules], env=node.environment, check=True)

    @staticmethod
    def events(node, kind, what):
        done = node.verb("events", "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return [event for event in events
                if event["subject_kind"] == kind and event["what"] == what]

    def await_all_up(self, node):
        return wait_for("all is up", lambda: all(share["state"] == "running"
                                                 for share in node.shares().values()), 60)

    def hold(self, node, *command, flags=("--gpu-memory", "1GiB")):
        process = subprocess.Popen([SUBLET, "run", *flags, "--", *command], env=node.environment,
                                   text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    # MPS.

    def test_a_fault_costs_its_domain_and_no_other(self):
        node = self.make()
        trigger = node.folder / "break"
        before = self.up(node, fleet([PYTHON, f"{HERE}/gpu_client.py", "64", str(trigger)]))
        server = self.domains(node)
        trigger.touch()  # One of the three takes it, and breaks.
        [fault] = wait_for("it is told", lambda: self.events(node, "domain", "fault"))
        self.assertEqual(fault["subject"], server["shop"]["domain"]["name"])
        for name in ("chat/0", "chat/1", "chat/2"):
            self.assertIn(name, fault["message"])
        self.assertIn("MPS doesn't tell which of them caused it", fault["message"])

        def recovered():
            now = self.pids(node)
            return all(now[name] not in (None, before[name]) for name in before
                       if name.startswith("chat"))
        wait_for("all are back", recovered, 60)
        self.await_all_up(node)
        self.assertEqual(self.pids(node)["search/0"], before["search/0"])
        after = self.domains(node)
        self.assertEqual(after["desk"]["pid"], server["desk"]["pid"])
        # The server comes back by itself; its daemon stays.
        self.assertEqual(after["shop"]["pid"], server["shop"]["pid"])
        self.assertEqual(self.events(node, "gpu", "unhealthy"), [])
        self.assertEqual(len(self.events(node, "domain", "fault")), 1)

    def test_a_control_daemon_that_is_killed_comes_back_with_its_clients(self):
        node = self.make()
        before = self.up(node, fleet([PYTHON, f"{HERE}/gpu_client.py"], replicas=2))
        server = self.domains(node)
        os.kill(server["shop"]["pid"], signal.SIGKILL)
        wait_for("another one serves", lambda: self.domains(node)["shop"].get("pid") not in
                 (None, server["shop"]["pid"]))
        wait_for("its clients are others", lambda: all(
            self.pids(node)[name] not in (None, before[name]) for name in ("chat/0", "chat/1")))
        self.await_all_up(node)
        self.assertEqual(self.pids(node)["search/0"], before["search/0"])
        self.assertEqual(self.domains(node)["desk"]["pid"], server["desk"]["pid"])
        self.assertEqual(self.domains(node)["shop"]["restarts"], 1)
        self.assertEqual(node.leaks(node.await_quiet()), [])

    # Its name comes last, and so it waits less than the others took.
    def test_what_hangs_is_replaced(self):
        node, before, server = self.hanging, self.before, self.server
        wait_for("another one serves", lambda: self.domains(node)["shop"].get("pid") not in
                 (None, server["shop"]["pid"]), 60)
        wait_for("its client is another", lambda: self.pids(node)["chat/0"] not in
                 (None, before["chat/0"]))
        self.await_all_up(node)
        self.assertEqual(self.pids(node)["search/0"], before["search/0"])
        self.assertTrue(self.events(node, "domain", "wedged"))
        self.assertFalse(os.path.exists(f"/proc/{server['shop']['pid']}"))

    def test_a_process_past_its_server_is_found_and_ended(self):
        node = self.make()
        held = self.hold(node, "env", "-u", "CUDA_MPS_PIPE_DIRECTORY", PYTHON,
                         str(HERE / "gpu_client.py"))
        self.assertEqual(held.stdout.readline(), "works\n", node.said())
        self.assertEqual(held.wait(40), -signal.SIGKILL)
        [event] = self.events(node, "share", "unconfined")
        self.assertIn(f"process {held.pid} uses GPU-", event["message"])

    # GPUs.

    def test_a_sick_gpus_replicas_move_and_it_gets_no_shares(self):
        node = self.make("l4:2")
        before = self.up(node, fleet(["sleep", "1000"], replicas=1))
        old = {share["share"]["gpu_uuid"] for share in node.shares().values()}
        self.assertEqual(len(old), 1, "the plan puts all on one GPU")
        gpus = node.status()["gpus"]
        index = next(gpu["index"] for gpu in gpus if gpu["uuid"] in old)
        self.do(node, f"xid={index}:79")
        [event] = wait_for("it is told", lambda: self.events(node, "gpu", "unhealthy"))
        self.assertIn("79", event["message"])
        sick = next(gpu for gpu in node.status()["gpus"] if gpu["index"] == index)
        self.assertFalse(sick["healthy"])
        self.assertIn("79", sick["why"])

        def all_have_moved():
            shares = node.shares()  # One look: between two a replica may be on its way.
            return shares.keys() == before.keys() and all(
                share["share"]["gpu_uuid"] not in old for share in shares.values())

        wait_for("all have moved", all_have_moved)
        self.await_all_up(node)
        self.assertEqual(set(self.pids(node)), set(before))
        done = node.verb("run", "--gpu", str(index), "--gpu-memory", "1GiB", "--", "true")
        self.assertEqual(done.returncode, CONFLICT, done.stderr)
        self.assertIn("gets no new shares", done.stderr)
        self.assertEqual(node.leaks(node.await_quiet()), [])

    def test_a_replica_that_moved_when_the_daemon_was_killed_isnt_lost(self):
        node = self.make("l4:2", SUBLET_CRASH_AT="replica-removed")
        before = self.up(node, fleet(["sleep", "1000"], replicas=1))
        gpu = next(iter(node.shares().values()))["share"]["gpu_uuid"]
        index = next(each["index"] for each in node.status()["gpus"] if each["uuid"] == gpu)
        self.do(node, f"xid={index}:79")
        self.assertTrue(node.await_crash())
        node.start()
        wait_for("all are there", lambda: self.pids(node).keys() == before.keys())
        self.await_all_up(node)
        self.assertEqual(node.leaks(node.await_quiet()), [])

    def test_a_program_that_fails_leaves_its_gpu_well(self):
        node = self.make("l4:1", config="health: {xids: {79: ignore}}\n")
        self.do(node, "xid=0:31", "xid=0:13", "xid=0:79")
        wait_for("they are told", lambda: len(self.events(node, "gpu", "xid")) == 3)
        self.assertEqual(self.events(node, "gpu", "unhealthy"), [])
        self.assertTrue(node.status()["gpus"][0]["healthy"])
        self.assertEqual(node.verb("run", "--gpu-memory", "1GiB", "--", "true").returncode, 0)

    def test_a_lost_gpu_is_told_of_and_nothing_else_breaks(self):
        node = self.make("l4:2")
        self.do(node, "lost=1")
        wait_for("it is seen", lambda: not node.status()["gpus"][1]["healthy"], 40)
        self.assertIn("lost", node.status()["gpus"][1]["why"])
        self.assertTrue(node.status()["gpus"][0]["healthy"])
        done = node.verb("run", "--gpu", "1", "--gpu-memory", "1GiB", "--", "true")
        self.assertEqual(done.returncode, CONFLICT, done.stderr)
        done = node.verb("run", "--gpu-memory", "1GiB", "--", "true")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = node.verb("run", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
        self.assertEqual(done.stdout.strip(), node.status()["gpus"][0]["uuid"], done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)

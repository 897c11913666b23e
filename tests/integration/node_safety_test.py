"""What a node does with bad input, foreign processes, damaged state, and a second daemon.

Usage: node_safety_test.py SUBLET_PROGRAM
"""

import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import unittest

import openapi_check
from node_api import ask
from node_harness import Node, wait_for

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
INVALID, NOT_FOUND, UNAVAILABLE, CONFLICT, IO, PERMISSION = 3, 4, 5, 7, 8, 9

CONFIG = """
version: sublet.daemon/v1
tenants:
  - {name: search, quota: {gpu_memory: 20GiB, sm_percent: 60, shares: 2}}
  - {name: lab}
"""

FLEET = """
version: sublet.fleet/v1
name: pair
workloads:
  - {name: one, tenant: a, memory: 4GiB, compute: {sm_percent: 20}, command: [sleep, "1000"]}
  - {name: two, tenant: b, memory: 4GiB, compute: {sm_percent: 20}, command: [sleep, "1000"]}
"""

MIG = """
version: v1
mig-configs:
  two: [{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 1, 2g.20gb: 1}}]
  three: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}]
"""

# Uses a GPU past Sublet, as any process of the machine can.
FOREIGN = """
import ctypes, os, sys, time
nvml = ctypes.CDLL(sys.argv[1])
assert nvml.nvmlInit_v2() == 0
none = ctypes.c_uint(0xFFFFFFFF)
size = ctypes.c_ulonglong(int(sys.argv[2]) << 30)
assert nvml.subletSimProcessStart(os.getpid(), 0, none, none, size, 0) == 0
print("uses it", flush=True)
time.sleep(1000)
"""


class SafetyTest(unittest.TestCase):
    sim = "l4:1"  # Without MIG, so that plans use MPS.

    def setUp(self):
        self.use(self.sim)
        self.addCleanup(lambda: self.node.close())

    def use(self, sim):
        if hasattr(self, "node"):
            self.node.close()
        self.node = Node(SUBLET, sim)

    def write(self, name, text):
        path = self.node.folder / name
        path.write_text(text)
        return str(path)

    def up(self):
        done = self.node.verb("up", self.write("fleet.yaml", FLEET))
        self.assertEqual(done.returncode, 0, done.stderr + self.node.said())
        return self.pids()

    def pids(self):
        return {name: share.get("pid") for name, share in self.node.shares().items()}

    def begin(self, *command, **options):
        process = subprocess.Popen(command, env=self.node.environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, **options)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def hold(self, *flags):
        process = self.begin(SUBLET, "run", *flags, "--", "sh", "-c", "echo holds; exec sleep 1000")
        line = process.stdout.readline()
        self.assertEqual(line, "holds\n", line or process.stderr.read())
        return process

    def refused(self, status, *words, verb):
        done = self.node.verb(*verb)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr + self.node.said())
        for word in words:
            self.assertIn(word, done.stderr)
        return done

    def daemon_fails(self, status, *words, **options):
        """A daemon of this node that doesn't start."""
        done = subprocess.run([SUBLET, "daemon", "--socket", str(self.node.socket),
                               "--state", str(self.node.state)], env=self.node.environment,
                              text=True, capture_output=True, timeout=60, **options)
        self.assertEqual(done.returncode, status, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        return done

    # Requests.

    def test_a_tenant_gets_no_more_than_its_quota(self):
        self.node.start("--config", self.write("daemon.yaml", CONFIG))

        def run(*flags):
            return ["run", *flags, "--", "true"]
        self.refused(NOT_FOUND, "no such tenant: 'serch'", "search",
                     verb=run("--tenant", "serch", "--gpu-memory", "1GiB"))
        self.refused(CONFLICT, "tenant search may hold 20.0 GiB",
                     verb=run("--tenant", "search", "--gpu-memory", "20GiB", "--sm", "10%"))
        self.refused(CONFLICT, "--gpu-memory", verb=run("--tenant", "search", "--sm", "10%"))
        self.refused(CONFLICT, "tenant search may hold 60 % of a GPU's SMs",
                     verb=run("--tenant", "search", "--gpu-memory", "1GiB", "--sm", "61%"))
        for _ in range(2):
            self.hold("--tenant", "search", "--gpu-memory", "1GiB", "--sm", "10%")
        self.refused(CONFLICT, "tenant search may hold 2 shares",
                     verb=run("--tenant", "search", "--gpu-memory", "1GiB", "--sm", "10%"))
        # Another tenant's quota is its own.
        self.hold("--tenant", "lab", "--gpu-memory", "1GiB")
        events = [event for event in self.node.verb("events").stdout.splitlines()
                  if "refused" in event]
        self.assertEqual(len(events), 5, events)

    def test_a_command_that_isnt_there(self):
        self.node.start()
        done = self.refused(127, "no such command", verb=["run", "--gpu-memory", "1GiB", "--",
                                                          "no-such-program"])
        self.assertEqual(done.stdout, "")
        self.assertEqual(self.node.status()["shares"], [])
        before = self.up()
        fleet = self.write("bad.yaml", FLEET.replace("[sleep,", "[no-such-program,", 1))
        self.refused(UNAVAILABLE, "one/0", "no-such-program", "is as before", "sublet logs one/0",
                     verb=["up", fleet])
        after = self.pids()
        self.assertEqual(after.keys(), before.keys())
        self.assertEqual(after["two/0"], before["two/0"])
        self.assertEqual(self.node.leaks(self.node.await_quiet()), [])

    def test_foreign_processes_are_counted_respected_and_named(self):
        self.node.start()
        library = pathlib.Path(SUBLET).parent.parent / "lib/sublet-sim/libnvidia-ml.so.1"
        foreign = self.begin(PYTHON, "-c", FOREIGN, str(library), "10")
        self.assertEqual(foreign.stdout.readline(), "uses it\n")
        [seen] = wait_for("it is seen", lambda: self.node.status()["gpus"][0]["foreign"])
        self.assertEqual(seen["pid"], foreign.pid)
        self.assertEqual(seen["memory_mib"], 10 << 10)
        named = f"(pid {foreign.pid})"
        self.refused(CONFLICT, named, "10.0 GiB", verb=["run", "--gpu-memory", "16GiB", "--",
                                                        "true"])
        self.refused(CONFLICT, named, verb=["run", "--", "true"])  # A GPU of its own.
        self.assertEqual(self.node.verb("run", "--gpu-memory", "8GiB", "--", "true").returncode, 0)
        fleet = self.write("large.yaml", FLEET.replace("memory: 4GiB", "memory: 8GiB"))
        done = self.node.verb("up", fleet)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        foreign.kill()
        wait_for("it is gone", lambda: not self.node.status()["gpus"][0].get("foreign"))
        self.assertEqual(self.node.verb("up", fleet).returncode, 0, self.node.said())

    def test_mig_instances_in_use_stay(self):
        self.use("a100-80gb:1")
        self.node.start()
        config = self.write("mig.yaml", MIG)
        done = self.node.verb("mig", "apply", "-f", config, "-c", "two")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.hold("--mode", "mig", "--profile", "2g.20gb")
        before = self.node.instances()
        self.refused(CONFLICT, "by share s1", verb=["mig", "apply", "-f", config, "-c", "three"])
        self.assertEqual(self.node.instances(), before)
        done = self.node.verb("mig", "assert", "-f", config, "-c", "two")
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_an_instance_made_for_a_command_goes_with_it(self):
        """Also where the plan changes at that moment."""
        self.use("a100-80gb:1")
        self.node.start()
        for _ in range(2):
            self.up()
            for verb in (["run", "--mode", "mig", "--profile", "1g.10gb", "--", "true"], ["down"]):
                done = self.node.verb(*verb)
                self.assertEqual(done.returncode, 0, done.stderr)
        wait_for("no instance is left", lambda: not self.node.instances()[0])

    def test_the_forty_ninth_client_is_refused(self):
        self.node.start()
        # Small ones, since each has a CUDA context as well.
        run = ["run", "--gpu-memory", "16MiB", "--sm", "5%", "--"]
        for _ in range(48):
            self.begin(SUBLET, *run, "sleep", "1000")
        wait_for("48 hold", lambda: len(self.node.status()["shares"]) == 48)
        self.refused(CONFLICT, "48 shares", "the most that one server takes", verb=[*run, "true"])

    # Two daemons.

    def test_a_second_daemon_leaves_the_first_alone(self):
        self.node.start()
        held = self.hold("--gpu-memory", "4GiB")
        before = self.up()
        domains = {d["domain"]["name"]: d["pid"] for d in self.node.status()["domains"]}
        self.daemon_fails(CONFLICT, "has the state directory already", "hint")
        # With a state of its own it knows nothing of what runs.
        for socket in (self.node.socket, self.node.socket.parent / "other"):
            done = subprocess.run([SUBLET, "daemon", "--socket", str(socket), "--state",
                                   str(self.node.folder / "other")], env=self.node.environment,
                                  text=True, capture_output=True, timeout=60)
            self.assertEqual(done.returncode, CONFLICT, done.stderr)
            self.assertIn("another daemon", done.stderr)
        self.assertIsNone(held.poll())
        self.assertEqual({name: pid for name, pid in self.pids().items() if name in before}, before)
        self.assertEqual({d["domain"]["name"]: d["pid"] for d in self.node.status()["domains"]},
                         domains)

    @unittest.skipUnless(os.geteuid() == 0, "it needs root, to make a socket of another user")
    def test_a_socket_of_another_user_isnt_used(self):
        self.node.folder.chmod(0o755)
        self.node.socket.parent.chmod(0o777)
        other = subprocess.Popen(
            [PYTHON, "-c", "import socket, sys, time\n"
             "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
             "print('listens', flush=True); time.sleep(1000)", str(self.node.socket)],
            stdout=subprocess.PIPE, text=True, user=20001, group=20001, extra_groups=[])
        self.addCleanup(other.stdout.close)
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.assertEqual(other.stdout.readline(), "listens\n")
        self.refused(PERMISSION, "a socket of another user", verb=["ps"])
        self.refused(PERMISSION, "a socket of another user",
                     verb=["run", "--gpu-memory", "1GiB", "--", "true"])
        self.daemon_fails(PERMISSION, "others than its user may change the socket's folder")
        self.node.socket.parent.chmod(0o755)
        self.daemon_fails(PERMISSION, "a socket of another user")

    # The state.

    def test_a_damaged_database_is_refused_and_rebuilt(self):
        self.node.start()
        before = self.up()
        held = self.hold("--gpu-memory", "4GiB")
        domains = {d["domain"]["name"]: d["pid"] for d in self.node.status()["domains"]}
        ids = {name: share["share"]["id"] for name, share in self.node.shares().items()}
        self.node.kill()
        database = self.node.state / "node.db"
        database.write_bytes(b"garbage" * 4096)
        for part in ("node.db-wal", "node.db-shm"):
            (self.node.state / part).unlink(missing_ok=True)
        self.daemon_fails(INVALID, "sublet daemon --rebuild")
        self.assertIsNone(held.poll())
        self.node.start("--rebuild")
        status = self.node.await_quiet()
        shares = self.node.shares()
        self.assertEqual({name: shares[name]["pid"] for name in before}, before)
        self.assertEqual({name: share["share"]["id"] for name, share in shares.items()}, ids)
        self.assertEqual(shares["sh"]["pid"], held.pid)
        self.assertEqual({d["domain"]["name"]: d["pid"] for d in status["domains"]}, domains)
        self.assertEqual(self.node.leaks(status), [])
        self.assertTrue(list(self.node.state.glob("node.db.damaged-*")))
        # The node goes on from there.
        held.kill()
        wait_for("it is returned", lambda: "sh" not in self.node.shares())
        self.assertEqual(self.pids(), before)
        os.kill(before["one/0"], signal.SIGKILL)
        wait_for("it is started again", lambda: self.pids()["one/0"] not in (None, before["one/0"]))
        new = self.hold("--gpu-memory", "1GiB")
        self.assertNotIn(self.node.shares()["sh"]["share"]["id"], ids.values())
        new.kill()
        done = self.node.verb("down")
        self.assertEqual(done.returncode, 0, done.stderr + self.node.said())
        wait_for("nothing is left", lambda: not self.node.shares())

    def test_a_state_of_another_version_is_refused(self):
        self.node.start()
        before = self.up()
        self.node.kill()
        for version, words in ((99, "version 99"), (0, "version 0")):
            with sqlite3.connect(self.node.state / "node.db") as database:
                database.execute(f"PRAGMA user_version = {version}")
            database.close()
            self.daemon_fails(CONFLICT, words, "--rebuild")
        for pid in before.values():
            os.kill(pid, 0)
        with sqlite3.connect(self.node.state / "node.db") as database:
            database.execute("PRAGMA user_version = 1")
        database.close()
        self.node.start()
        self.assertEqual(self.pids(), before)

    @unittest.skipUnless(os.geteuid() == 0, "it needs root, to mount a file system")
    def test_a_full_disk_and_a_read_only_one(self):
        self.node.state.mkdir(mode=0o700)
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none",
                                str(self.node.state)], capture_output=True, text=True)
        if mount.returncode != 0:
            self.skipTest(mount.stderr)
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.node.state)], capture_output=True)
        self.node.start()
        before = self.up()
        full = self.node.state / "full"
        try:
            with open(full, "wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass
        except OSError:
            pass
        # What runs goes on; what can't be written down isn't begun.
        def said():
            done = self.node.verb("run", "--gpu-memory", "1GiB", "--", "true")
            self.assertIn(done.returncode, (0, IO), done.stderr)
            return "the disk is full" in self.node.said()
        wait_for("it is said", said)
        self.assertEqual(self.pids(), before)
        self.assertEqual(self.node.leaks(self.node.status()), [])
        self.node.kill()
        full.unlink()
        self.node.start()
        self.assertEqual(self.pids(), before)
        self.node.stop()
        # Over it, because what runs has its logs open.
        state = str(self.node.state)
        subprocess.run(["mount", "--bind", state, state], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", state], capture_output=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", state], check=True)
        self.daemon_fails(PERMISSION, "Read-only file system")
        for pid in before.values():
            os.kill(pid, 0)
        subprocess.run(["umount", state], check=True)
        self.node.start()
        self.assertEqual(self.pids(), before)

    # The API.

    def grant(self):
        """A share for a process that only asks, since who asks holds it."""
        code = ("import sys; sys.path.insert(0, sys.argv[1])\n"
                "from node_api import ask\n"
                "body = '{\"memory_mib\": 1024, \"sm_percent\": 10}'\n"
                "print(*ask(sys.argv[2], 'POST', '/v1/shares', body), sep='\\n', end='')\n")
        done = self.begin(PYTHON, "-c", code, str(HERE), str(self.node.socket))
        status, kind, body = done.communicate(timeout=60)[0].split("\n", 2)
        self.assertEqual(status, "200", body)
        openapi_check.check("/v1/shares", "POST", 200, body, kind)

    def test_answers_are_as_the_document_has_them(self):
        self.use("a100-80gb:1")
        self.node.start("--config", self.write("daemon.yaml", "version: sublet.daemon/v1\n"))

        def answers(method, path, status, body=None):
            given = ask(self.node.socket, method, path, body)
            self.assertEqual(given.status, status, f"{method} {path}: {given.text}")
            openapi_check.check(path, method, given.status, given.text, given.type)
            return given.text
        answers("GET", "/v1/health", 200)
        answers("GET", "/v1/node", 200)
        uuid = self.node.status()["gpus"][0]["uuid"]
        mig = json.dumps({"gpus": [{"uuid": uuid, "mig": False, "instances": []}]})
        answers("PUT", "/v1/mig?dry_run=1", 200, mig)
        answers("PUT", "/v1/mig", 200, mig)
        answers("GET", "/v1/plan", 404)
        answers("DELETE", "/v1/plan", 200)  # Its last line is the error.
        planned = self.node.verb("plan", "--json", self.write("fleet.yaml", FLEET))
        self.assertEqual(planned.returncode, 0, planned.stderr)
        plan = json.dumps({"plan": json.loads(planned.stdout), "directory": str(self.node.folder)})
        answers("PUT", "/v1/plan?dry_run=1", 200, plan)
        answers("PUT", "/v1/plan", 200, plan)
        answers("PUT", "/v1/plan", 400, "{}")
        answers("GET", "/v1/plan", 200)
        granted = json.loads(answers("POST", "/v1/shares", 409, '{"memory_mib": 900000}'))
        self.assertEqual(granted["error"]["code"], "infeasible")
        answers("POST", "/v1/shares", 400, '{"memory": 1}')
        self.grant()
        answers("GET", "/v1/status", 200)
        answers("GET", "/v1/events", 200)
        answers("GET", "/v1/events?after=x", 400)
        answers("GET", "/v1/logs/one/0?lines=3", 200)
        answers("GET", "/v1/logs/none/0", 404)
        answers("POST", "/v1/replicas/one/0/restart", 200)
        answers("POST", "/v1/replicas/none/0/restart", 404)
        answers("GET", "/metrics", 200)
        answers("DELETE", "/v1/shares/s999", 404)
        answers("PUT", "/v1/mig", 400, "{")
        answers("DELETE", "/v1/plan", 200)
        answers("POST", "/v1/stop", 200)
        self.assertEqual(self.node.daemon.wait(20), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)

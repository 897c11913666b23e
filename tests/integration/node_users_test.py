"""Two tenants with users of their own on one node: neither reaches what is the other's.

Usage: node_users_test.py SUBLET_PROGRAM

It needs root, to start processes of other users; those need no name on this machine.
"""

import json
import os
import pathlib
import subprocess
import sys
import unittest

from node_harness import Node

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
ANN, BOB, EVE = 20001, 20002, 20003  # Of tenant a, of tenant b, of none.
NOT_FOUND, PERMISSION = 4, 9

CONFIG = f"""
version: sublet.daemon/v1
socket: {{mode: "0666"}}
tenants:
  - {{name: a, users: [{ANN}], run_as: {ANN}}}
  - {{name: b, users: [{BOB}], run_as: {BOB}, quota: {{gpu_memory: 30GiB, shares: 3}}}}
  - {{name: guests, users: [{EVE}]}}
"""

FLEET = f"""
version: sublet.fleet/v1
name: two
tenants:
  - {{name: a, isolation: fault}}
  - {{name: b, isolation: fault}}
workloads:
  - name: ann
    tenant: a
    memory: 4GiB
    compute: {{sm_percent: 20}}
    env: {{TOKEN: for-ann-alone}}
    command: [{PYTHON}, {HERE}/gpu_client.py, "64"]
  - name: bob
    tenant: b
    memory: 4GiB
    compute: {{sm_percent: 20}}
    env: {{TOKEN: for-bob-alone}}
    command: [{PYTHON}, {HERE}/gpu_client.py, "65"]
"""

# Each line is what one process of another user is told about one attempt.
ATTEMPTS = """
import os, socket, sys
log, pipe, replica, server = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def attempt(what, action):
    try:
        action()
        print(what, "succeeded")
    except OSError as error:
        print(what, type(error).__name__)
def connect():
    socket.socket(socket.AF_UNIX).connect(pipe + "/control")
attempt("read log", lambda: open(log).read())
attempt("write log", lambda: open(log, "a"))
attempt("list pipe", lambda: os.listdir(pipe))
attempt("connect pipe", connect)
attempt("list domains", lambda: os.listdir(os.path.dirname(pipe)))
attempt("list logs", lambda: os.listdir(os.path.dirname(log)))
attempt("signal replica", lambda: os.kill(replica, 0))
attempt("signal server", lambda: os.kill(server, 0))
attempt("read environment", lambda: open(f"/proc/{replica}/environ").read())
"""


@unittest.skipUnless(os.geteuid() == 0, "it needs root, to start processes of other users")
class UsersTest(unittest.TestCase):
    def setUp(self):
        self.node = Node(SUBLET, "l4:1")  # Without MIG, so that plans use MPS.
        self.addCleanup(self.node.close)
        self.node.folder.chmod(0o755)
        sim = self.node.folder / "sim"
        sim.mkdir()
        sim.chmod(0o777)
        config = self.node.folder / "daemon.yaml"
        config.write_text(CONFIG)
        self.node.start("--config", str(config))

    def up(self):
        fleet = self.node.folder / "fleet.yaml"
        fleet.write_text(FLEET)
        done = self.node.verb("up", str(fleet))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + self.node.said())
        return self.node.shares()

    def as_user(self, uid, *command, timeout=60):
        return subprocess.run(command, env=self.node.environment, text=True, capture_output=True,
                              timeout=timeout, stdin=subprocess.DEVNULL, user=uid, group=uid,
                              extra_groups=[])

    def verb_as(self, uid, *arguments):
        return self.as_user(uid, SUBLET, *arguments)

    def hold_as(self, uid, *flags):
        """A share of that user with a client of the GPU in it, which works."""
        before = {share["share"]["id"] for share in self.node.status()["shares"]}
        process = subprocess.Popen(
            [SUBLET, "run", *flags, "--", PYTHON, str(HERE / "gpu_client.py")],
            env=self.node.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, user=uid, group=uid, extra_groups=[])
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        line = process.stdout.readline()
        self.assertEqual(line, "works\n", line or process.stderr.read() + self.node.said())
        new = [share for share in self.node.status()["shares"]
               if share["share"]["id"] not in before]
        self.assertEqual([share["pid"] for share in new], [process.pid])
        return process, new[0]

    def test_replicas_run_as_their_tenants_users(self):
        shares = self.up()
        for name, uid in (("ann/0", ANN), ("bob/0", BOB)):
            share = shares[name]
            self.assertEqual(os.stat(f"/proc/{share['pid']}").st_uid, uid)
            self.assertEqual(os.stat(share["log"]).st_uid, uid)
        for domain in self.node.status()["domains"]:
            uid = ANN if domain["domain"]["tenant"] == "a" else BOB
            self.assertEqual(os.stat(f"/proc/{domain['pid']}").st_uid, uid)
            self.assertEqual(os.stat(domain["pipe_directory"]).st_mode & 0o777, 0o700)

    def test_a_process_of_one_tenant_reaches_nothing_of_anothers(self):
        shares = self.up()
        domains = {each["domain"]["tenant"]: each for each in self.node.status()["domains"]}
        bob, server = shares["bob/0"], domains["b"]
        for uid in (ANN, EVE):
            done = self.as_user(uid, PYTHON, "-c", ATTEMPTS, bob["log"], server["pipe_directory"],
                                str(bob["pid"]), str(server["pid"]))
            self.assertEqual(done.returncode, 0, done.stderr)
            answers = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
            self.assertEqual(len(answers), 9)
            self.assertEqual(set(answers.values()), {"PermissionError"}, answers)
        # That they are what is asked for, their own user can tell.
        done = self.as_user(BOB, PYTHON, "-c", ATTEMPTS, bob["log"], server["pipe_directory"],
                            str(bob["pid"]), str(server["pid"]))
        answers = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
        for what in ("list pipe", "connect pipe", "signal replica", "signal server",
                     "read environment"):
            self.assertEqual(answers[what], "succeeded", answers)

    def test_the_api_gives_a_tenant_only_what_is_its_own(self):
        self.up()
        _, held = self.hold_as(BOB, "--gpu-memory", "1GiB")
        for uid in (ANN, EVE):
            for verb in (["logs", "bob/0"], ["logs", held["share"]["id"]], ["restart", "bob/0"],
                         ["down"]):
                done = self.verb_as(uid, *verb)
                self.assertEqual(done.returncode, PERMISSION, f"{verb}: {done.stdout}{done.stderr}")
            status, body = self.ask_as(uid, "DELETE", f"/v1/shares/{held['share']['id']}")
            self.assertEqual(status, 403, body)
            for method, path in (("GET", "/v1/plan"), ("POST", "/v1/stop"), ("PUT", "/v1/mig"),
                                 ("PUT", "/v1/plan?dry_run=1")):
                status, body = self.ask_as(uid, method, path)
                self.assertEqual(status, 403, f"{method} {path}: {body}")
        self.assertEqual(self.verb_as(BOB, "logs", "bob/0").stdout, "works\n")
        self.assertEqual(self.verb_as(ANN, "logs", "ann/0").stdout, "works\n")
        status, body = self.ask_as(BOB, "DELETE", f"/v1/shares/{held['share']['id']}")
        self.assertEqual(status, 200, body)

    def ask_as(self, uid, method, path):
        code = ("import sys; sys.path.insert(0, sys.argv[1])\n"
                "from node_api import ask\n"
                "answer = ask(*sys.argv[2:])\n"
                "print(answer.status); print(answer.text)")
        done = self.as_user(uid, PYTHON, "-c", code, str(HERE), str(self.node.socket), method, path)
        self.assertEqual(done.returncode, 0, done.stderr)
        status, _, body = done.stdout.partition("\n")
        return int(status), body

    def test_nobody_is_told_what_anothers_command_was_given(self):
        self.up()
        self.verb_as(BOB, "run", "--gpu-memory", "1GiB", "--", "sh", "-c", "true for-bob-alone")
        told = [self.node.said()]
        for verb in (["ps"], ["ps", "--json"], ["events"]):
            told.append(self.verb_as(ANN, *verb).stdout)
        for path in ("/v1/status", "/v1/node", "/v1/plan", "/v1/events", "/metrics"):
            told.append(self.ask_as(ANN, "GET", path)[1])
        for text in told:
            self.assertNotIn("-alone", text)
            self.assertNotIn("gpu_client", text)

    def test_each_runs_in_its_own_tenant(self):
        for uid, tenant in ((ANN, "a"), (BOB, "b"), (EVE, "guests")):
            _, held = self.hold_as(uid, "--gpu-memory", "1GiB", "--sm", "10%")
            self.assertEqual(held["share"]["tenant"], tenant)
            self.assertEqual(held["share"]["mode"], "mps")
        # Each one's server runs as who uses it; a client of somebody else's would pass it by.
        owners = {domain["domain"]["tenant"]: os.stat(domain["pipe_directory"]).st_uid
                  for domain in self.node.status()["domains"]}
        self.assertEqual(owners, {"a": ANN, "b": BOB, "guests": EVE})
        for flags, status, words in (
                (["--tenant", "b"], PERMISSION, "may not act for tenant b"),
                (["--tenant", "nobody"], NOT_FOUND, "no such tenant: 'nobody'")):
            done = self.verb_as(ANN, "run", *flags, "--gpu-memory", "1GiB", "--", "true")
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertIn(words, done.stderr)
        done = self.verb_as(20009, "run", "--gpu-memory", "1GiB", "--", "true")
        self.assertEqual(done.returncode, PERMISSION, done.stderr)
        self.assertIn("is in no tenant", done.stderr)

    def test_what_a_tenant_marks_as_the_nodes_is_not_taken_over(self):
        """A rebuilding daemon goes by the marks of processes, and anybody may set those."""
        self.up()
        record = next(record for record in self.records() if '"bob/0"' in record)
        forged = json.loads(record)
        forged["command"] = ["touch", str(self.node.folder / "forged")]
        forged["share"]["tenant"] = "guests"  # Whose replicas are the daemon's own user's.
        forged["id"] = forged["share"]["name"] = "forged/0"
        environment = dict(self.node.environment, SUBLET_SHARE="s900",
                           SUBLET_STATE=str(self.node.state), SUBLET_RECORD=json.dumps(forged))
        liar = subprocess.Popen(["sleep", "1000"], env=environment, user=EVE, group=EVE,
                                extra_groups=[])
        self.addCleanup(liar.wait)
        self.addCleanup(liar.kill)
        self.node.kill()
        self.node.start("--config", str(self.node.folder / "daemon.yaml"), "--rebuild")
        self.assertEqual(set(self.node.shares()), {"ann/0", "bob/0"})
        self.assertEqual(self.node.status()["shares"][0]["state"], "running")
        self.assertFalse((self.node.folder / "forged").exists())

    def records(self):
        for share in self.node.status()["shares"]:
            yield self.node.environment_of(share["pid"])["SUBLET_RECORD"]


if __name__ == "__main__":
    unittest.main(verbosity=2)

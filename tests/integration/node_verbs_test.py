"""`sublet run`, `up`, `ps`, `logs`, `down` as a user calls them: no daemon is there beforehand, and
the GPU is a simulated one.

Usage: node_verbs_test.py SUBLET_PROGRAM
"""

import concurrent.futures
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
import urllib.request

from node_harness import marked, wait_for

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/05_up/three-models.yaml"
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
INFEASIBLE, USAGE, INVALID, NOT_FOUND, UNAVAILABLE, CONFLICT = 1, 2, 3, 4, 5, 7


class VerbsTest(unittest.TestCase):
    def setUp(self):
        # Short: the sockets of MPS domains lie below.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sv", dir="/tmp"))
        self.addCleanup(self.clean)
        for name in ("run", "sim"):
            (self.folder / name).mkdir(mode=0o700)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "SUBLET_SIM": "a100-80gb:1",
            "SUBLET_SIM_STATE": str(self.folder / "sim"),
        }

    def clean(self):
        def left():
            return marked("XDG_STATE_HOME", self.folder / "state")
        for pid in left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_for("all is ended", lambda: not left())
        shutil.rmtree(self.folder, ignore_errors=True)

    # What a verb does.

    def sublet(self, *arguments, status=0, without=(), **options):
        environment = {name: value for name, value in self.environment.items()
                       if name not in without}
        options.setdefault("stdin", subprocess.DEVNULL)
        if "input" in options:
            del options["stdin"]
        done = subprocess.run([SUBLET, *map(str, arguments)], env=environment, text=True,
                              capture_output=True, timeout=120, **options)
        if status is not None:
            self.assertEqual(done.returncode, status, done.stdout + done.stderr + self.said())
        return done

    def run_command(self, *command, flags=(), **options):
        return self.sublet("run", *flags, "--", *command, **options)

    def begin(self, *arguments, **options):
        process = subprocess.Popen([SUBLET, *map(str, arguments)], env=self.environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, **options)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    # What there is.

    def said(self):
        logs = self.folder.glob("state/sublet/*/daemon.log")
        return "".join(path.read_text()[-4000:] for path in logs)

    def status(self):
        return json.loads(self.sublet("ps", "--json").stdout)

    def shares(self):
        return {share["share"]["name"]: share for share in self.status()["shares"]}

    def await_no_shares(self):
        wait_for("no share is left", lambda: not self.shares())

    def daemons(self):
        found = []
        for pid in marked("XDG_STATE_HOME", self.folder / "state"):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:3] == [b"daemon", b"--embedded"]:
                found.append(pid)
        return found

    def fleet(self, *workloads):
        path = self.folder / "fleet.yaml"
        path.write_text("version: sublet.fleet/v1\nname: small\nworkloads:\n" +
                        "".join(textwrap.indent(textwrap.dedent(text), "  ")
                                for text in workloads))
        return path


class RunTest(VerbsTest):
    def test_a_command_finds_its_share_in_its_environment(self):
        done = self.run_command("env", flags=("--gpu-memory", "10GiB", "--sm", "20%"))
        variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        self.assertRegex(variables["CUDA_VISIBLE_DEVICES"], "^GPU-")
        self.assertEqual(variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "20")
        self.assertTrue(os.path.isabs(variables["CUDA_MPS_PIPE_DIRECTORY"]))
        self.assertEqual(variables["SUBLET_SIM"], "a100-80gb:1")

    def test_a_command_gets_its_arguments_as_they_are(self):
        words = ["[a,b]", "--", "--gpu-memory", "plan", "", "a b", "%", "-x", "++", "'\""]
        done = self.run_command(PYTHON, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))",
                                *words)
        self.assertEqual(json.loads(done.stdout), words)

    def test_a_command_ends_as_it_would_without_sublet(self):
        part = ("--gpu-memory", "1GiB")
        self.run_command("sh", "-c", "exit 3", flags=part, status=3)
        self.run_command("sh", "-c", "kill -TERM $$", flags=part, status=-signal.SIGTERM)
        self.run_command("sh", "-c", "kill -SEGV $$", flags=part, status=-signal.SIGSEGV)
        self.await_no_shares()

    def test_a_command_reads_and_writes_what_sublet_would(self):
        done = self.run_command("sh", "-c", "cat; echo told >&2", input="one\ntwo\n")
        self.assertEqual(done.stdout, "one\ntwo\n")
        self.assertEqual(done.stderr.splitlines()[-1], "told")

    def test_a_command_that_is_not_there_is_refused_before_a_share_is_asked_for(self):
        done = self.run_command("no-such-command", status=127)
        self.assertEqual(done.stderr, "sublet: no-such-command: no such command\n")
        self.run_command("/etc/passwd", status=126)
        self.assertEqual(self.daemons(), [])

    def test_words_that_make_no_request_are_refused_before_a_daemon_is_started(self):
        for flags in (("--sm", "0"), ("--gpu-memory", "much"), ("--mode", "turbo"),
                      ("--mode", "mps", "--profile", "1g.10gb"), ("--json",)):
            self.run_command("true", flags=flags, status=USAGE)
        self.sublet("run", "true", status=USAGE)
        self.sublet("run", "--", status=USAGE)
        self.assertEqual(self.daemons(), [])

    def test_a_command_has_the_terminal(self):
        seen = b""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(SUBLET, [SUBLET, "run", "--", "sh", "-c",
                               "test -t 0 && test -t 1 && test -t 2 && stty size && echo yes"],
                      self.environment)
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:
                break
            if not part:
                break
            seen += part
        os.close(terminal)
        self.assertEqual(os.waitpid(pid, 0)[1], 0, seen)
        self.assertIn(b"yes", seen)

    def test_ctrl_c_at_the_terminal_ends_the_command(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(SUBLET, [SUBLET, "run", "--", "sh", "-c", "echo here; exec sleep 1000"],
                      self.environment)
        seen = b""
        while b"here" not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        status = os.waitpid(pid, 0)[1]
        os.close(terminal)
        self.assertTrue(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT, status)
        self.await_no_shares()

    def test_the_command_is_the_process_that_was_started(self):
        process = self.begin("run", "--", "sh", "-c", "echo $$; exec sleep 1000")
        self.assertEqual(int(process.stdout.readline()), process.pid)
        share = self.shares()["sh"]
        self.assertEqual(share["pid"], process.pid)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=10), -signal.SIGTERM)
        self.await_no_shares()

    def test_a_command_has_no_child_that_it_did_not_start(self):
        self.assertEqual(self.daemons(), [])
        code = textwrap.dedent("""
            import os
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("none")
            """)
        self.assertEqual(self.run_command(PYTHON, "-c", code).stdout, "none\n")
        self.assertEqual(len(self.daemons()), 1)

    def test_a_killed_command_gives_back_its_share_and_takes_its_children_along(self):
        process = self.begin("run", "--gpu-memory", "10GiB", "--", "sh", "-c",
                             "sleep 1000 & echo $!; wait")
        child = int(process.stdout.readline())
        self.assertIn("sh", self.shares())
        process.kill()
        process.wait()
        self.await_no_shares()
        wait_for("its child has ended", lambda: not os.path.exists(f"/proc/{child}"))

    def test_what_does_not_fit_is_refused_and_leaves_nothing(self):
        done = self.run_command("touch", self.folder / "ran", flags=("--gpu-memory", "500GiB"),
                                status=INFEASIBLE)
        self.assertRegex(done.stderr, "^sublet: ")
        self.assertFalse((self.folder / "ran").exists())
        self.assertEqual(self.shares(), {})
        self.assertEqual(self.status()["domains"], [])

    def test_a_gpu_that_is_not_there_is_refused(self):
        for gpu in ("7", "GPU-00000000-0000-0000-0000-000000000000"):
            self.run_command("true", flags=("--gpu", gpu), status=NOT_FOUND)

    def test_a_second_command_is_refused_where_the_first_has_the_gpu_alone(self):
        first = self.begin("run", "--mode", "exclusive", "--", "sh", "-c",
                           "echo here; exec sleep 1000")
        first.stdout.readline()
        done = self.run_command("true", flags=("--gpu-memory", "1GiB"), status=CONFLICT)
        self.assertIn("held alone", done.stderr)
        first.kill()
        first.wait()
        self.await_no_shares()
        self.run_command("true", flags=("--gpu-memory", "1GiB"))

    def test_a_command_waits_for_what_the_one_before_it_left_behind(self):
        slow_to_end = ("(trap '' TERM; touch ready; sleep 0.3) >/dev/null 2>&1 & "
                       "until [ -e ready ]; do sleep 0.01; done")
        alone = ("--mode", "exclusive")
        self.run_command("sh", "-c", slow_to_end, flags=alone, cwd=self.folder)
        self.run_command("true", flags=alone)

    def test_what_nobody_enforces_is_said(self):
        done = self.run_command("true", flags=("--mode", "time-slicing", "--gpu-memory", "1GiB"),
                                status=None)
        if done.returncode == 0:
            self.assertIn("not enforced", done.stderr)
        else:
            self.assertEqual(done.returncode, INFEASIBLE, done.stderr)


class DetachTest(VerbsTest):
    def detach(self, *command, flags=()):
        done = self.run_command(*command, flags=("--detach", "--json", *flags))
        return json.loads(done.stdout)

    def test_a_detached_command_runs_on_with_its_output_in_the_log(self):
        done = self.run_command("sh", "-c", "echo begun; echo oops >&2; exec sleep 1000",
                                flags=("--detach",))
        identity = done.stdout.strip()
        self.assertRegex(identity, "^s[0-9]+$")
        share = self.shares()["sh"]
        self.assertEqual(share["share"]["id"], identity)
        wait_for("it has printed", lambda: "oops" in self.sublet("logs", identity).stdout)
        self.assertEqual(self.sublet("logs", "-n", "1", identity).stdout, "oops\n")
        os.kill(share["pid"], signal.SIGTERM)
        self.await_no_shares()

    def test_a_detached_command_is_nobodys_child_and_has_no_terminal(self):
        told = self.detach("sleep", "1000")
        fields = pathlib.Path(f"/proc/{told['pid']}/stat").read_text().rpartition(")")[2].split()
        parent, session, terminal = int(fields[1]), int(fields[3]), int(fields[4])
        self.assertNotEqual(parent, os.getpid())
        self.assertNotEqual(session, os.getsid(0))
        self.assertEqual(terminal, 0)
        self.assertEqual(os.readlink(f"/proc/{told['pid']}/fd/0"), "/dev/null")
        os.kill(told["pid"], signal.SIGKILL)
        self.await_no_shares()

    def test_a_refusal_is_told_to_whoever_detached(self):
        done = self.run_command("true", flags=("--detach", "--gpu-memory", "500GiB"),
                                status=INFEASIBLE)
        self.assertRegex(done.stderr, "^sublet: ")
        self.assertEqual(done.stdout, "")
        self.run_command("no-such-command", flags=("--detach",), status=127)
        self.assertEqual(self.shares(), {})

    def test_a_command_that_cannot_be_executed_gives_its_share_back(self):
        script = self.folder / "script"
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)
        self.run_command(script, status=127)
        self.run_command(script, flags=("--detach",), status=127)
        self.await_no_shares()


class DaemonTest(VerbsTest):
    def test_many_verbs_at_once_start_one_daemon(self):
        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            done = list(pool.map(
                lambda i: self.run_command("echo", i, flags=("--gpu-memory", "1GiB")), range(8)))
        self.assertEqual([each.stdout for each in done], [f"{i}\n" for i in range(8)])
        self.assertEqual(len(self.daemons()), 1)

    def test_a_daemon_that_cannot_start_says_why_once(self):
        self.environment["SUBLET_SIM"] = "no-such-board:1"
        done = self.run_command("true", status=UNAVAILABLE)
        self.assertIn("the node daemon didn't start", done.stderr)
        self.assertEqual(done.stderr.count("sublet: "), 1)
        self.assertEqual(self.daemons(), [])

    def test_verbs_that_look_need_a_daemon(self):
        for arguments in (("ps",), ("down",), ("logs", "x"), ("events",), ("restart", "x/0")):
            done = self.sublet(*arguments, status=UNAVAILABLE)
            self.assertIn("no node daemon of yours is running", done.stderr)
        self.assertEqual(self.daemons(), [])

    def test_a_daemon_that_was_killed_is_started_anew_by_the_next_run(self):
        part = ("--gpu-memory", "1GiB")
        self.run_command("true", flags=part)
        [daemon] = self.daemons()
        os.kill(daemon, signal.SIGKILL)
        self.run_command("true", flags=part)
        self.assertNotIn(daemon, self.daemons())

    def test_verbs_that_look_find_the_only_simulated_node(self):
        self.run_command("true")
        done = self.sublet("ps", "--json", without=("SUBLET_SIM", "SUBLET_SIM_STATE"))
        self.assertTrue(json.loads(done.stdout)["simulated"])
        self.assertEqual(done.stderr, "sublet: using the simulated node a100-80gb:1\n")

    def test_verbs_that_start_something_do_not_land_on_a_simulated_node(self):
        self.run_command("true")
        done = self.sublet("run", "--", "true", without=("SUBLET_SIM", "SUBLET_SIM_STATE"),
                           status=None)
        # On a machine with a driver it is the real node's.
        if done.returncode != 0:
            self.assertIn("SUBLET_SIM=a100-80gb:1 sublet", done.stderr)

    def test_two_simulated_nodes_at_work_are_listed(self):
        first = self.begin("run", "--", "sh", "-c", "echo here; exec sleep 1000")
        first.stdout.readline()
        self.environment["SUBLET_SIM"] = "h200:1"
        second = self.begin("run", "--", "sh", "-c", "echo here; exec sleep 1000")
        second.stdout.readline()
        done = self.sublet("ps", without=("SUBLET_SIM", "SUBLET_SIM_STATE"), status=CONFLICT)
        self.assertIn("a100-80gb:1", done.stderr)
        self.assertIn("h200:1", done.stderr)
        second.kill()
        second.wait()
        self.await_no_shares()
        done = self.sublet("ps", without=("SUBLET_SIM", "SUBLET_SIM_STATE"))
        self.assertIn("a100-80gb:1", done.stderr)


class UpTest(VerbsTest):
    def setUp(self):
        super().setUp()
        self.example = self.folder / "example"
        shutil.copytree(EXAMPLE.parent, self.example)
        ports = iter(self.free_ports(4))
        text = (self.example / "three-models.yaml").read_text()
        self.port = {}
        for name, declared, count in (("chat", 8100, 1), ("search", 8110, 2), ("vision", 8120, 1)):
            self.port[name] = next(ports)
            if count == 2:
                self.assertEqual(next(ports), self.port[name] + 1)
            text = text.replace(f"port: {declared}", f"port: {self.port[name]}")
        self.file = self.example / "three-models.yaml"
        self.file.write_text(text.replace("[python3,", f"[{PYTHON},"))

    def free_ports(self, count):
        """A row of ports that nobody listens on, below those that the kernel hands out."""
        for _ in range(100):
            first = random.randrange(10000, 32000)
            sockets = []
            try:
                for port in range(first, first + count):
                    each = socket.socket()
                    sockets.append(each)
                    each.bind(("127.0.0.1", port))
                return list(range(first, first + count))
            except OSError:
                continue
            finally:
                for each in sockets:
                    each.close()
        self.fail("no free ports")

    def ask(self, name, path, data=None):
        url = f"http://127.0.0.1:{self.port[name]}{path}"
        with urllib.request.urlopen(url, data=data, timeout=30) as answer:
            return json.load(answer)

    def test_three_models_come_up_work_and_go(self):
        done = self.sublet("up", self.file)
        self.assertIn("4 replicas are up", done.stdout)
        done = self.sublet("ps", "--json", without=("SUBLET_SIM", "SUBLET_SIM_STATE"))
        status = json.loads(done.stdout)
        self.assertEqual(status["plan"], "three-models")
        shares = {share["share"]["name"]: share for share in status["shares"]}
        self.assertEqual(set(shares), {"chat/0", "search/0", "search/1", "vision/0"})
        self.assertEqual({share["state"] for share in shares.values()}, {"ready"})
        self.assertEqual(len(status["domains"]), 2)
        self.assertNotEqual(shares["chat/0"]["share"]["domain"],
                            shares["vision/0"]["share"]["domain"])
        chat = self.ask("chat", "/")
        self.assertEqual(chat["memory_mib"], 42 << 10)
        self.assertEqual(chat["pid"], shares["chat/0"]["pid"])
        self.assertLess(chat["sms"], 60)  # Of 108: half.
        self.assertGreater(self.ask("vision", "/infer", b"{}")["requests"], 1)
        self.assertIn("serves port", self.sublet("logs", "search/1").stdout)
        self.assertIn("chat/0", self.sublet("ps").stdout)
        self.assertIn("chat/0", self.sublet("events").stdout)
        done = self.sublet("down")
        self.assertIn("three-models is down", done.stdout)
        status = self.status()
        self.assertEqual((status["shares"], status["domains"]), ([], []))
        for share in shares.values():
            self.assertFalse(os.path.exists(f"/proc/{share['pid']}"))

    def test_what_is_up_already_is_left_alone(self):
        self.sublet("up", self.file)
        before = {name: share["pid"] for name, share in self.shares().items()}
        done = self.sublet("up", self.file)
        self.assertIn("nothing to do", done.stdout)
        self.assertEqual({name: share["pid"] for name, share in self.shares().items()}, before)
        self.assertIn("Nothing to do", self.sublet("up", "--dry-run", self.file).stdout)

    def test_a_changed_file_changes_only_what_it_must(self):
        self.sublet("up", self.file)
        before = {name: share["pid"] for name, share in self.shares().items()}
        self.file.write_text(self.file.read_text().replace("replicas: 2", "replicas: 1"))
        steps = json.loads(self.sublet("up", "--dry-run", "--json", self.file).stdout)["steps"]
        self.assertEqual({name: share["pid"] for name, share in self.shares().items()}, before)
        self.assertTrue(any("search/" in step for step in steps), steps)
        self.sublet("up", self.file)
        after = {name: share["pid"] for name, share in self.shares().items()}
        self.assertEqual(len(after), 3)
        for name in ("chat/0", "vision/0"):
            self.assertEqual(after[name], before[name])

    def test_a_plan_is_brought_up_as_it_is(self):
        plan = self.example / "plan.json"
        self.sublet("plan", self.file, "-o", plan)
        self.sublet("up", plan)
        self.assertEqual(len(self.shares()), 4)
        self.sublet("down")

    def test_the_steps_as_json_end_with_done(self):
        lines = self.sublet("up", "--json", self.file).stdout.splitlines()
        steps = [json.loads(line) for line in lines]
        self.assertEqual(steps[-1], {"done": True})
        self.assertTrue(any(step.get("step") == "replica chat/0" and step["state"] == "done"
                            for step in steps), steps)
        lines = self.sublet("down", "--json").stdout.splitlines()
        self.assertEqual(json.loads(lines[-1]), {"done": True})

    def test_a_replica_is_restarted(self):
        self.sublet("up", self.file)
        before = self.shares()["chat/0"]["pid"]
        self.sublet("restart", "chat/0")
        wait_for("it is ready again",
                 lambda: self.shares()["chat/0"].get("pid", before) != before and
                 self.shares()["chat/0"]["state"] == "ready")
        self.sublet("restart", "chat/7", status=NOT_FOUND)
        self.sublet("logs", "chat/7", status=NOT_FOUND)

    def test_a_file_that_is_wrong_starts_no_daemon(self):
        self.file.write_text(self.file.read_text().replace("replicas: 2", "replcas: 2"))
        done = self.sublet("up", self.file, status=INVALID)
        self.assertIn("did you mean 'replicas'", done.stderr)
        self.sublet("up", self.folder / "no-such-file", status=NOT_FOUND)
        self.assertEqual(self.daemons(), [])

    def test_a_fleet_that_does_not_fit_changes_nothing(self):
        self.sublet("up", self.file)
        before = {name: share["pid"] for name, share in self.shares().items()}
        self.file.write_text(self.file.read_text().replace("memory: 42GiB", "memory: 420GiB"))
        self.sublet("up", self.file, status=INFEASIBLE)
        self.assertEqual({name: share["pid"] for name, share in self.shares().items()}, before)


class PatienceTest(VerbsTest):
    SLOW = """
        - name: slow
          memory: 1GiB
          command: [sh, -c, "exec sleep 1000"]
          ready: {command: [test, -e, %s], period_s: 0.1}
        """

    def test_up_that_is_interrupted_leaves_the_node_at_work(self):
        gate = self.folder / "gate"
        process = self.begin("up", self.fleet(self.SLOW % gate))
        wait_for("the replica is starting",
                 lambda: self.daemons() and self.sublet("ps", status=None).returncode == 0 and
                 "slow/0" in self.shares())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=20), 128 + signal.SIGINT)
        self.assertIn("the node goes on", process.stderr.read())
        gate.touch()
        wait_for("it is ready", lambda: self.shares()["slow/0"]["state"] == "ready")
        self.sublet("down")

    def test_up_waits_no_longer_than_it_is_told_to(self):
        gate = self.folder / "gate"
        done = self.sublet("up", "--timeout", "1", self.fleet(self.SLOW % gate),
                           status=UNAVAILABLE)
        self.assertIn("not all is ready after 1 s", done.stderr)
        self.assertIn("slow/0", self.shares())
        gate.touch()
        wait_for("it is up", lambda: not self.status().get("operation"))
        self.sublet("down")
        self.assertEqual(self.shares(), {})

    def test_what_does_not_come_up_is_rolled_back(self):
        path = self.fleet("""
            - name: broken
              memory: 1GiB
              command: [sh, -c, "echo alas; exit 3"]
              restart: never
              ready: {command: ["false"], period_s: 0.1}
            """)
        done = self.sublet("up", path, status=None)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("broken/0", done.stderr)
        self.assertIn("it printed last: alas", done.stderr)
        self.assertEqual(self.shares(), {})

    def test_a_model_may_be_smaller_than_its_context(self):
        # The limit counts the CUDA context, which is larger the more SMs there are.
        self.sublet("up", self.fleet("""
            - name: tiny
              replicas: 2
              memory: 64MiB
              compute: {sm_percent: 60}
              command: [sleep, "1000"]
            """))
        share = self.shares()["tiny/0"]["share"]
        self.assertEqual((share["mode"], share["memory_limit_mib"]), ("mps", 64))
        self.assertGreater(share["memory_mib"], 2 * 64)
        self.sublet("down")

    def test_a_relative_command_begins_in_the_fleets_folder(self):
        script = self.folder / "here.sh"
        script.write_text("#!/bin/sh\npwd; exec sleep 1000\n")
        script.chmod(0o755)
        self.sublet("up", self.fleet("""
            - name: local
              memory: 1GiB
              command: [./here.sh]
            """), cwd="/")
        wait_for("it has printed", lambda: self.sublet("logs", "local/0").stdout)
        self.assertEqual(self.sublet("logs", "local/0").stdout.strip(), str(self.folder))

    def test_logs_follow(self):
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        self.sublet("up", self.fleet(f"""
            - name: talker
              memory: 1GiB
              command: [sh, -c, "echo one; cat {fifo}; exec sleep 1000"]
            """))
        reader = self.begin("logs", "-f", "talker/0")
        self.assertEqual(reader.stdout.readline(), "one\n")
        fifo.write_text("two\n")
        self.assertEqual(reader.stdout.readline(), "two\n")
        reader.send_signal(signal.SIGINT)
        self.assertEqual(reader.wait(timeout=10), -signal.SIGINT)
        follower = self.begin("events", "-f", "--json")
        first = json.loads(follower.stdout.readline())
        self.assertTrue({"sequence", "time", "subject_kind", "what"} <= set(first), first)
        self.assertTrue(re.match(r"\d{4}-\d\d-\d\dT", first["time"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)

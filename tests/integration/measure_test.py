"""`sublet measure` as it is shipped, on the simulated driver.

The commands of the documentation, and what goes wrong: a busy GPU, no driver, no MPS, a worker
that dies, Ctrl-C. Afterwards nothing of it may be left on the machine.

Usage: measure_test.py SUBLET_PROGRAM SIMULATED_NVML
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SUBLET = os.path.abspath(sys.argv[1])
NVML = os.path.abspath(sys.argv[2])
del sys.argv[1:3]

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORTY_SMALL = ROOT / "examples" / "03_plan" / "forty-small.yaml"

PARTIAL, USAGE, NOT_FOUND, UNAVAILABLE, CONFLICT = 1, 2, 4, 5, 7

# A process that takes 20 GiB of GPU 0 until its standard input ends.
TENANT = """
import ctypes, os, sys
sim = ctypes.CDLL(sys.argv[1])
none = ctypes.c_uint(0xFFFFFFFF)
assert sim.nvmlInit_v2() == 0
size = ctypes.c_ulonglong(20 << 30)
assert sim.subletSimProcessStart(os.getpid(), 0, none, none, size, 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""

PATIENCE_S = 15  # For what must happen soon, on a machine that may be busy.


def until(what, condition):
    """Asks until it is so. What comes back is what `condition` said."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain: " + what)
        time.sleep(0.005)


def proc(pid, name):
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # It has ended meanwhile, or is not ours.
        return b""


def variables(pid):
    text = proc(pid, "environ").decode(errors="replace")
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


class MeasureTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.temporary = self.path / "tmp"
        self.temporary.mkdir()
        self.cal = self.path / "cal.json"
        # TMPDIR is this test's alone, so that it also tells who belongs to this test.
        self.environment = {"PATH": os.environ["PATH"], "TMPDIR": str(self.temporary)}
        self.left_before = self.shared_places()

    def run_sublet(self, *arguments, status=0, **variables):
        done = subprocess.run([SUBLET, *map(str, arguments)], cwd=self.path,
                              env=dict(self.environment, **variables), text=True,
                              capture_output=True, timeout=280)
        self.assertEqual(done.returncode, status, done.stdout[-500:] + done.stderr)
        return done

    def measure(self, *arguments, **keywords):
        return self.run_sublet("measure", "--sim", "h200", "-o", self.cal, *arguments, **keywords)

    def start(self, *arguments, **variables):
        process = subprocess.Popen([SUBLET, "measure", "--sim", "h200", "-o", str(self.cal),
                                    *arguments], env=dict(self.environment, **variables),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def seen(self):
        return json.loads(self.cal.read_text())["measurement"]

    def reasons(self, seen, prefix=""):
        return [s["reason"] for s in seen["skipped"] if s["what"].startswith(prefix)]

    def processes(self):
        """Everything that was started by this test's program, daemons too."""
        numbers = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]
        return [n for n in numbers if variables(n).get("TMPDIR") == str(self.temporary)]

    def workers(self):
        return [n for n in self.processes() if b"measure-worker" in proc(n, "cmdline")]

    def pipe_folders(self):
        paths = {variables(n).get("CUDA_MPS_PIPE_DIRECTORY", "") for n in self.processes()}
        return {pathlib.Path(p) for p in paths if "sublet-mps-" in p}

    @staticmethod
    def shared_places():
        return {*pathlib.Path("/dev/shm").iterdir(), *pathlib.Path("/tmp").glob("sublet-mps-*")}

    @staticmethod
    def places_in_use():
        numbers = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]
        return {pathlib.Path(variables(n).get("CUDA_MPS_PIPE_DIRECTORY", "")) for n in numbers}

    def assert_nothing_left(self):
        until("its processes end", lambda: not self.processes())
        self.assertEqual(list(self.temporary.iterdir()), [])
        # Other tests may use these places now, but theirs go away, or have processes.
        mine = self.shared_places() - self.left_before
        until(f"gone: {mine}", lambda: not [p for p in mine - self.places_in_use() if p.exists()])

    def assert_refused(self, done, *words):
        self.assertEqual(done.stdout, "")
        lines = done.stderr.splitlines()
        self.assertTrue(lines[0].startswith("sublet: "), done.stderr)
        self.assertTrue(lines[1].startswith("  hint: "), done.stderr)
        self.assertEqual(len(lines), 2, done.stderr)
        for word in words:
            self.assertIn(str(word), done.stderr)
        self.assertFalse(self.cal.exists())


class WholeLab(MeasureTest):
    def test_the_quick_lab_fills_a_calibration_that_passes_and_that_the_planner_takes(self):
        page = self.path / "cal.html"
        self.measure("--quick", "--report", page)
        seen = self.seen()
        self.assertFalse(seen.get("partial", False))
        self.assertTrue(seen["simulated"])
        modes = {run["mode"] for run in seen["runs"]}
        self.assertEqual(modes, {"exclusive", "streams", "time-slicing", "mps"})
        self.assertEqual([s["what"] for s in seen["skipped"]], ["mig"])
        self.assertIn("MIG is off", seen["skipped"][0]["reason"])
        self.assert_sharing_as_known({run["id"]: run for run in seen["runs"]})
        self.assert_self_contained(page.read_text())
        self.assert_nothing_left()

        checked = self.run_sublet("measure", "--from", self.cal, "--check")
        self.assertIn("✓ 2 small processes under MPS", checked.stdout)
        plan = json.loads(self.run_sublet("plan", FORTY_SMALL, "--calibration", self.cal,
                                          "--json").stdout)
        self.assertEqual(plan["summary"]["gpus"], 1)

        self.assert_a_failed_lesson_is_told(seen)

    def assert_sharing_as_known(self, runs):
        for tenant in runs["time-slicing/small/x2"]["tenants"]:
            self.assertGreaterEqual(tenant["slowdown"], 2)
        for tenant in runs["mps/small/x2"]["tenants"]:
            self.assertLess(tenant["slowdown"], 1.1)

    def assert_self_contained(self, page):
        # Names of XML vocabularies are never fetched.
        addresses = {a for a in re.findall(r"https?://[^\s\"'`)<]+", page)
                     if not a.startswith("http://www.w3.org/")}
        self.assertEqual(addresses, set())
        self.assertEqual(re.findall(r"<(?:script|img|link)[^>]*\s(?:src|href)=[\"'](?!data:)[^>]*>",
                                    page), [])

    def assert_a_failed_lesson_is_told(self, seen):
        for run in seen["runs"]:
            if run["id"] != "mps/small/x2":
                continue
            for figures in [run["total_per_s"], *(t["rate_per_s"] for t in run["tenants"])]:
                figures.update({k: v / 2 for k, v in figures.items()})
        slow = self.path / "slow.json"
        slow.write_text(json.dumps(seen))
        self.run_sublet("measure", "--from", slow)
        told = self.run_sublet("measure", "--from", slow, "--check", status=1)
        self.assertIn("✗ 2 small processes under MPS", told.stdout)

    def test_the_same_seed_gives_the_same_rates(self):
        rates = []
        for _ in range(2):
            self.measure("--only", "streams", "--seed", "7")
            rates.append({r["id"]: r["total_per_s"]["value"] for r in self.seen()["runs"]})
        self.assertIn("streams/small/x2", rates[0])
        self.assertEqual(rates[0].keys(), rates[1].keys())
        for run, rate in rates[0].items():
            self.assertAlmostEqual(rates[1][run] / rate, 1, delta=0.005, msg=run)


class Interrupted(MeasureTest):
    def assert_kept_as_partial(self, process):
        self.assertEqual(process.wait(timeout=60), 128 + signal.SIGINT)
        seen = self.seen()
        self.assertTrue(seen["partial"])
        self.assertIn("interrupted", self.reasons(seen, "mps"))
        # What was done before it is kept.
        self.assertIn("alone/small", {run["id"] for run in seen["runs"]})
        self.assert_nothing_left()

    def test_in_the_middle_it_keeps_what_it_has_and_leaves_nothing(self):
        process = self.start("--full", "--only", "mps")
        # Forty clients of a daemon, at work or just about to be.
        until("clients of MPS", lambda: len(self.workers()) >= 40)
        folders = self.pipe_folders()
        self.assertTrue(folders)
        process.send_signal(signal.SIGINT)
        self.assert_kept_as_partial(process)
        self.assertEqual([f for f in folders if f.exists()], [])

    def test_while_mps_does_not_answer_it_does_not_wait_for_it_to_the_end(self):
        deaf = self.path / "deaf"
        deaf.write_text("#!/bin/sh\nexec sleep 600\n")
        deaf.chmod(0o755)
        process = self.start("--only", "mps", SUBLET_MPS_CONTROL=str(deaf))
        until("a daemon", lambda: any(b"sleep\x00600" in proc(n, "cmdline")
                                      for n in self.processes()))
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        self.assert_kept_as_partial(process)
        # It would give the daemon 20 s, and one question to it 10 s.
        self.assertLess(time.monotonic() - begun, 16)


class OthersOnTheGpu(MeasureTest):
    def setUp(self):
        super().setUp()
        self.environment.update(SUBLET_SIM="h200:1", SUBLET_SIM_STATE=str(self.path / "state"))
        # Of another TMPDIR, so that it isn't taken for something that was left.
        environment = dict(self.environment, TMPDIR="/tmp")
        self.tenant = subprocess.Popen([sys.executable, "-c", TENANT, NVML], text=True,
                                       env=environment, stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
        self.addCleanup(self.tenant.communicate)
        self.assertEqual(self.tenant.stdout.readline(), "ready\n")

    def test_are_named_and_the_lab_does_not_start(self):
        done = self.run_sublet("measure", "-o", self.cal, status=CONFLICT)
        self.assert_refused(done, self.tenant.pid, "20480 MiB", "--force")

    def test_are_named_in_what_was_measured_beside_them(self):
        self.run_sublet("measure", "--only", "quota", "--force", "-o", self.cal)
        seen = self.seen()
        self.assertTrue(seen["disturbed"])
        self.assertEqual(len(seen["disturbed_by"]), 1)
        self.assertTrue(seen["disturbed_by"][0].startswith(f"{self.tenant.pid} "))
        self.assert_nothing_left()


class WithoutMps(MeasureTest):
    def assert_rest_was_measured(self, reason):
        seen = self.seen()
        self.assertTrue(seen["partial"])
        ids = {run["id"] for run in seen["runs"]}
        self.assertIn("alone/small", ids)
        self.assertIn("streams/small/x2", ids)
        self.assertIn("drift/small", ids)
        self.assertNotIn("mps", {run["mode"] for run in seen["runs"]})
        reasons = self.reasons(seen, "mps/small/x2")
        self.assertEqual(len(reasons), 1)
        self.assertIn(reason, reasons[0])
        self.assert_nothing_left()

    def test_the_rest_is_measured_where_its_program_is_missing(self):
        self.measure("--only", "streams,mps", status=PARTIAL, SUBLET_MPS_CONTROL="/nonexistent")
        self.assert_rest_was_measured("/nonexistent: No such file or directory")

    def test_the_rest_is_measured_where_its_daemon_never_answers(self):
        deaf = self.path / "deaf"
        deaf.write_text("#!/bin/sh\nexec sleep 600\n")
        deaf.chmod(0o755)
        self.measure("--only", "streams,mps", status=PARTIAL, SUBLET_MPS_CONTROL=str(deaf))
        self.assert_rest_was_measured("does not answer")


class AWorkerDies(MeasureTest):
    def test_later_on_the_rest_is_kept_and_the_worker_named(self):
        process = self.start("--only", "time-slicing")
        # Alone there is one.
        victim = until("a second worker", lambda: sorted(self.workers())[1:])[0]
        os.kill(victim, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=60), PARTIAL)
        seen = self.seen()
        self.assertTrue(seen["partial"])
        reasons = self.reasons(seen, "time-slicing/")
        self.assertTrue(reasons)
        for reason in reasons:
            self.assertIn(f"(pid {victim})", reason)
            self.assertIn("signal 9", reason)
        # The lab went on.
        self.assertIn("drift/small", {run["id"] for run in seen["runs"]})
        self.assert_nothing_left()


class Refusals(MeasureTest):
    def test_without_a_driver(self):
        done = self.run_sublet("measure", "-o", self.cal, status=UNAVAILABLE,
                               SUBLET_NVML="/nowhere")
        self.assert_refused(done, "/nowhere", "install the NVIDIA driver")

    def test_an_unknown_part(self):
        done = self.measure("--only", "nonsense", status=USAGE)
        self.assert_refused(done, "'nonsense'", "known are: streams, time-slicing, mps")
        done = self.measure("--only", "streams,timeslicing", status=USAGE)
        self.assert_refused(done, "did you mean 'time-slicing'?")
        self.assert_nothing_left()

    def test_a_gpu_that_is_not_there(self):
        self.assert_refused(self.measure("--gpu", "9", status=NOT_FOUND), "no such GPU: 9")
        self.assert_nothing_left()

    def test_quick_and_full_at_once(self):
        done = self.measure("--quick", "--full", status=USAGE)
        self.assertIn("--quick excludes --full", done.stderr)
        self.assertFalse(self.cal.exists())

    def test_a_folder_that_is_not_there(self):
        missing = self.path / "missing" / "cal.json"
        done = self.run_sublet("measure", "--sim", "h200", "--only", "quota", "-o", missing,
                               status=NOT_FOUND)
        self.assertIn(f"{missing.parent}: No such file or directory", done.stderr)
        self.assertNotIn("0 %", done.stderr)  # Said before anything is measured.
        self.assertEqual(done.stdout, "")
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main()

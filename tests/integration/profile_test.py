"""`sublet profile` as it is shipped: real programs on the simulated driver.

Usage: profile_test.py SUBLET_PROGRAM
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

LOOP = str(pathlib.Path(__file__).resolve().parent / "gpu_loop.py")
INVALID, USAGE, NOT_FOUND, UNAVAILABLE, UNSUPPORTED = 3, 2, 4, 5, 6
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class ProfileTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        # Everything that the program leaves behind would lie here.
        self.temporary = self.path / "tmp"
        self.temporary.mkdir()
        self.environment = {"PATH": os.environ["PATH"], "TMPDIR": str(self.temporary)}

    def command(self, *arguments, program=("endless",)):
        return [SUBLET, "profile", "--sim", "h200", *arguments, "--", PYTHON, LOOP, *program]

    def profile(self, *arguments, program=("endless",), status=0):
        done = subprocess.run(self.command(*arguments, program=program), env=self.environment,
                              text=True, capture_output=True, timeout=280)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def test_a_program_gets_slower_with_fewer_sms(self):
        out = self.path / "p.json"
        done = self.profile("--sm", "25,50", "--seconds", "1", "-o", str(out), "--name", "loop")
        profile = json.loads(out.read_text())
        self.assertEqual(profile["version"], "sublet.profile/v1")
        self.assertEqual((profile["name"], profile["board"]), ("loop", "h200"))
        self.assertEqual([point["sm_percent"] for point in profile["points"]], [25, 50, 100])
        rates = [point["alone_per_s"] for point in profile["points"]]
        # 264 blocks don't fit a quarter of the card at once. The simulated card keeps to the
        # machine's clock for such a program, so the figures are those of a busy machine.
        self.assertLess(rates[0] * 1.5, rates[2])
        self.assertGreater(profile["service_ms"], 3)
        # What the program allocates, and contexts that shrink with the cap.
        self.assertEqual(profile["memory_mib"], 64)
        contexts = [point["context_mib"] for point in profile["points"]]
        self.assertEqual(contexts, sorted(contexts))
        self.assertLess(contexts[0], contexts[2])
        # 4 MiB in and 1 MiB out for each unit.
        self.assertAlmostEqual(profile["copy_to_device_mib_s"],
                               4 * profile["copy_from_device_mib_s"], delta=1 + 0.05 *
                               profile["copy_to_device_mib_s"])
        self.assertIn("◆ knee", done.stdout)
        self.assertNotIn("\x1b", done.stdout)
        self.assertLessEqual(max(map(len, done.stdout.split("a unit of work")[0].splitlines())), 80)

    def test_the_profile_is_one_that_a_fleet_can_name(self):
        out = self.path / "p.json"
        self.profile("--sm", "50", "--seconds", "0.5", "--copies", "2", "-o", str(out),
                     "--steps", "2", "--unit", "request", "--json")
        profile = json.loads(out.read_text())
        self.assertEqual((profile["unit"], profile["steps"], profile["crowd"]), ("request", 2, 2))
        for point in profile["points"]:
            self.assertGreater(point["crowd_per_s"], 0)

    def test_a_program_that_ends_gives_what_there_is(self):
        done = self.profile("--sm", "100", program=("ends", "0.6"))
        self.assertIn("the program ended by itself", done.stdout)

    def test_a_program_that_fails_is_quoted(self):
        done = self.profile(program=("fails",), status=UNAVAILABLE)
        self.assertIn("exited with status 1", done.stderr)
        self.assertIn("weights.bin: no such file", done.stderr)

    def test_a_program_without_work_is_refused_with_what_was_seen(self):
        done = self.profile(program=("idle", "0.1"), status=INVALID)
        self.assertIn("launched nothing on the GPU", done.stderr)
        self.assertIn("0 contexts, 0 launches, 0 waits", done.stderr)
        self.assertIn("hint: ", done.stderr)
        done = self.profile("--timeout", "1", program=("idle", "100"), status=INVALID)
        self.assertIn("launched nothing on the GPU", done.stderr)

    def test_a_program_that_never_waits_is_refused(self):
        done = self.profile(program=("never-waits",), status=INVALID)
        self.assertIn("never waits", done.stderr)
        self.assertIn("10 launches", done.stderr)

    def test_a_server_is_measured_under_its_load(self):
        # The "server" works from the start; its load only has to run, and be ended.
        mark = self.path / "load-ran"
        done = self.profile("--sm", "100", "--seconds", "0.5", "--json", "--ready", "true",
                            "--load", f"touch {mark}; echo 7 requests; exec sleep 1000")
        self.assertTrue(mark.exists())
        self.assertEqual(json.loads(done.stdout)["version"], "sublet.profile/v1")
        self.assertIn("7 requests", done.stderr)
        done = self.profile("--sm", "100", "--ready", "true", "--load", "exit 7",
                            status=UNAVAILABLE)
        self.assertIn("the load exited with status 7", done.stderr)

    def test_an_interrupt_ends_everything(self):
        mark = self.path / "pid"
        command = [SUBLET, "profile", "--sim", "h200", "--", "/bin/sh", "-c",
                   f"echo $$ > {mark}; exec {PYTHON} {LOOP}"]
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) as sublet:
            while not (mark.exists() and mark.read_text().strip()):
                self.assertIsNone(sublet.poll())
                time.sleep(0.01)
            pid = int(mark.read_text())
            sublet.send_signal(signal.SIGINT)
            _, errors = sublet.communicate(timeout=60)
        self.assertEqual(sublet.returncode, 128 + signal.SIGINT, errors)
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
        self.assertIn("interrupted; everything that was started has ended", errors)
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_an_interrupt_leaves_the_points_that_there_are(self):
        # The first two runs are those without MPS and without a cap; the third is interrupted.
        runs = self.path / "runs"
        out = self.path / "p.json"
        command = [SUBLET, "profile", "--sim", "h200", "--sm", "50", "--seconds", "0.5", "-o",
                   str(out), "--", "/bin/sh", "-c", f"echo >> {runs}; exec {PYTHON} {LOOP}"]
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as sublet:
            while not (runs.exists() and runs.read_text().count("\n") == 3):
                self.assertIsNone(sublet.poll())
                time.sleep(0.01)
            sublet.send_signal(signal.SIGINT)
            printed, errors = sublet.communicate(timeout=60)
        self.assertEqual(sublet.returncode, 128 + signal.SIGINT, errors)
        self.assertIn("note: interrupted", printed)
        profile = json.loads(out.read_text())
        self.assertEqual([point["sm_percent"] for point in profile["points"]], [100])
        self.assertIn(", interrupted", profile["source"])
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_bad_input_is_refused_before_anything_runs(self):
        for arguments, text in {
            ("--sm", "0"): "not a percentage",
            ("--sm", "10,,20"): "not a percentage",
            ("--copies", "1"): "--copies",
            ("--copies", "49"): "--copies",
            ("--load", "true"): "--ready",
            ("--load", "true", "--ready", "https://localhost/"): "https",
            ("--load", "true", "--ready", "true", "--copies", "2"): "--copies",
            ("--seconds", "-1"): "--seconds",
        }.items():
            with self.subTest(arguments=arguments):
                self.assertIn(text, self.profile(*arguments, status=USAGE).stderr)
        self.assertIn("GPU-none", self.profile("--gpu", "GPU-none", status=NOT_FOUND).stderr)
        done = subprocess.run([SUBLET, "profile", "--sim", "h200", "--", "/nonexistent/program"],
                              env=self.environment, text=True, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, NOT_FOUND, done.stderr)
        done = subprocess.run([SUBLET, "profile"], env=self.environment, text=True,
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, USAGE)


if __name__ == "__main__":
    unittest.main()

"""`sublet measure --allow-mig-reconfigure` as it is shipped, on the simulated driver.

Usage: measure_mig_test.py SUBLET_PROGRAM
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

UNKNOWN = 999  # NVML's code for any failure.


class MeasureMigTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        self.output = self.path / "cal.json"
        # Not --sim, whose state goes with the program: the state afterwards is what is tested.
        self.environment = {
            "PATH": os.environ["PATH"],
            "SUBLET_SIM": "h200:1",
            "SUBLET_SIM_STATE": str(self.path / "state"),
        }

    def command(self, *arguments):
        return [SUBLET, "measure", "--only", "mig", "-o", str(self.output), *arguments]

    def measure(self, *arguments, status=0, **variables):
        done = subprocess.run(self.command(*arguments), env=dict(self.environment, **variables),
                              text=True, capture_output=True, timeout=280)
        self.assertEqual(done.returncode, status, done.stderr)
        return self.seen()

    def seen(self):
        return json.loads(self.output.read_text())["measurement"]

    def gpu(self):
        """The GPU in the state that all processes share."""
        files = list((self.path / "state").glob("*.json"))
        return json.loads(files[0].read_text())["gpus"][0] if files else {}

    def assert_uncut(self):
        gpu = self.gpu()
        self.assertEqual((gpu["mig"], gpu["mig_pending"], gpu["instances"]), (False, False, []))

    def reason(self, seen):
        reasons = [s["reason"] for s in seen["skipped"] if s["what"].lower().startswith("mig")]
        self.assertEqual(len(reasons), 1, seen["skipped"])
        return reasons[0]

    def test_measures_in_seven_instances_and_puts_the_gpu_back(self):
        seen = self.measure("--allow-mig-reconfigure")
        self.assertFalse(seen.get("partial", False))
        runs = {run["id"]: run for run in seen["runs"] if run["mode"] == "mig"}
        together = runs["mig/all/small"]
        self.assertEqual(len(together["tenants"]), 7)
        self.assertEqual({t["mig_profile"] for t in together["tenants"]}, {"1g.18gb"})
        self.assertIn("mig/1g.18gb-6/mem", runs)
        # The whole GPU once more, after all.
        self.assertIn("drift", {run["series"] for run in seen["runs"]})
        self.assert_uncut()

    def test_changes_nothing_unasked(self):
        self.assertIn("--allow-mig-reconfigure", self.reason(self.measure()))
        self.assert_uncut()

    def test_a_user_without_privilege_gets_the_rest(self):
        seen = self.measure("--allow-mig-reconfigure", SUBLET_SIM_UNPRIVILEGED="1")
        self.assertIn("root", self.reason(seen))
        self.assertIn("drift", {run["series"] for run in seen["runs"]})
        self.assert_uncut()

    def test_what_fails_half_way_is_undone(self):
        fault = f"fail=nvmlGpuInstanceCreateComputeInstance:{UNKNOWN}:4"
        seen = self.measure("--allow-mig-reconfigure", status=1, SUBLET_SIM_FAULTS=fault)
        self.assertTrue(seen["partial"])
        self.assertIn("compute instance", self.reason(seen))
        self.assert_uncut()

    def test_what_can_not_be_undone_is_told_with_the_commands_for_it(self):
        fault = f"fail=nvmlGpuInstanceDestroy:{UNKNOWN}"
        seen = self.measure("--allow-mig-reconfigure", status=1, SUBLET_SIM_FAULTS=fault)
        reason = next(s["reason"] for s in seen["skipped"] if s["what"] == "MIG instances")
        ids = ",".join(str(i) for i in sorted(i["id"] for i in self.gpu()["instances"]))
        self.assertIn(f"-dgi -gi {ids} ", reason)
        self.assertIn("-mig 0", reason)
        # What was measured before it failed is kept.
        self.assertIn("mig/all/mem", {run["id"] for run in seen["runs"]})

    def test_an_interrupt_puts_the_gpu_back(self):
        process = subprocess.Popen(self.command("--full", "--allow-mig-reconfigure"),
                                   env=self.environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(process.kill)
        while len(self.gpu().get("instances", [])) < 7:
            self.assertIsNone(process.poll(), "it ended before it could be interrupted")
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 128 + signal.SIGINT)
        self.assertTrue(self.seen()["partial"])
        self.assert_uncut()


if __name__ == "__main__":
    unittest.main()

"""`sublet mig apply`, `plan`, `assert` and `export` as they are shipped, on the simulated driver.

Usage: mig_test.py SUBLET_PROGRAM SIMULATED_NVML
"""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from node_harness import marked, wait_for

SUBLET = os.path.abspath(sys.argv[1])
NVML = os.path.abspath(sys.argv[2])
del sys.argv[1:3]

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples/05_up/mig-parted.yaml"
UNKNOWN = 999

TWO_SMALL = """
version: v1
mig-configs:
  two-small:
    - devices: all
      mig-enabled: true
      mig-devices: {"1g.10gb": 2}
"""


class MigTest(unittest.TestCase):
    def setUp(self):
        # Short: the daemon's socket lies below.
        self.folder = tempfile.TemporaryDirectory(prefix="sm", dir="/tmp")
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "XDG_RUNTIME_DIR": str(self.path),
            "XDG_STATE_HOME": str(self.path),
            "SUBLET_SIM": "a100-80gb:2",
            "SUBLET_SIM_STATE": str(self.path / "state"),
        }
        self.addCleanup(self.end_all)

    def end_all(self):
        """The daemon that the verbs started, and whatever else is left of the test."""
        def gone():
            left = marked("XDG_STATE_HOME", self.path)
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return not left
        wait_for("the end of all processes", gone)

    def mig(self, *arguments, status=0, **variables):
        done = subprocess.run([SUBLET, "mig", *map(str, arguments)],
                              env=dict(self.environment, **variables),
                              text=True, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def apply(self, label, *more, file=EXAMPLE, **others):
        return self.mig("apply", "-f", file, "-c", label, *more, **others)

    def check(self, label, file=EXAMPLE, **others):
        return self.mig("assert", "-f", file, "-c", label, **others)

    def state(self):
        """The GPUs in the state that all processes share; whole ones before anybody changed any."""
        for file in (self.path / "state").glob("*.json"):
            return json.loads(file.read_text())["gpus"]
        return [{"mig": False, "instances": []}] * 2

    def gpus(self):
        """Of each GPU the mode, and (start, profile's id) of its instances."""
        return [(gpu["mig"], sorted((i["start"], i["profile"]) for i in gpu["instances"]))
                for gpu in self.state()]

    def instance_ids(self, gpu):
        return {i["start"]: i["id"] for i in self.state()[gpu]["instances"]}

    def one_error(self, done):
        """What is wrong, in one line (and at most one hint), never half an answer."""
        lines = done.stderr.splitlines()
        self.assertTrue(lines and lines[0].startswith("sublet: "), done.stderr)
        self.assertLessEqual(len(lines), 2, done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def simulation(self, code):
        """Has the simulated driver, as `sim`, do something."""
        subprocess.run([sys.executable, "-c",
                        f"import ctypes\nsim = ctypes.CDLL({NVML!r})\nsim.nvmlInit_v2()\n" + code],
                       env=self.environment, check=True, timeout=60)

    def faults(self, *rules):
        """From now on the driver fails so, for every process."""
        self.simulation("sim.subletSimClearFaults()\n" +
                        "".join(f"assert sim.subletSimFault({rule!r}.encode()) == 0\n"
                                for rule in rules))

    def file(self, text, name="mig.yaml"):
        path = self.path / name
        path.write_text(text)
        return path

    def tenant(self, gpu, instance=None):
        """A process that uses a GPU, or an instance of it, until it is killed."""
        where = "none, none" if instance is None else f"ctypes.c_uint({instance}), ctypes.c_uint(0)"
        process = subprocess.Popen(
            [sys.executable, "-c",
             "import ctypes, os, signal\n"
             f"sim = ctypes.CDLL({NVML!r})\n"
             "sim.nvmlInit_v2()\n"
             "none = ctypes.c_uint(0xFFFFFFFF)\n"
             f"code = sim.subletSimProcessStart(os.getpid(), {gpu}, {where},\n"
             "                                 ctypes.c_ulonglong(1 << 30), 0)\n"
             "print(code, flush=True)\n"
             "signal.pause()"],
            env=self.environment, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "0\n")
        return process.pid

    # ---- what it is for ----

    def test_makes_what_the_example_asks_for_and_finds_it_so(self):
        self.check("all-balanced", status=1)
        done = self.apply("all-balanced")
        self.assertIn("all-balanced is applied: 10 steps done and verified", done.stdout)
        self.check("all-balanced")
        self.assertEqual([(mode, sorted(profile for _, profile in instances))
                          for mode, instances in self.gpus()],
                         [(True, [9, 14, 19, 19])] * 2)  # 3g, 2g, 1g, 1g
        self.assertIn("already", self.apply("all-balanced").stdout)
        self.apply("all-disabled")
        self.assertEqual(self.gpus(), [(False, []), (False, [])])

    def test_who_only_looks_finds_the_simulated_node_again(self):
        try:
            ctypes.CDLL("libnvidia-ml.so.1")
            self.skipTest("this machine has a driver of its own, which comes first")
        except OSError:
            pass
        self.apply("all-balanced")
        for name in ("SUBLET_SIM", "SUBLET_SIM_STATE"):
            del self.environment[name]
        done = self.check("all-balanced")
        self.assertIn("is applied", done.stdout)
        # Who means a real GPU shall not get a simulated one.
        self.one_error(self.apply("all-balanced", status=5))

    def test_says_what_differs(self):
        self.apply("two-sizes")
        done = self.check("all-balanced", status=1)
        self.assertIn("GPU 0: 4 of 1g.10gb, not 2", done.stdout)
        self.assertIn("GPU 1: MIG mode is off, not on", done.stdout)
        seen = json.loads(self.mig("assert", "-f", EXAMPLE, "-c", "two-sizes", "--json").stdout)
        self.assertEqual((seen["applied"], seen["differences"]), (True, []))

    def test_what_it_exports_asks_for_what_is_there(self):
        self.apply("shared-large")
        before = self.gpus()
        file = self.path / "export.yaml"
        self.mig("export", "-o", file)
        self.assertIn("1c.3g.40gb", file.read_text())
        self.mig("assert", "-f", file)
        self.assertIn("nothing to do", self.mig("apply", "-f", file).stdout)
        self.assertEqual(self.gpus(), before)

    def test_an_instance_in_use_stays_where_it_is(self):
        self.apply("two-sizes")
        ids = self.instance_ids(0)
        start = min(ids)
        tenant = self.tenant(0, ids[start])
        seen = json.loads(self.apply("all-balanced", "--json").stdout)
        self.assertEqual(self.instance_ids(0)[start], ids[start])
        kept = [i for i in seen["gpus"][0]["instances"] if i["start"] == start]
        self.assertIn(str(tenant), kept[0]["reason"])
        # And where nothing can be done around it, it is named, and nothing is done.
        before = self.gpus()
        error = self.one_error(self.apply("all-disabled", status=7))
        self.assertIn(str(tenant), error)
        self.assertIn("GPU 0", error)
        self.assertEqual(self.gpus(), before)

    def test_the_mode_of_a_gpu_in_use_stays_as_it_is(self):
        self.apply("all-disabled")
        self.tenant(1)
        error = self.one_error(self.apply("all-balanced", status=7))
        self.assertIn("GPU 1", error)
        self.assertEqual(self.gpus(), [(False, []), (False, [])])

    def test_a_dry_run_shows_the_steps_and_changes_nothing(self):
        self.apply("two-sizes")
        before = self.gpus()
        for done in (self.apply("all-balanced", "--dry-run"),
                     self.mig("plan", "-f", EXAMPLE, "-c", "all-balanced")):
            self.assertIn("before |", done.stdout)
            self.assertIn("after  |", done.stdout)
            self.assertIn("turn MIG mode on", done.stdout)
            self.assertIn("stays: it is there already", done.stdout)
        steps = json.loads(self.apply("all-balanced", "--dry-run", "--json").stdout)["steps"]
        self.assertEqual(self.gpus(), before)
        applied = json.loads(self.apply("all-balanced", "--json").stdout)
        self.assertEqual(applied["steps"], steps)
        self.assertTrue(applied["applied"])

    def test_mode_only_leaves_the_instances(self):
        self.apply("two-sizes")
        self.apply("all-balanced", "--mode-only")
        self.assertEqual([mode for mode, _ in self.gpus()], [True, True])
        self.assertEqual(len(self.gpus()[0][1]), 5)
        self.mig("assert", "-f", EXAMPLE, "-c", "all-balanced", "--mode-only")

    def test_the_label_may_be_left_out_where_there_is_one(self):
        self.mig("apply", "-f", self.file(TWO_SMALL))
        self.assertEqual([len(instances) for _, instances in self.gpus()], [2, 2])
        self.mig("assert", MIG_PARTED_CONFIG_FILE=str(self.path / "mig.yaml"))

    # ---- when something goes wrong ----

    def test_what_fails_half_way_is_undone(self):
        self.apply("two-sizes")
        before = self.gpus()
        for function in ("nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceDestroy",
                         "nvmlGpuInstanceCreateComputeInstance", "nvmlComputeInstanceDestroy"):
            with self.subTest(function):
                # In the verb's own process, where the calls are counted from the start.
                error = self.one_error(
                    self.apply("all-balanced", "--nvml", NVML, status=5,
                               SUBLET_SIM_FAULTS=f"fail={function}:{UNKNOWN}:2"))
                self.assertIn("nothing is changed", error)
                self.assertEqual(self.gpus(), before)

    def test_what_can_not_be_undone_is_told_with_the_commands_for_it(self):
        self.apply("all-disabled")
        self.faults(f"fail=nvmlGpuInstanceCreateComputeInstance:{UNKNOWN}",
                    f"fail=nvmlGpuInstanceDestroy:{UNKNOWN}")
        error = self.apply("all-balanced", status=5).stderr
        self.assertIn("what is left to do", error)
        self.assertIn("-mig 0", error)
        # Once the driver works again, applying goes on from there.
        self.faults()
        self.apply("all-balanced")
        self.check("all-balanced")

    def test_a_user_without_privilege_is_told_so(self):
        error = self.one_error(self.apply("all-balanced", status=9, SUBLET_SIM_UNPRIVILEGED="1"))
        self.assertIn("root", error)

    def test_bad_files_are_one_clear_error(self):
        cases = {
            "version: v2\nmig-configs: {}\n": (3, "version"),
            "version: v1\nmig-config: {}\n": (3, "mig-config"),
            TWO_SMALL.replace("1g.10gb", "1g.5gb"): (4, "1g.10gb"),
            TWO_SMALL.replace('2}', '4, "2g.20gb": 2}'): (1, "compute slices"),
            TWO_SMALL + "  other:\n    - {devices: all, mig-enabled: false}\n": (2, "two-small"),
        }
        for text, (status, word) in cases.items():
            with self.subTest(text):
                error = self.one_error(self.mig("apply", "-f", self.file(text), status=status))
                self.assertIn(word, error)
        self.one_error(self.mig("apply", "-f", self.path / "none.yaml", status=4))
        error = self.one_error(self.apply("all-balnced", status=4))
        self.assertIn("all-balanced", error)
        self.assertEqual(self.gpus(), [(False, []), (False, [])])

    # ---- hooks ----

    def hooks(self, **scripts):
        log = self.path / "hooks.log"
        hooks = {point.replace("_", "-"): [{
            "command": "/bin/sh", "workdir": str(self.path), "envs": {"WORD": point},
            "args": ["-c", f'echo "$WORD $MIG_PARTED_SELECTED_CONFIG $PWD" >> {log}; {script}'],
        }] for point, script in scripts.items()}
        file = self.file(json.dumps({"version": "v1", "hooks": hooks}), "hooks.yaml")
        return file, log

    def ran(self, log):
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        for line in lines:
            self.assertEqual(line.split()[2], str(self.path))
        return [line.split()[0] for line in lines]

    def test_runs_the_hooks_that_the_change_calls_for(self):
        file, log = self.hooks(apply_start="true", pre_apply_mode="true",
                               pre_apply_config="true", apply_exit="true")
        self.apply("all-enabled", "-k", file)
        self.assertEqual(self.ran(log), ["apply_start", "pre_apply_mode", "apply_exit"])
        self.apply("all-balanced", "-k", file)
        self.assertEqual(self.ran(log), ["apply_start", "pre_apply_config", "apply_exit"])
        self.apply("all-balanced", "-k", file)
        self.assertEqual(self.ran(log), ["apply_start", "apply_exit"])
        self.apply("all-disabled", "-k", file, "--dry-run")
        self.assertEqual(self.ran(log), [])

    def test_a_failing_hook_stops_the_change_before_it_begins(self):
        file, log = self.hooks(pre_apply_config="echo no luck >&2; exit 3", apply_exit="true")
        error = self.one_error(self.apply("all-balanced", "-k", file, status=7))
        self.assertIn("pre-apply-config", error)
        self.assertIn("no luck", error)
        self.assertEqual(self.ran(log), ["pre_apply_config", "apply_exit"])
        self.assertEqual(self.gpus(), [(False, []), (False, [])])

    def test_hooks_may_stop_what_uses_the_gpus(self):
        self.apply("all-disabled")
        tenant = self.tenant(0)
        self.one_error(self.apply("all-balanced", status=7))
        file, _ = self.hooks(pre_apply_mode=f"kill {tenant}")
        self.apply("all-balanced", "-k", file)
        self.check("all-balanced")


if __name__ == "__main__":
    unittest.main()

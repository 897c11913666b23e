"""`sublet inspect` as it is shipped: the real program on the simulated driver.

Usage: inspect_test.py SUBLET_PROGRAM SIMULATED_LIBRARY
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SUBLET, LIBRARY = map(os.path.abspath, sys.argv[1:3])
del sys.argv[1:3]

ROOT = pathlib.Path(__file__).resolve().parents[2]

UNAVAILABLE, NOT_FOUND, INVALID, USAGE, UNSUPPORTED = 5, 4, 3, 2, 6


class InspectTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.environment = {
            "PATH": os.environ["PATH"],
            "SUBLET_SIM_STATE": str(self.path / "state"),
        }

    def tearDown(self):
        self.folder.cleanup()

    def inspect(self, *arguments, preset="h100-80gb:8", status=0, **variables):
        environment = dict(self.environment, **variables)
        if preset:
            environment["SUBLET_SIM"] = preset
        done = subprocess.run([SUBLET, "inspect", *arguments], env=environment, text=True,
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def node(self, **arguments):
        return json.loads(self.inspect("--json", **arguments).stdout)

    def simulated(self, preset):
        """The driver in this process, sharing its state with the program's."""
        os.environ.update(self.environment, SUBLET_SIM=preset)
        nvml = ctypes.CDLL(LIBRARY)
        self.assertEqual(nvml.nvmlInit_v2(), 0)
        self.addCleanup(nvml.nvmlShutdown)
        return nvml

    def test_finds_the_simulated_driver_beside_itself(self):
        node = self.node()
        self.assertEqual(node["version"], "sublet.node/v1")
        self.assertTrue(node["driver"]["simulated"])
        self.assertEqual([gpu["index"] for gpu in node["gpus"]], list(range(8)))
        self.assertEqual(len({gpu["uuid"] for gpu in node["gpus"]}), 8)
        self.assertEqual(len(node["links"]), 28)

    def test_every_preset_of_the_manual_works(self):
        for preset, boards in {
            "a100-80gb:1": ["a100-80gb"],
            "h200:1": ["h200"],
            "a30:2": ["a30", "a30"],
            "l4:4": ["l4"] * 4,
            "h100-80gb:2,l4:1": ["h100-80gb", "h100-80gb", "l4"],
        }.items():
            with self.subTest(preset=preset):
                node = self.node(preset=preset)
                self.assertEqual([gpu["board"] for gpu in node["gpus"]], boards)

    def test_the_table_is_for_people(self):
        text = self.inspect().stdout
        self.assertIn("NVIDIA H100 80GB HBM3", text)
        self.assertIn("1g.10gb+me", text)
        self.assertNotIn("\x1b", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_a_recording_shows_and_plays_the_same_node(self):
        file = self.path / "node.json"
        live = self.inspect("--json", "--record", str(file)).stdout
        self.assertEqual(file.read_text(), live)
        self.assertEqual(self.inspect("--json", "--from", str(file), preset="").stdout, live)
        self.assertEqual(json.loads(live)["gpus"], self.node(preset=str(file))["gpus"])

    def test_from_reads_standard_input(self):
        live = self.inspect("--json").stdout
        done = subprocess.run([SUBLET, "inspect", "--json", "--from", "-"], input=live, text=True,
                              capture_output=True, env=self.environment, timeout=60)
        self.assertEqual(done.stdout, live)

    def test_mig_set_up_by_another_process_is_seen(self):
        nvml = self.simulated("h100-80gb:2")
        device, instance, activation = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int(9)
        self.assertEqual(nvml.nvmlDeviceGetHandleByIndex_v2(1, ctypes.byref(device)), 0)
        self.assertEqual(nvml.nvmlDeviceSetMigMode(device, 1, ctypes.byref(activation)), 0)
        self.assertEqual(nvml.nvmlDeviceCreateGpuInstance(device, 9, ctypes.byref(instance)), 0)
        gpus = self.node(preset="h100-80gb:2")["gpus"]
        self.assertFalse(gpus[0]["mig_enabled"])
        self.assertTrue(gpus[1]["mig_enabled"])
        self.assertEqual(gpus[1]["instances"], [{
            "id": 1, "profile_id": 9, "profile": "3g.40gb",
            "placement": {"start": 4, "size": 4}, "compute_instances": []}])

    def test_a_process_cannot_write_to_the_terminal_through_its_name(self):
        child = subprocess.Popen([b"evil\x1b[2J\xff\xc3\xa9", b"60"], executable="sleep")
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        none = ctypes.c_uint(0xFFFFFFFF)
        started = self.simulated("l4:1").subletSimProcessStart(
            child.pid, 0, none, none, ctypes.c_ulonglong(1 << 30), 0)
        self.assertEqual(started, 0)
        process = self.node(preset="l4:1")["gpus"][0]["processes"][0]
        self.assertEqual(process["pid"], child.pid)
        self.assertEqual(process["name"], "evil?[2J?\u00e9")
        self.assertEqual(process["memory_mib"], 1024)
        self.assertIn("evil?[2J", self.inspect(preset="l4:1").stdout)

    def test_a_lost_gpu_is_shown_as_such(self):
        node = self.node(SUBLET_SIM_FAULTS="lost=3")
        self.assertEqual(node["gpus"][3]["problem"], "opening GPU 3: gpu is lost (nvml 15)")
        self.assertNotIn(3, node["modes"][0]["gpus"])

    def test_a_driver_that_hangs_is_given_up_on(self):
        done = self.inspect("--timeout", "0.2", status=UNAVAILABLE,
                            SUBLET_SIM_FAULTS="hang=nvmlDeviceGetPciInfo_v3")
        self.assertIn("the driver did not answer within 0.2 s", done.stderr)
        self.assertEqual(done.stdout, "")

    def test_says_what_to_do_without_a_driver(self):
        done = self.inspect("--nvml", "/nowhere/libnvidia-ml.so.1", status=UNAVAILABLE)
        self.assertIn("/nowhere/libnvidia-ml.so.1", done.stderr)
        self.assertIn("hint:", done.stderr)

    def test_refuses_a_library_that_is_not_nvml(self):
        done = self.inspect(status=UNSUPPORTED, SUBLET_NVML="libm.so.6")
        self.assertIn("nvmlInit_v2", done.stderr)

    def test_says_what_is_wrong_with_a_preset(self):
        done = self.inspect(preset="h100-80g:1", status=UNAVAILABLE)
        self.assertIn("no such board: 'h100-80g'", done.stderr)

    def test_bad_recordings_are_refused_by_kind(self):
        self.inspect("--from", "/nowhere.json", status=NOT_FOUND)
        file = self.path / "node.json"
        good = self.inspect("--json").stdout
        for text in ["", "{", good[:-200], good.replace("node/v1", "node/v9"),
                     good.replace('"uuid"', '"uid"'), good.replace('"index": 1', '"index": 0')]:
            file.write_text(text)
            done = self.inspect("--from", str(file), status=INVALID)
            self.assertIn(str(file), done.stderr)
            self.assertEqual(done.stdout, "")

    def test_a_recording_that_cannot_be_written_leaves_nothing(self):
        self.inspect("--record", str(self.path / "missing" / "node.json"), status=NOT_FOUND)
        self.assertEqual(sorted(p.name for p in self.path.iterdir()), ["state"])

    @staticmethod
    def without_mps_daemons(lines):
        """Whatever runs on this machine beside the test is no part of the example."""
        if "MPS daemons" not in lines:
            return lines
        begin = lines.index("MPS daemons")
        end = begin + lines[begin:].index("") + 1
        return lines[:begin] + lines[end:]

    def test_the_example_prints_what_it_says(self):
        """Each block that begins with '$ ' is run; all but the host's line agrees."""
        text = (ROOT / "examples/01_inspect/README.md").read_text()
        blocks = [b for b in text.split("```")[1::2] if b.startswith("\n$ ")]
        self.assertEqual(len(blocks), 4)
        for block in blocks:
            lines = block.strip().splitlines()
            end = 0  # The command goes on until its quotes are closed.
            while "\n".join(lines[:end + 1]).count("'") % 2 == 1:
                end += 1
            command = "\n".join(lines[:end + 1])[2:].replace("build/bin/sublet", SUBLET)
            done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=self.environment,
                                  text=True, capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            host = [line for line in lines[end + 1:] if "  Linux " in line]
            said = [line for line in lines[end + 1:] if line not in host]
            shown = done.stdout.strip().splitlines()[len(host):]
            self.assertEqual(self.without_mps_daemons(shown), said)

    def test_bad_flags_are_usage_errors(self):
        self.inspect("--frm", "x", status=USAGE)
        self.inspect("--timeout", "-1", status=USAGE)
        self.inspect("--from", "x", "--nvml", "y", status=USAGE)


if __name__ == "__main__":
    unittest.main()

"""`sublet kube labels` and `sublet kube agent` as they are shipped, on the simulated driver and
against an API server of our own (kube_api_server.py).

Usage: kube_labels_test.py SUBLET_PROGRAM SIMULATED_NVML
"""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

from kube_api_server import ApiServer
from node_harness import wait_for

SUBLET = os.path.abspath(sys.argv[1])
NVML = os.path.abspath(sys.argv[2])
del sys.argv[1:3]

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/07_kube"

USAGE, INVALID, NOT_FOUND, UNAVAILABLE, PERMISSION = 2, 3, 4, 5, 9

CONFIG = "nvidia.com/device-plugin.config"
CONFIG_PROBLEM = "sublet.dev/device-plugin.config.problem"
MIG = "nvidia.com/mig.config"
MIG_STATE = "nvidia.com/mig.config.state"
MIG_REASON = "sublet.dev/mig.config.reason"
PLUGIN = "nvidia.com/gpu.deploy.device-plugin"
PAUSED = "paused-for-mig-change"

MIG_FILE = """
version: v1
mig-configs:
  off:
    - {devices: all, mig-enabled: false}
  seven:
    - {devices: all, mig-enabled: true, mig-devices: {"1g.10gb": 7}}
  two:
    - {devices: all, mig-enabled: true, mig-devices: {"3g.40gb": 2}}
  too-many:
    - {devices: all, mig-enabled: true, mig-devices: {"7g.80gb": 2}}
"""

# In the order of a change; the later ones come once for each step.
CRASH_POINTS = ["kube-mig-planned", "kube-mig-pending", "kube-mig-clients-gone",
                "mig-step-will", "mig-step-half", "mig-step-done", "mig-step-will:3",
                "mig-step-half:3", "mig-step-done:3", "kube-mig-applied", "kube-mig-settled"]

WHOLE_A100 = {
    "cuda.driver-version.full": "580.159.04",
    "cuda.driver-version.major": "580",
    "cuda.driver-version.minor": "159",
    "cuda.driver-version.revision": "04",
    "cuda.driver.major": "580",
    "cuda.driver.minor": "159",
    "cuda.driver.rev": "04",
    "cuda.runtime-version.full": "13.0",
    "cuda.runtime-version.major": "13",
    "cuda.runtime-version.minor": "0",
    "cuda.runtime.major": "13",
    "cuda.runtime.minor": "0",
    "gpu.compute.major": "8",
    "gpu.compute.minor": "0",
    "gpu.count": "1",
    "gpu.family": "ampere",
    "gpu.machine": "Simulated-Machine",
    "gpu.memory": "81920",
    "gpu.mode": "unknown",
    "gpu.product": "NVIDIA-A100-SXM4-80GB",
    "gpu.replicas": "1",
    "gpu.sharing-strategy": "none",
    "mig.capable": "true",
    "mps.capable": "false",
}


def parse(text):
    """The labels of a features file without NVIDIA's prefix."""
    lines = text.splitlines()
    assert lines == sorted(lines), text
    return dict(line.removeprefix("nvidia.com/").split("=", 1) for line in lines)


def nvidia(labels):
    return {name.removeprefix("nvidia.com/"): value for name, value in labels.items()
            if name.startswith("nvidia.com/")}


class KubeTestCase(unittest.TestCase):
    sim = "a100-80gb:1"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "SUBLET_SIM": self.sim,
            "SUBLET_SIM_STATE": str(self.path / "sim"),
            "GFD_MACHINE_TYPE_FILE": str(self.file("product_name", "Simulated Machine\n")),
            "GFD_NO_TIMESTAMP": "true",
        }
        self.programs = []
        self.addCleanup(self.end_programs)

    def end_programs(self):
        for program in self.programs:
            program.kill()
            program.wait()
            program.stderr.close()

    def file(self, name, text):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        beside.write_text(text)
        beside.rename(path)
        return path

    def sublet(self, *arguments, status=0, **variables):
        done = subprocess.run([SUBLET, *map(str, arguments)], text=True, capture_output=True,
                              env=dict(self.environment, **variables), timeout=60)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def labels(self, *arguments, **options):
        return self.sublet("kube", "labels", *arguments, **options)

    def start(self, *arguments, **variables):
        program = subprocess.Popen([SUBLET, "kube", *map(str, arguments)], text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   env=dict(self.environment, **variables))
        self.programs.append(program)
        return program

    def end(self, program, status=0):
        """Asks it to end; what it said."""
        program.send_signal(signal.SIGTERM)
        _, said = program.communicate(timeout=60)
        self.assertEqual(program.returncode, status, said)
        return said

    def mig(self, label):
        path = self.file("mig.yaml", MIG_FILE)
        self.sublet("mig", "apply", "-f", path, "-c", label, "--nvml", NVML)

    def gpus(self):
        """Of each GPU the mode, and (start, profile's id) of its instances."""
        for file in (self.path / "sim").glob("*.json"):
            return [(gpu["mig"], sorted((i["start"], i["profile"]) for i in gpu["instances"]))
                    for gpu in json.loads(file.read_text())["gpus"]]
        return [(False, [])]

    def simulation(self, code):
        """Has the simulated driver, as `sim`, do something."""
        subprocess.run([sys.executable, "-c",
                        f"import ctypes\nsim = ctypes.CDLL({NVML!r})\nsim.nvmlInit_v2()\n" + code],
                       env=self.environment, check=True, timeout=60)

    def fault(self, rule):
        self.simulation(f"assert sim.subletSimFault({rule!r}.encode()) == 0")

    def server(self, **options):
        server = ApiServer("gpu-1", **options)
        server.__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        return server

    def at(self, server):
        return ["--api-server", server.url, "--node-name", "gpu-1", "--namespace", "sublet"]


class Labels(KubeTestCase):
    def test_prints_what_gpu_feature_discovery_would(self):
        self.assertEqual(parse(self.labels().stdout), WHOLE_A100)

    def test_the_line_of_the_manual(self):
        found = parse(self.labels("--config-file", EXAMPLES / "mps.yaml").stdout)
        self.assertEqual(found, WHOLE_A100 | {
            "gpu.product": "NVIDIA-A100-SXM4-80GB-SHARED", "gpu.replicas": "4",
            "gpu.sharing-strategy": "mps", "mps.capable": "true"})

    def test_takes_its_variables_file_and_flags_in_that_order(self):
        file = self.file("config.yaml", "version: v1\nflags: {migStrategy: mixed}\n")
        self.assertEqual(
            parse(self.labels(GFD_CONFIG_FILE=str(file)).stdout)["mig.strategy"], "mixed")
        by_variable = self.labels(GFD_CONFIG_FILE=str(file), MIG_STRATEGY="single")
        self.assertEqual(parse(by_variable.stdout)["mig.strategy"], "single")
        by_flag = self.labels("--mig-strategy=none", GFD_CONFIG_FILE=str(file),
                              MIG_STRATEGY="single")
        self.assertNotIn("mig.strategy", parse(by_flag.stdout))
        self.assertIn("gfd.timestamp", parse(self.labels(GFD_NO_TIMESTAMP="").stdout))

    def test_of_mig_devices(self):
        self.mig("two")
        device = {"count": "2", "replicas": "1", "sharing-strategy": "none", "memory": "40192",
                  "multiprocessors": "42", "slices.gi": "3", "slices.ci": "3",
                  "engines.copy": "3", "engines.decoder": "2", "engines.encoder": "0",
                  "engines.jpeg": "0", "engines.ofa": "0",
                  "product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"}
        single = parse(self.labels("--mig-strategy", "single").stdout)
        self.assertEqual(single, WHOLE_A100 | {"mig.strategy": "single"} |
                         {f"gpu.{name}": value for name, value in device.items()})
        mixed = parse(self.labels("--mig-strategy", "mixed").stdout)
        self.assertEqual(mixed, WHOLE_A100 | {"mig.strategy": "mixed", "gpu.replicas": "0"} |
                         {f"mig-3g.40gb.{name}": value for name, value in device.items()})

    def test_of_a_fabric(self):
        node = json.loads(self.sublet("inspect", "--json").stdout)
        node["gpus"][0]["fabric"] = {"cluster_uuid": "1f0b8a5e-0000-4000-8000-0000000000fa",
                                     "clique_id": 32766}
        self.environment["SUBLET_SIM"] = str(self.file("node.json", json.dumps(node)))
        self.assertEqual(parse(self.labels().stdout)["gpu.clique"],
                         "1f0b8a5e-0000-4000-8000-0000000000fa.32766")

    def test_once_into_a_file(self):
        path = self.path / "features.d" / "gfd"
        done = self.labels("--oneshot", "--output-file", path)
        self.assertEqual(done.stdout, "")
        self.assertEqual(parse(path.read_text()), WHOLE_A100)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o644)
        self.assertEqual(os.listdir(path.parent), ["gfd"])
        self.labels("--output-file", path, "--remove")
        self.assertEqual(os.listdir(path.parent), [])

    def test_again_and_again_into_a_file_that_goes_with_the_program(self):
        path = self.path / "features.d" / "gfd"
        program = self.start("labels", "--output-file", path, "--sleep-interval", "100ms",
                             "--mig-strategy", "single")
        wait_for("the file", path.exists)
        self.assertEqual(parse(path.read_text())["gpu.count"], "1")
        self.mig("seven")
        wait_for("the MIG devices", lambda: parse(path.read_text())["gpu.count"] == "7")
        self.end(program)
        self.assertFalse(path.exists())

    def test_a_hang_up_reads_the_configuration_again(self):
        path = self.path / "features.d" / "gfd"
        config = self.file("config.yaml", "version: v1\n")
        program = self.start("labels", "--output-file", path, "--config-file", config,
                             "--sleep-interval", "infinite")
        wait_for("the file", path.exists)
        self.file("config.yaml", (EXAMPLES / "time-slicing.yaml").read_text())
        program.send_signal(signal.SIGHUP)
        wait_for("the new labels", lambda: path.exists() and
                 parse(path.read_text())["gpu.sharing-strategy"] == "time-slicing")
        self.end(program)

    def test_without_a_driver(self):
        library = self.path / "libnvidia-ml.so.1"
        self.environment["SUBLET_NVML"] = str(library)
        said = self.labels("--oneshot", status=UNAVAILABLE).stderr
        self.assertTrue(said.startswith("sublet: "), said)
        path = self.path / "gfd"
        self.labels("--output-file", path, status=UNAVAILABLE)
        program = self.start("labels", "--output-file", path, "--fail-on-init-error=false")
        self.assertIn("the labels stay as they are", program.stderr.readline())
        library.symlink_to(NVML)
        wait_for("the driver", path.exists)
        self.end(program)

    def test_bad_input(self):
        for text, words in [("version: v2\n", "unknown version"),
                            ("version: v1\nfrags: {}\n", "config.yaml:2:"),
                            ("version: v1\nsharing: {mps: {resources: [{name: nvidia.com/gpu, "
                             "replicas: 1}]}}\n", "replicas")]:
            said = self.labels("--config-file", self.file("config.yaml", text),
                               status=INVALID).stderr
            self.assertIn(words, said)
        self.assertIn("--mig-strategy", self.labels("--mig-strategy", "x", status=USAGE).stderr)
        self.assertIn("--sleep-interval",
                      self.labels("--sleep-interval", "soon", status=USAGE).stderr)
        self.assertIn("which node", self.labels("--to", "node", "--api-server",
                                                "http://127.0.0.1:1", status=USAGE).stderr)
        token = self.file("token", "abc")
        self.assertIn("in the clear", self.labels(
            "--to", "node", "--api-server", "http://192.0.2.1", "--node-name", "n",
            "--token-file", token, status=USAGE).stderr)


class LabelsAtTheApiServer(KubeTestCase):
    def test_the_node_itself(self):
        server = self.server()
        others = dict(server.node["labels"])
        self.labels("--oneshot", "--to", "node", *self.at(server))
        self.assertEqual(nvidia(server.node["labels"]), WHOLE_A100)
        self.mig("two")
        self.labels("--oneshot", "--to", "node", "--mig-strategy", "mixed", *self.at(server))
        self.assertEqual(server.node["labels"]["nvidia.com/mig-3g.40gb.count"], "2")
        # What isn't there any more goes, what is others' stays.
        self.mig("seven")
        self.labels("--oneshot", "--to", "node", "--mig-strategy", "mixed", *self.at(server))
        self.assertNotIn("nvidia.com/mig-3g.40gb.count", server.node["labels"])
        self.assertEqual(server.node["labels"]["nvidia.com/mig-1g.10gb.count"], "7")
        self.labels("--to", "node", "--remove", *self.at(server))
        self.assertEqual(server.node["labels"], others)

    def test_a_node_feature_object(self):
        server = self.server()
        self.labels("--oneshot", *self.at(server), POD_NAME="sublet-x", POD_UID="1-2")
        [(path, feature)] = server.features.items()
        self.assertEqual(path, "/apis/nfd.k8s-sigs.io/v1alpha1/namespaces/sublet/nodefeatures/"
                               "nvidia-features-for-gpu-1")
        self.assertEqual(feature["kind"], "NodeFeature")
        self.assertEqual(feature["metadata"]["labels"],
                         {"nfd.node.kubernetes.io/node-name": "gpu-1"})
        self.assertEqual(feature["metadata"]["ownerReferences"][0]["uid"], "1-2")
        self.assertEqual(nvidia(feature["spec"]["labels"]), WHOLE_A100)
        self.assertEqual(nvidia(server.node["labels"]), {})
        self.labels("--remove", *self.at(server))
        self.assertEqual(server.features, {})

    def test_without_node_feature_discovery_the_node(self):
        server = self.server(has_node_features=False)
        said = self.labels("--oneshot", *self.at(server)).stderr
        self.assertIn("no NodeFeature objects", said)
        self.assertEqual(nvidia(server.node["labels"]), WHOLE_A100)

    def test_puts_back_what_others_take_and_uses_the_new_token(self):
        server = self.server()
        server.token = "first"
        token = self.file("token", "first\n")
        program = self.start("agent", "--to", "node", "--token-file", token, *self.at(server))
        server.wait_for(lambda node: nvidia(node["labels"]) == WHOLE_A100)
        # The new one is in the file before the old one ends, but the server's clock may be ahead.
        server.token = "second"
        self.file("token", "second\n")
        server.label("nvidia.com/gpu.count", "9")
        server.wait_for(lambda node: node["labels"]["nvidia.com/gpu.count"] == "1")
        self.end(program)

    def test_a_refusal_says_what_is_missing(self):
        server = self.server()
        server.refused = "/api/v1/nodes/gpu-1"
        said = self.labels("--oneshot", "--to", "node", *self.at(server), status=PERMISSION).stderr
        self.assertIn("HTTP status 403", said)
        self.assertIn("rights", said)


class ConfigByLabel(KubeTestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.path / "available-configs"
        for name in ("time-slicing", "mps"):
            self.file(f"available-configs/{name}", (EXAMPLES / f"{name}.yaml").read_text())
        self.target = self.path / "config" / "config.yaml"
        self.target.parent.mkdir()
        self.api = self.server()

    def agent(self, *arguments, **variables):
        return self.start("agent", "--to", "node", "--config-file-srcdir", self.folder,
                          "--config-file-dst", self.target, *self.at(self.api), *arguments,
                          **variables)

    def strategy(self, node):
        return node["labels"].get("nvidia.com/gpu.sharing-strategy")

    def test_follows_the_label(self):
        self.api.label(CONFIG, "mps")
        program = self.agent()
        self.api.wait_for(lambda node: self.strategy(node) == "mps")
        self.assertEqual(os.readlink(self.target), str(self.folder / "mps"))
        self.api.label(CONFIG, "time-slicing")
        self.api.wait_for(lambda node: self.strategy(node) == "time-slicing")
        self.assertEqual(os.readlink(self.target), str(self.folder / "time-slicing"))
        said = self.end(program)
        self.assertIn("configuration in effect: mps\nconfiguration in effect: time-slicing", said)

    def test_what_cant_be_leaves_the_last_good_one_and_is_told(self):
        self.api.label(CONFIG, "mps")
        self.file("available-configs/broken", "version: v1\nfrags: {}\n")
        program = self.agent()
        self.api.wait_for(lambda node: self.strategy(node) == "mps")
        self.api.label(CONFIG, "absent")
        self.api.wait_for(lambda node: "absent" in node["annotations"].get(CONFIG_PROBLEM, ""))
        self.api.label(CONFIG, "broken")
        self.api.wait_for(lambda node: "frags" in node["annotations"].get(CONFIG_PROBLEM, ""))
        self.assertEqual(os.readlink(self.target), str(self.folder / "mps"))
        self.api.wait_for(lambda _: len(self.api.events) >= 2, "the events")
        self.assertEqual({event["reason"] for event in self.api.events},
                         {"DevicePluginConfigProblem"})
        self.api.label(CONFIG, "time-slicing")
        self.api.wait_for(lambda node: CONFIG_PROBLEM not in node["annotations"] and
                          self.strategy(node) == "time-slicing")
        self.end(program)

    def test_defaults_and_signals_as_nvidias_sidecar(self):
        listener = subprocess.Popen(
            ["bash", "-c", "exec -a sublet-test-listener sleep 300"])
        self.addCleanup(listener.wait)
        self.addCleanup(listener.kill)
        program = self.agent(DEFAULT_CONFIG="time-slicing", SEND_SIGNAL="true", SIGNAL="1",
                             PROCESS_TO_SIGNAL="sublet-test-listener")
        self.api.wait_for(lambda node: self.strategy(node) == "time-slicing")
        self.assertEqual(listener.wait(timeout=30), -signal.SIGHUP)
        self.assertIn("sent to 1 processes", self.end(program))

    def test_outlives_the_api_server_and_a_history_that_is_gone(self):
        self.api.label(CONFIG, "mps")
        program = self.agent()
        self.api.wait_for(lambda node: self.strategy(node) == "mps")
        with self.api.changed:
            self.api.away = True
            self.api.changed.notify_all()
        self.read_until(program, "503")
        self.api.label(CONFIG, "time-slicing")
        self.api.forget_history()
        self.api.away = False
        self.api.wait_for(lambda node: self.strategy(node) == "time-slicing")
        self.end(program)

    def read_until(self, program, words):
        while True:
            line = program.stderr.readline()
            self.assertTrue(line, f"it ended without saying: {words}")
            if words in line:
                return


class MigByLabel(KubeTestCase):
    def setUp(self):
        super().setUp()
        self.api = self.server()
        self.mig_file = self.file("mig-parted.yaml", MIG_FILE)
        self.state_dir = self.path / "kube-state"

    def agent(self, *arguments, **variables):
        return self.start("agent", "--to", "node", "--mig-strategy", "mixed", "--mig-config-file",
                          self.mig_file, "--state-dir", self.state_dir, *self.at(self.api),
                          *arguments, **variables)

    def wait_for_state(self, state):
        self.api.wait_for(lambda node: node["labels"].get(MIG_STATE) == state, f"state {state}")

    def states(self):
        """Each state that the label had, in order."""
        found = []
        for _, node in self.api.history:
            state = node["labels"].get(MIG_STATE)
            if state and found[-1:] != [state]:
                found.append(state)
        return found

    def seven(self):
        return [(True, [(start, 19) for start in range(7)])]

    def test_makes_what_the_label_names_and_labels_it(self):
        self.api.label(PLUGIN, "true")
        self.api.label(MIG, "seven")
        program = self.agent()
        self.wait_for_state("success")
        self.assertEqual(self.gpus(), self.seven())
        self.assertEqual(self.states(), ["pending", "success"])
        self.assertEqual(self.api.node["labels"][PLUGIN], "true")
        self.assertIn(PAUSED, [node["labels"].get(PLUGIN) for _, node in self.api.history])
        self.api.wait_for(lambda node: node["labels"].get("nvidia.com/mig-1g.10gb.count") == "7")
        self.assertFalse(list(self.state_dir.glob("*")))
        self.api.label(MIG, "off")
        self.api.wait_for(lambda node: "nvidia.com/mig-1g.10gb.count" not in node["labels"])
        self.wait_for_state("success")
        self.assertEqual(self.gpus(), [(False, [])])
        self.end(program)

    def test_what_cant_be_fails_with_its_reason_and_touches_nothing(self):
        self.mig("two")
        before = self.gpus()
        program = self.agent()
        for label in ("too-many", "absent"):
            self.api.label(MIG, label)
            self.api.wait_for(lambda node: node["labels"].get(MIG_STATE) == "failed" and
                              node["annotations"].get(MIG_REASON), label)
            self.assertEqual(self.gpus(), before)
            self.api.label(MIG, "two")
            self.wait_for_state("success")
            self.assertNotIn(MIG_REASON, self.api.node["annotations"])
        self.assertEqual({event["reason"] for event in self.api.events}, {"MigChangeFailed"})
        self.end(program)

    def test_an_instance_in_use_isnt_touched(self):
        self.mig("two")
        before = self.gpus()
        user = subprocess.Popen(
            [sys.executable, "-c", f"""
import ctypes, os, sys
sim = ctypes.CDLL({NVML!r})
sim.nvmlInit_v2()
assert sim.subletSimProcessStart(os.getpid(), 0, ctypes.c_uint(1), ctypes.c_uint(0),
                                 ctypes.c_ulonglong(1 << 30), 0) == 0
print("up", flush=True)
sys.stdin.read()
"""], env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(user.communicate)
        self.assertEqual(user.stdout.readline(), "up\n")
        self.api.label(MIG, "seven")
        program = self.agent()
        self.wait_for_state("failed")
        self.assertIn("in use", self.api.node["annotations"][MIG_REASON])
        self.assertEqual(self.gpus(), before)
        self.end(program)

    def test_a_step_that_fails_is_undone(self):
        self.mig("two")
        before = self.gpus()
        self.fault("fail=nvmlGpuInstanceCreateComputeInstance:999:1")
        self.api.label(MIG, "seven")
        program = self.agent()
        self.wait_for_state("failed")
        self.assertEqual(self.gpus(), before)
        self.assertEqual(self.states(), ["pending", "failed"])
        self.end(program)

    def test_a_driver_that_hangs_is_given_up_and_comes_back(self):
        self.mig("two")
        before = self.gpus()
        self.fault("hang=nvmlDeviceCreateGpuInstanceWithPlacement:2")
        self.api.label(MIG, "seven")
        program = self.agent("--change-timeout", "1")
        self.wait_for_state("failed")
        self.assertIn("did not answer", self.api.node["annotations"][MIG_REASON])
        self.assertNotEqual(self.gpus(), before)
        # The next run takes up what that one has left.
        program.kill()
        program.communicate()
        self.simulation("sim.subletSimClearFaults()")
        program = self.agent()
        self.wait_for_state("success")
        self.assertEqual(self.gpus(), self.seven())
        self.end(program)

    def test_waits_for_a_driver(self):
        library = self.path / "libnvidia-ml.so.1"
        self.api.label(MIG, "seven")
        program = self.agent("--no-labels", SUBLET_NVML=str(library))
        self.wait_for_state("failed")
        library.symlink_to(NVML)
        self.wait_for_state("success")
        self.assertEqual(self.states(), ["failed", "pending", "success"])
        self.end(program)

    def test_waits_for_the_pods_of_clients(self):
        self.api.label(PLUGIN, "true")
        pod = ("nvidia-device-plugin-daemonset", "gpu-operator", "plugin-x")
        self.api.pods = [pod]
        self.api.label(MIG, "seven")
        program = self.agent()
        self.api.wait_for(lambda _: any("/pods?" in path for _, path, _ in self.api.requests),
                          "a look at the pods")
        self.assertEqual(self.gpus(), [(False, [])])
        self.api.pods = []
        self.wait_for_state("success")
        self.end(program)
        # Where they don't go, it fails.
        self.api.pods = [pod]
        self.api.label(MIG, "two")
        program = self.agent("--clients-timeout", "0")
        self.wait_for_state("failed")
        self.assertIn("gpu-operator/plugin-x", self.api.node["annotations"][MIG_REASON])
        self.assertEqual(self.api.node["labels"][PLUGIN], "true")
        self.assertEqual(self.gpus(), self.seven())
        self.end(program)

    def test_killed_anywhere_it_ends_well(self):
        for crash in CRASH_POINTS:
            with self.subTest(crash):
                self.api.label(PLUGIN, "true")
                self.mig("two")
                self.api.label(MIG, "seven")
                program = self.agent(SUBLET_CRASH_AT=crash)
                _, said = program.communicate(timeout=60)
                self.assertEqual(program.returncode, -signal.SIGKILL, said)
                self.api.requests.clear()
                program = self.agent()
                self.api.wait_for(lambda node: node["labels"].get(MIG_STATE) == "success" and
                                  node["labels"][PLUGIN] == "true" and
                                  any("watch=1" in path for _, path, _ in self.api.requests),
                                  crash)
                self.assertEqual(self.gpus(), self.seven())
                self.assertFalse(list(self.state_dir.glob("*")))
                self.end(program)
                self.api.label(MIG, None)
                self.api.label(MIG_STATE, None)

    def test_killed_and_then_failing_it_is_as_before(self):
        for crash in ("mig-step-will:4", "mig-step-half:4", "mig-step-done:4"):
            with self.subTest(crash):
                self.mig("two")
                before = self.gpus()
                self.api.label(MIG, "seven")
                program = self.agent(SUBLET_CRASH_AT=crash)
                program.communicate(timeout=60)
                self.assertEqual(program.returncode, -signal.SIGKILL)
                self.assertNotEqual(self.gpus(), before)
                self.wait_for_state("pending")
                self.api.label(MIG, "absent")
                program = self.agent()
                self.wait_for_state("failed")
                self.assertEqual(self.gpus(), before)
                self.end(program)

    def test_the_api_server_away_in_between(self):
        self.api.label(MIG, "seven")
        self.api.away_after = "pending"
        program = self.agent()
        wait_for("the change", lambda: self.gpus() == self.seven())
        self.assertEqual(self.api.node["labels"][MIG_STATE], "pending")
        with self.api.changed:
            self.api.away_after = None
            self.api.away = False
        self.wait_for_state("success")
        self.end(program)

    def test_mig_alone(self):
        self.api.label(MIG, "seven")
        program = self.start("mig-manager", "--mig-config-file", self.mig_file, "--state-dir",
                             self.state_dir, *self.at(self.api))
        self.wait_for_state("success")
        self.assertEqual(self.gpus(), self.seven())
        self.assertEqual(set(nvidia(self.api.node["labels"])), {"mig.config", "mig.config.state"})
        self.end(program)

    def test_outside_of_a_cluster(self):
        said = self.sublet("kube", "mig-manager", "--mig-config-file", self.mig_file,
                           status=NOT_FOUND).stderr
        self.assertIn("--api-server", said)


if __name__ == "__main__":
    unittest.main(verbosity=2)

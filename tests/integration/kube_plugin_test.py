"""`sublet kube plugin` as it is shipped, on the simulated driver, in front of a kubelet of our own.

Usage: kube_plugin_test.py SUBLET_PROGRAM
"""

import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import unittest

from kube_harness import PYTHON, PluginRig
from node_harness import wait_for

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/07_kube"
GPU = "nvidia.com/gpu"
USAGE, INVALID, UNAVAILABLE, CONFLICT, PERMISSION = 2, 3, 5, 7, 9

SLICED = """
version: v1
sharing:
  timeSlicing:
    resources:
      - {name: nvidia.com/gpu, replicas: 4}
"""


def children(pid):
    return list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


class RigTestCase(unittest.TestCase):
    def make(self, sim="a100-80gb:2", config="version: v1\n", **variables):
        rig = PluginRig(SUBLET, sim, "", **variables)
        self.addCleanup(rig.close)
        rig.config.write_text(config.replace("/run/nvidia/mps", str(rig.mps)))
        return rig

    def example(self, name, sim="a100-80gb:2"):
        return self.make(sim, (EXAMPLES / name).read_text())

    def healthy(self, rig, resource, part=""):
        """Healthy ids of the resource in which `part` occurs."""
        devices = rig.kubelet.state()[resource]["devices"]
        return sorted(id for id, healthy in devices.items() if healthy and part in id)

    def await_healthy(self, rig, resource, part, count, seconds=20):
        wait_for(f"{count} of {part} are well", lambda: len(
            self.healthy(rig, resource, part)) == count, seconds)


class SharingModes(RigTestCase):
    def test_whole_gpus(self):
        rig = self.make()
        rig.start()
        state = rig.kubelet.await_resources({GPU: 2})
        uuids = rig.uuids()
        self.assertEqual(sorted(state[GPU]["devices"]), sorted(uuids))
        self.assertEqual({state[GPU]["numa_nodes"][uuid] for uuid in uuids}, {0, 1})
        both = rig.kubelet.admit("a/both", **{GPU: 2})
        self.assertEqual(both["envs"], {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids)})
        error = rig.kubelet.refusal("admit", pod="a/more", containers={"main": {GPU: 1}})
        self.assertIn("Requested: 1, Available: 0", error)

    def test_time_slicing(self):
        rig = self.example("time-slicing.yaml")
        rig.start()
        state = rig.kubelet.await_resources({GPU: 8})
        self.assertEqual(list(state[GPU]["devices"]),
                         sorted(f"{uuid}::{n}" for uuid in rig.uuids() for n in range(4)))
        # Spread over the GPUs, whatever the order in which kubelet offers them.
        got = [rig.kubelet.admit(f"a/{n}", **{GPU: 1})["envs"]["NVIDIA_VISIBLE_DEVICES"]
               for n in range(4)]
        self.assertEqual({uuid: got.count(uuid) for uuid in rig.uuids()},
                         {uuid: 2 for uuid in rig.uuids()})

    def test_packed_renamed_and_of_different_number_on_each_gpu(self):
        rig = self.make(config="""
version: v1
flags: {plugin: {sharedDevicesAllocationPolicy: packed}}
sharing:
  timeSlicing:
    renameByDefault: true
    failRequestsGreaterThanOne: true
    resources:
      - {name: nvidia.com/gpu, devices: [0], replicas: 2}
      - {name: nvidia.com/gpu, devices: [1], replicas: 5, rename: nvidia.com/gpu.slow}
""")
        rig.start()
        rig.kubelet.await_resources({"nvidia.com/gpu.shared": 2, "nvidia.com/gpu.slow": 5})
        error = rig.kubelet.refusal("admit", pod="a/two",
                                    containers={"main": {"nvidia.com/gpu.slow": 2}})
        self.assertIn("maximum request size for shared resources is 1; found 2", error)
        self.assertTrue((rig.dir / "nvidia-gpu.shared.sock").is_socket())
        self.assertTrue((rig.dir / "nvidia-gpu.slow.sock").is_socket())

    def test_mps(self):
        rig = self.example("mps.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        got = rig.kubelet.admit("a/pod", **{GPU: 1})
        [uuid] = {got["envs"]["NVIDIA_VISIBLE_DEVICES"]}
        self.assertEqual(got["envs"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "25")
        self.assertEqual(got["envs"]["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], "0=20480M")
        self.assertIn("for each process", got["annotations"]["sublet.dev/limits"])
        mount = next(one for one in got["mounts"] if one["container"] == f"/mps/{GPU}")
        self.assertEqual(got["envs"]["CUDA_MPS_PIPE_DIRECTORY"], f"/mps/{GPU}/pipe")
        self.assertEqual(mount["host"], f"{rig.mps}/servers/{uuid}")
        self.assertEqual({gpu["compute_mode"] for gpu in rig.inventory()["gpus"]},
                         {"exclusive-process"})
        # It is a client's, whatever its own variables say: the wall is the server's.
        environment = {**rig.environment, "CUDA_MPS_PIPE_DIRECTORY": mount["host"] + "/pipe",
                       "CUDA_VISIBLE_DEVICES": uuid,
                       "LD_LIBRARY_PATH": str(rig.nvml.parent)}
        client = [PYTHON, str(ROOT / "tests/integration/gpu_client.py")]
        too_much = subprocess.run([*client, str(25 << 10)], env=environment, text=True,
                                  capture_output=True, timeout=60)
        self.assertIn("cuMemAlloc_v2 returned 2", too_much.stderr)
        fits = subprocess.Popen([*client, str(19 << 10)], env=environment, text=True,
                                stdout=subprocess.PIPE)
        self.addCleanup(fits.stdout.close)
        self.addCleanup(fits.wait)
        self.addCleanup(fits.kill)
        self.assertEqual(fits.stdout.readline(), "works\n")

    def test_sizes_and_a_server_for_each_namespace(self):
        rig = self.example("sizes.yaml")
        rig.start("--tenant-grace", "1")
        rig.kubelet.await_resources({"nvidia.com/gpu.half": 1, "nvidia.com/gpu.small": 3,
                                     "nvidia.com/gpu.notebook": 8})
        self.assertEqual(rig.daemons(), {}, "there is no tenant yet")
        servers = {}
        for pod, resource in (("shop/one", "small"), ("shop/two", "small"), ("desk/one", "half")):
            got = rig.kubelet.admit(pod, **{f"nvidia.com/gpu.{resource}": 1})
            [mount] = [one for one in got["mounts"] if one["container"].startswith("/mps/")]
            self.assertFalse(os.path.exists(mount["host"]), "before the pod starts")
            rig.kubelet.must("start", pod=pod)
            servers[pod] = os.path.realpath(mount["host"])
            self.assertTrue(os.path.exists(servers[pod] + "/pipe/control"))
        self.assertEqual(servers["shop/one"], servers["shop/two"])
        self.assertNotEqual(servers["shop/one"], servers["desk/one"])
        self.assertEqual(len(rig.daemons()), 2)
        # Two on one GPU are one of twice the size.
        rig.kubelet.must("remove", pod="shop/one")
        twice = rig.kubelet.admit("shop/three", **{"nvidia.com/gpu.small": 2})
        self.assertEqual(twice["envs"]["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], "0=20480M")
        self.assertEqual(twice["envs"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "30")
        # A server goes with the last pod of its namespace, a claim with its own.
        rig.kubelet.must("remove", pod="desk/one")
        wait_for("its server is gone", lambda: len(rig.daemons()) == 1)
        self.assertEqual({os.path.realpath(path) for path in (rig.mps / "claims").iterdir()},
                         {servers["shop/one"]})
        rig.kubelet.must("start", pod="shop/three")
        rig.kubelet.must("start", pod="shop/two")
        self.assertEqual(len(rig.daemons()), 1)
        # kubelet lists each device by itself; both together are the claim that stays.
        rig.kubelet.must("remove", pod="shop/two")
        claims = rig.mps / "claims"
        wait_for("a claim goes", lambda: len(list(claims.iterdir())) == 1)
        [mount] = [one for one in twice["mounts"] if one["container"].startswith("/mps/")]
        self.assertEqual([str(path) for path in claims.iterdir()], [mount["host"]])
        self.assertEqual(len(rig.daemons()), 1)

    def test_a_server_for_each_value_of_a_label(self):
        labels = {"shop/red": "red", "shop/too": "red", "shop/blue": "blue", "shop/none": None}
        asked = []

        class Api(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                _, _, _, _, space, _, name = self.path.split("/")
                asked.append(f"{space}/{name}")
                found = labels.get(f"{space}/{name}", "?")
                status, body = 200, {"metadata": {"labels": {"team": found} if found else {}}}
                if found == "?":
                    status, body = 404, {"kind": "Status", "message": "no such pod"}
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

        api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self.addCleanup(api.server_close)
        self.addCleanup(api.shutdown)
        threading.Thread(target=api.serve_forever, daemon=True).start()
        text = (EXAMPLES / "sizes.yaml").read_text()
        rig = self.make(config=text.replace("per_tenant: namespace",
                                            "tenant_label: team\n  per_tenant: label"))
        rig.start("--api-server", f"http://127.0.0.1:{api.server_port}")
        rig.kubelet.await_resources({"nvidia.com/gpu.half": 1, "nvidia.com/gpu.small": 3})
        servers = {}
        for pod, resource in (("shop/red", "half"), ("shop/too", "small"), ("shop/blue", "small"),
                              ("shop/none", "small")):
            got = rig.kubelet.admit(pod, **{f"nvidia.com/gpu.{resource}": 1})
            [mount] = [one for one in got["mounts"] if one["container"].startswith("/mps/")]
            rig.kubelet.must("start", pod=pod)
            servers[pod] = os.path.realpath(mount["host"])
        self.assertEqual(asked, list(labels))
        self.assertEqual(servers["shop/red"], servers["shop/too"], "both are on GPU 0")
        self.assertEqual(len(set(servers.values())), 3)
        # Nothing starts on the strength of a guess.
        rig.kubelet.must("remove", pod="shop/none")
        rig.kubelet.admit("shop/late", **{"nvidia.com/gpu.small": 1})
        self.assertIn("no such pod", rig.kubelet.refusal("start", pod="shop/late"))

    def test_mig_strategies(self):
        rig = self.make(config="version: v1\nflags: {migStrategy: mixed}\n")
        rig.cut({"3g.40gb": 1, "1g.10gb": 2}, None)
        rig.start()
        mixed = {GPU: 1, "nvidia.com/mig-3g.40gb": 1, "nvidia.com/mig-1g.10gb": 2}
        rig.kubelet.await_resources(mixed)
        got = rig.kubelet.admit("a/mig", **{"nvidia.com/mig-1g.10gb": 1})
        self.assertRegex(got["envs"]["NVIDIA_VISIBLE_DEVICES"], "^MIG-")
        rig.config.write_text("version: v1\nflags: {migStrategy: none}\n")
        rig.kubelet.await_resources({GPU: 2, "nvidia.com/mig-3g.40gb": 0,
                                     "nvidia.com/mig-1g.10gb": 0})
        rig.stop_plugin()
        rig.cut({"1g.10gb": 2}, None)
        rig.config.write_text("version: v1\nflags: {migStrategy: single}\n")
        failed = rig.run_plugin()
        self.assertEqual(failed.returncode, CONFLICT, failed.stderr)
        self.assertIn("must be configured with the same migEnabled value", failed.stderr)

    def test_mps_inside_mig(self):
        rig = self.example("mig-mixed.yaml")
        rig.cut({"3g.40gb": 2}, None)
        rig.start()
        rig.kubelet.await_resources({GPU: 1, "nvidia.com/mig-3g.40gb.quarter": 8})
        got = rig.kubelet.admit("a/quarter", **{"nvidia.com/mig-3g.40gb.quarter": 1})
        self.assertRegex(got["envs"]["NVIDIA_VISIBLE_DEVICES"], "^MIG-")
        self.assertEqual(len(rig.daemons()), 2)


class DeviceLists(RigTestCase):
    def allocate(self, strategy, *more, **flags):
        rig = self.make(config=SLICED)
        rig.start("--device-list-strategy", strategy, *more, **flags)
        rig.kubelet.await_resources({GPU: 8})
        return rig, rig.kubelet.admit("a/pod", **{GPU: 1})

    def test_envvar_by_index_with_nodes(self):
        _, got = self.allocate("envvar", "--device-id-strategy", "index", "--pass-device-specs")
        self.assertEqual(got["envs"], {"NVIDIA_VISIBLE_DEVICES": "0"})
        self.assertIn({"container": "/dev/nvidia0", "host": "/dev/nvidia0", "permissions": "rw"},
                      got["devices"])

    def test_volume_mounts(self):
        rig, got = self.allocate("volume-mounts")
        uuid = rig.uuids()[0]
        folder = "/var/run/nvidia-container-devices"
        self.assertEqual(got["envs"], {"NVIDIA_VISIBLE_DEVICES": folder})
        self.assertEqual([(one["container"], one["host"]) for one in got["mounts"]],
                         [(f"{folder}/{uuid}", "/dev/null")])

    def test_cdi_annotations(self):
        rig, got = self.allocate("cdi-annotations")
        [(name, value)] = got["annotations"].items()
        self.assertRegex(name, r"^cdi\.k8s\.io/nvidia-device-plugin_[0-9a-f-]{36}$")
        self.assertEqual(value, f"k8s.device-plugin.nvidia.com/gpu={rig.uuids()[0]}")
        self.assertEqual(got["envs"], {})
        self.check_spec(rig, value)

    def test_cdi_cri(self):
        rig, got = self.allocate("cdi-cri")
        self.assertEqual(got["cdi_devices"],
                         [f"k8s.device-plugin.nvidia.com/gpu={rig.uuids()[0]}"])
        self.check_spec(rig, got["cdi_devices"][0])

    def test_all_at_once(self):
        _, got = self.allocate("envvar,cdi-annotations,cdi-cri")
        self.assertIn("NVIDIA_VISIBLE_DEVICES", got["envs"])
        self.assertEqual(len(got["annotations"]), 1)
        self.assertEqual(len(got["cdi_devices"]), 1)

    def check_spec(self, rig, device):
        spec = json.loads((rig.folder / "cdi/k8s.device-plugin.nvidia.com-gpu.json").read_text())
        names = [f"{spec['kind']}={one['name']}" for one in spec["devices"]]
        self.assertIn(device, names)

    def test_variables_and_their_precedence(self):
        rig = self.make(config="version: v1\nflags: {plugin: {deviceIDStrategy: uuid}}\n")
        rig.start(DEVICE_ID_STRATEGY="index", DEVICE_LIST_STRATEGY="cdi-cri")
        rig.kubelet.await_resources({GPU: 2})
        got = rig.kubelet.admit("a/pod", **{GPU: 1})
        self.assertRegex(got["cdi_devices"][0], "=[01]$")
        rig.kubelet.must("remove", pod="a/pod")
        rig.stop_plugin()
        rig.start_plugin("--device-list-strategy", "envvar", DEVICE_ID_STRATEGY="index",
                         DEVICE_LIST_STRATEGY="cdi-cri")
        rig.kubelet.await_resources({GPU: 2})
        self.assertRegex(rig.kubelet.admit("a/pod", **{GPU: 1})["envs"]["NVIDIA_VISIBLE_DEVICES"],
                         "^[01]$")


class Changes(RigTestCase):
    def test_mig_changes_under_load(self):
        rig = self.make(config="version: v1\nflags: {migStrategy: mixed}\n")
        rig.cut({"1g.10gb": 1}, None)
        rig.start()
        rig.kubelet.await_resources({GPU: 1, "nvidia.com/mig-1g.10gb": 1})
        used = rig.kubelet.admit("a/pod", **{"nvidia.com/mig-1g.10gb": 1})["ids"]
        rig.cut({"1g.10gb": 3, "2g.20gb": 1}, None)
        state = rig.kubelet.await_resources({GPU: 1, "nvidia.com/mig-1g.10gb": 3,
                                             "nvidia.com/mig-2g.20gb": 1})
        # What isn't concerned isn't touched: one registration, and the pod's device is there.
        self.assertEqual(state[GPU]["registrations"], 1)
        self.assertEqual(state[GPU]["lists"], 1)
        self.assertEqual(state["nvidia.com/mig-1g.10gb"]["registrations"], 1)
        self.assertIn(used[0], state["nvidia.com/mig-1g.10gb"]["devices"])
        rig.cut({"1g.10gb": 3}, None)
        rig.kubelet.await_resources({"nvidia.com/mig-1g.10gb": 3, "nvidia.com/mig-2g.20gb": 0})
        self.assertFalse((rig.dir / "nvidia-mig-2g.20gb.sock").exists())

    def test_the_configuration_changes(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.config.write_text(SLICED.replace("4}", "6}"))
        state = rig.kubelet.await_resources({GPU: 12})
        self.assertEqual(state[GPU]["registrations"], 1)
        # What is wrong changes nothing.
        rig.config.write_text(SLICED.replace("replicas: 4", "replicas: 0"))
        rig.await_said("the configuration stays as it was")
        self.assertEqual(rig.kubelet.state()[GPU]["allocatable"], 12)
        rig.config.write_text("version: v1\n")
        rig.kubelet.await_resources({GPU: 2})

    def test_the_configuration_is_a_link_as_in_a_config_map(self):
        rig = self.make()
        for name, text in (("one", SLICED), ("two", "version: v1\n")):
            (rig.folder / name).mkdir()
            (rig.folder / name / "config.yaml").write_text(text)
        (rig.folder / "..data").symlink_to("one")
        rig.config.unlink()
        rig.config.symlink_to("..data/config.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        (rig.folder / "..data_tmp").symlink_to("two")
        os.rename(rig.folder / "..data_tmp", rig.folder / "..data")
        rig.kubelet.await_resources({GPU: 2})

    def test_a_signal_reads_it_again(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.plugin.send_signal(signal.SIGHUP)
        rig.await_said("is read again, and is as it was")
        self.assertEqual(rig.kubelet.state()[GPU]["lists"], 1)

    def test_mps_gives_way_once_its_clients_are_gone(self):
        rig = self.example("mps.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        uuid = rig.uuids()[0]
        environment = {**rig.environment, "LD_LIBRARY_PATH": str(rig.nvml.parent),
                       "CUDA_MPS_PIPE_DIRECTORY": f"{rig.mps}/servers/{uuid}/pipe"}
        client = subprocess.Popen([PYTHON, str(ROOT / "tests/integration/gpu_client.py")],
                                  env=environment, stdout=subprocess.PIPE, text=True)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        self.assertEqual(client.stdout.readline(), "works\n")
        rig.config.write_text("version: v1\nflags: {mpsRoot: %s}\n" % rig.mps)
        # The GPU without clients becomes whole at once, the other one when its last client ends.
        rig.kubelet.await_resources({GPU: 1})
        self.assertEqual(self.healthy(rig, GPU), [rig.uuids()[1]])
        self.assertEqual(len(rig.daemons()), 1)
        client.kill()
        rig.kubelet.await_resources({GPU: 2})
        self.assertEqual(rig.daemons(), {})
        self.assertEqual({gpu["compute_mode"] for gpu in rig.inventory()["gpus"]}, {"default"})


class Health(RigTestCase):
    def test_a_storm_of_xids_marks_one_gpu_and_it_recovers(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        first, second = rig.uuids()
        rig.do("xid=0:13", "xid=0:31", "xid=0:43", "xid=0:45", "xid=0:109")
        # A reset is seen by a counter that goes back, so it must have been seen before.
        rig.do("ecc=0:3")
        self.await_healthy(rig, GPU, first, 0)
        rig.do(*["xid=0:79"] * 200)
        # Every replica of that GPU, not just the last, and none of the other.
        self.await_healthy(rig, GPU, first, 0)
        self.assertEqual(len(self.healthy(rig, GPU, second)), 4)
        state = rig.kubelet.state()[GPU]
        self.assertEqual((state["capacity"], state["allocatable"]), (8, 4))
        error = rig.kubelet.refusal("allocate", resource=GPU, ids=[f"{first}::1"])
        self.assertIn("unhealthy", error)
        self.assertLess(state["lists"], 10, "a storm is no storm of lists")
        rig.do("reset=0")
        self.await_healthy(rig, GPU, first, 4)

    def test_an_xid_of_a_program_marks_nothing(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.do("xid=0:31", "xid=1:38")
        self.await_healthy(rig, GPU, rig.uuids()[1], 0)
        self.assertEqual(len(self.healthy(rig, GPU, rig.uuids()[0])), 4)
        self.await_healthy(rig, GPU, rig.uuids()[1], 4)  # That one needs no reset.

    def test_an_xid_of_an_instance_marks_that_instance(self):
        rig = self.make(sim="a100-80gb:1", config="""
version: v1
flags: {migStrategy: single}
sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 2}]}}
""")
        rig.cut({"1g.10gb": 3})
        rig.start()
        rig.kubelet.await_resources({GPU: 6})
        instances = rig.inventory()["gpus"][0]["instances"]
        sick = instances[1]["compute_instances"][0]["uuid"]
        rig.do(f"xid=0:38:{instances[1]['id']}:0")
        self.await_healthy(rig, GPU, sick, 0)
        self.assertEqual(len(self.healthy(rig, GPU)), 4)
        self.await_healthy(rig, GPU, sick, 2)

    def test_what_is_disabled_marks_nothing(self):
        rig = self.make(config=SLICED)
        rig.start(DP_DISABLE_HEALTHCHECKS="79", DP_ENABLE_HEALTHCHECKS="31")
        rig.kubelet.await_resources({GPU: 8})
        rig.do("xid=0:79", "xid=1:31")
        self.await_healthy(rig, GPU, rig.uuids()[1], 0)
        self.assertEqual(len(self.healthy(rig, GPU, rig.uuids()[0])), 4)

    def test_a_lost_gpu_and_one_that_is_back(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.do("lost=1")
        self.await_healthy(rig, GPU, rig.uuids()[0], 4)
        wait_for("it is marked", lambda: rig.kubelet.state()[GPU]["allocatable"] == 4)
        rig.do("clear")
        rig.kubelet.await_resources({GPU: 8})

    def test_the_driver_goes_and_comes_back(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        gone = [f"fail={name}:9" for name in ("nvmlDeviceGetCount_v2", "nvmlDeviceGetUUID",
                                              "nvmlDeviceGetHandleByIndex_v2")]
        rig.do(*gone)
        wait_for("nothing is allocatable", lambda:
                 rig.kubelet.state()[GPU]["allocatable"] == 0)
        self.assertEqual(rig.kubelet.state()[GPU]["capacity"], 8, "they are only unhealthy")
        rig.do("clear")
        rig.kubelet.await_resources({GPU: 8}, 30)
        self.assertEqual(rig.kubelet.state()[GPU]["registrations"], 1)

    def test_an_mps_server_is_replaced_and_only_its_device_flickers(self):
        rig = self.example("mps.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        first, second = rig.uuids()
        pid, other = (rig.daemon(f"{rig.mps}/servers/{uuid}/pipe") for uuid in (first, second))
        lists = rig.kubelet.state()[GPU]["lists"]
        os.kill(pid, signal.SIGKILL)
        wait_for("another one serves", lambda: pid not in rig.daemons().get(
            f"{rig.mps}/servers/{first}/pipe", [pid]))
        rig.kubelet.await_resources({GPU: 8})
        wait_for("kubelet saw it", lambda: rig.kubelet.state()[GPU]["lists"] >= lists + 1)
        self.assertIn(other, rig.daemons()[f"{rig.mps}/servers/{second}/pipe"])
        said = rig.said()
        self.assertIn(f"{first} waits: its MPS server", said)
        self.assertNotIn(f"{second} waits: its MPS server: its mps control daemon has", said)


    def test_an_mps_server_that_hangs_is_replaced(self):
        rig = self.example("mps.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        first, second = rig.uuids()
        pid, other = (rig.daemon(f"{rig.mps}/servers/{uuid}/pipe") for uuid in (first, second))
        os.kill(pid, signal.SIGSTOP)
        wait_for("another one serves", lambda: pid not in rig.daemons().get(
            f"{rig.mps}/servers/{first}/pipe", [pid]), 60)
        rig.kubelet.await_resources({GPU: 8})
        self.assertIn(other, rig.daemons()[f"{rig.mps}/servers/{second}/pipe"])
        self.assertIn(f"{first} waits: its MPS server: ", rig.said())
        self.assertNotIn(f"{second} waits: its MPS server: ", rig.said())


class Kubelets(RigTestCase):
    def test_kubelet_comes_late(self):
        rig = self.make(config=SLICED)
        rig.start_plugin()
        rig.await_said("not registered")
        rig.start_kubelet()
        rig.kubelet.await_resources({GPU: 8}, 5)

    def test_kubelet_restarts_and_pods_go_on(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        used = rig.kubelet.admit("a/pod", **{GPU: 1})["ids"]
        for _ in range(3):
            rig.kubelet.must("restart")
            state = rig.kubelet.await_resources({GPU: 8}, 5)
            self.assertEqual(state[GPU]["in_use"], used)
        rig.kubelet.must("stop")
        rig.await_said("doesn't watch its devices any more")
        rig.kubelet.must("start-again")
        rig.kubelet.await_resources({GPU: 8}, 5)
        self.assertIsNone(rig.plugin.poll())

    def test_another_kubelet_takes_the_place_of_one_that_died(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.kubelet.close()
        rig.start_kubelet()
        rig.kubelet.await_resources({GPU: 8}, 5)

    def test_kubelets_folder_is_made_anew(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.kubelet.close()
        os.rename(rig.dir, rig.folder / "away")
        rig.start_kubelet()
        rig.kubelet.await_resources({GPU: 8}, 10)

    def test_kubelet_refuses_hangs_and_forgets(self):
        for manner in ("refuses", "hangs", "forgets"):
            with self.subTest(manner=manner):
                rig = self.make(config=SLICED)
                rig.start_kubelet()
                rig.kubelet.must("behave", manner=manner)
                rig.start_plugin()
                wait_for("it asks", lambda: rig.kubelet.state().get(
                    GPU, {"registrations": 0})["registrations"] >= 1)
                self.assertFalse(rig.kubelet.state()[GPU]["watched"])
                rig.kubelet.must("behave", manner="proper")
                rig.kubelet.await_resources({GPU: 8}, 15)

    def test_kubelet_is_garbage(self):
        rig = self.make(config=SLICED)
        rig.dir.mkdir()
        script = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\n"
                  "s.bind(sys.argv[1])\ns.listen()\nprint('listens', flush=True)\n"
                  "while True:\n    c, _ = s.accept()\n    c.sendall(b'HTTP/1.0 nonsense' * 99)\n"
                  "    c.close()\n")
        garbage = subprocess.Popen([PYTHON, "-c", script, str(rig.dir / "kubelet.sock")],
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(garbage.stdout.close)
        self.addCleanup(garbage.wait)
        self.addCleanup(garbage.kill)
        self.assertEqual(garbage.stdout.readline(), "listens\n")
        rig.start_plugin()
        rig.await_said("not registered")
        garbage.kill()
        rig.start_kubelet()
        rig.kubelet.await_resources({GPU: 8}, 10)

    def test_the_plugin_restarts(self):
        rig = self.example("mps.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        places = [f"{rig.mps}/servers/{uuid}/pipe" for uuid in rig.uuids()]
        before = [rig.daemon(place) for place in places]
        used = rig.kubelet.admit("a/pod", **{GPU: 1})["ids"]
        rig.stop_plugin()
        wait_for("kubelet sees it", lambda: rig.kubelet.state()[GPU]["allocatable"] == 0)
        self.assertEqual([path.name for path in rig.dir.glob("nvidia-*")], [])
        rig.start_plugin()
        rig.kubelet.await_resources({GPU: 8})
        rig.kill_plugin()
        wait_for("kubelet sees it", lambda: rig.kubelet.state()[GPU]["allocatable"] == 0)
        rig.start_plugin()
        state = rig.kubelet.await_resources({GPU: 8})
        self.assertEqual(state[GPU]["in_use"], used)
        self.assertEqual([rig.daemon(place) for place in places], before,
                         "its MPS servers were taken over")

    def test_supervised_it_starts_again_by_itself(self):
        rig = self.example("mps.yaml")
        rig.start("--supervised")
        rig.kubelet.await_resources({GPU: 8})
        places = [f"{rig.mps}/servers/{uuid}/pipe" for uuid in rig.uuids()]
        before = [rig.daemon(place) for place in places]
        for how, words in ((signal.SIGKILL, "killed by signal 9"),
                           (signal.SIGSEGV, "killed by signal 11")):
            [child] = children(rig.plugin.pid)
            os.kill(child, how)
            rig.await_said(words)
            wait_for("there is another", lambda: children(rig.plugin.pid) not in ([], [child]))
            rig.kubelet.await_resources({GPU: 8})
        self.assertEqual([rig.daemon(place) for place in places], before)
        # The plugin's signals reach it, and its end is the end.
        rig.plugin.send_signal(signal.SIGHUP)
        rig.await_said("is read again, and is as it was")
        rig.stop_plugin()
        self.assertEqual([path.name for path in rig.dir.glob("nvidia-*")], [])
        self.assertEqual([rig.daemon(place) for place in places], before)
        # What says why it ends isn't tried again.
        rig.config.write_text("version: v2\n")
        done = rig.run_plugin("--supervised")
        self.assertEqual(done.returncode, rig.run_plugin().returncode)
        self.assertIn("v2", done.stderr)

    def test_without_a_kubelet_it_serves_and_registers_nowhere(self):
        rig = self.make(config=SLICED)
        rig.dir.mkdir()
        rig.start_plugin("--kubelet-socket", "", "--plugin-dir", str(rig.dir))
        wait_for("it listens", lambda: (rig.dir / "nvidia-gpu.sock").is_socket())
        self.assertNotIn("not registered", rig.said())

    def test_uninstalling_leaves_nothing_behind(self):
        rig = self.example("mps.yaml")
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        rig.stop_plugin()
        done = rig.run_plugin("--end-mps")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(rig.daemons(), {})
        self.assertEqual(list(rig.mps.iterdir()), [])
        self.assertEqual({gpu["compute_mode"] for gpu in rig.inventory()["gpus"]}, {"default"})


class BadInput(RigTestCase):
    def refused(self, config, status, *words, arguments=(), sim="a100-80gb:2", **variables):
        rig = self.make(sim, config)
        rig.start_kubelet()
        done = rig.run_plugin(*arguments, **variables)
        self.assertNotEqual(done.returncode, 0)
        if status is not None:
            self.assertEqual(done.returncode, status, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        # Never a half-registered resource.
        self.assertEqual(rig.kubelet.state(), {})
        self.assertEqual([path.name for path in rig.dir.glob("nvidia-*")], [])
        return rig

    def test_configurations(self):
        shared = "version: v1\nsharing:\n  timeSlicing:\n    resources:\n      - {name: %s, %s}\n"
        self.refused("version: v7\n", INVALID, "unknown version", "config.yaml:1")
        self.refused("version: v1\nflags:\n  migStrategie: none\n", INVALID, "config.yaml:3")
        self.refused(shared % (GPU, "replicas: 0"), INVALID, "number of replicas must be >= 2")
        self.refused(shared % ("n" * 70, "replicas: 2"), INVALID, "config.yaml:5")
        self.refused(shared % ("nvidia.com/a_b!", "replicas: 2"), INVALID, "config.yaml:5")
        self.refused(shared % (GPU, "replicas: 2, devices: [9]"), 4, "index: 9")
        self.refused("version: v1\nflags: {migStrategy: maybe}\n", INVALID, "config.yaml:2")
        self.refused(shared % (GPU, "replicas: 10000"), 1, "kubelet takes 4194304",
                     sim="a100-80gb:8")
        mps = "version: v1\nflags: {migStrategy: none, mpsRoot: /run/nvidia/mps}\n" \
              "sharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n"
        self.refused(mps.replace(", mpsRoot: /run/nvidia/mps", ""), None, "--mps-root")
        self.refused(mps.replace("{mps:", "{timeSlicing: {resources: [{name: nvidia.com/gpu, "
                                 "replicas: 2}]}, mps:"), INVALID)
        self.refused(mps.replace("none", "mixed"), None, "mixed")

    def test_places(self):
        self.refused("version: v1\n", USAGE, "too long a path", arguments=[
            "--plugin-dir", "/tmp/" + "long/" * 30])
        self.refused("version: v1\n", None, "/proc/none", arguments=[
            "--plugin-dir", "/proc/none"])
        rig = self.make()
        rig.start_kubelet()
        (rig.dir / "nvidia-gpu.sock").write_text("no socket")
        done = rig.run_plugin()
        self.assertEqual(done.returncode, CONFLICT, done.stderr)
        self.assertIn("not a socket, and in the way", done.stderr)

    def test_one_resource_of_two_cant_be_had(self):
        rig = self.make(config="""
version: v1
sharing:
  timeSlicing:
    resources:
      - {name: nvidia.com/gpu, devices: [0], replicas: 2}
      - {name: nvidia.com/gpu, devices: [1], replicas: 2, rename: nvidia.com/gpu.slow}
""")
        rig.start_kubelet()
        (rig.dir / "nvidia-gpu.slow.sock").write_text("no socket")
        self.assertEqual(rig.run_plugin().returncode, CONFLICT)
        self.assertEqual(rig.kubelet.state(), {}, "the other one isn't registered either")
        self.assertFalse((rig.dir / "nvidia-gpu.sock").exists())
        rig.start_plugin("--fail-on-init-error=false")
        rig.await_said("tries again")
        (rig.dir / "nvidia-gpu.slow.sock").unlink()
        rig.kubelet.await_resources({GPU: 2, "nvidia.com/gpu.slow": 2})

    def test_another_plugin_of_the_same_resource(self):
        rig = self.make()
        rig.start()
        rig.kubelet.await_resources({GPU: 2})
        done = rig.run_plugin()
        self.assertEqual(done.returncode, CONFLICT, done.stderr)
        self.assertIn("another device plugin listens", done.stderr)
        self.assertEqual(rig.kubelet.state()[GPU]["registrations"], 1)

    @unittest.skipUnless(os.geteuid() == 0, "needs root, to mount")
    def test_a_read_only_file_system(self):
        rig = self.make()
        place = rig.folder / "ro"
        place.mkdir()
        script = 'mount -t tmpfs -o ro none "$0" || exit 77; exec "$@"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, str(place), *rig.arguments(
                "--plugin-dir", str(place))], env=rig.environment, text=True,
            capture_output=True, timeout=20)
        if done.returncode == 77:
            self.skipTest("no mounts here: " + done.stderr)
        self.assertEqual(done.returncode, PERMISSION, done.stderr)
        self.assertIn("Read-only file system", done.stderr)

    @unittest.skipUnless(os.geteuid() == 0 and os.path.exists("/usr/bin/setpriv"),
                         "needs root, to become somebody else")
    def test_missing_permissions(self):
        rig = self.make()
        rig.start_kubelet()
        for path in (rig.folder, rig.folder / "config.yaml"):
            os.chmod(path, 0o755)
        done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", *rig.arguments()],
                              env={**rig.environment, "SUBLET_SIM_STATE": "/nonexistent"},
                              text=True, capture_output=True, timeout=20)
        self.assertEqual(done.returncode, PERMISSION, done.stderr)

    def test_no_driver(self):
        gone = "fail=nvmlDeviceGetCount_v2:9"
        rig = self.make()
        rig.start_kubelet()
        rig.do(gone)
        done = rig.run_plugin()
        self.assertEqual(done.returncode, UNAVAILABLE, done.stderr)
        rig.start_plugin("--fail-on-init-error=false")
        rig.await_said("tries again")
        rig.do("clear")
        rig.kubelet.await_resources({GPU: 2})

    def test_allocations(self):
        rig = self.make(config=SLICED)
        rig.start()
        rig.kubelet.await_resources({GPU: 8})
        uuid = rig.uuids()[0]
        ask = rig.kubelet.refusal
        self.assertIn("unknown device: x", ask("allocate", resource=GPU, ids=["x"]))
        self.assertIn("unknown device: " + uuid, ask("allocate", resource=GPU, ids=[uuid]))
        ask("allocate", resource=GPU, ids=[])
        ask("allocate", resource=GPU, ids=[f"{uuid}::0", f"{uuid}::0"])
        ask("prefer", resource=GPU, available=[f"{uuid}::0"], size=2)
        ask("prefer", resource=GPU, available=[f"{uuid}::0"], size=-1)
        ask("prefer", resource=GPU, available=["x"], size=1)
        ids = rig.kubelet.must("prefer", resource=GPU, available=[f"{uuid}::2", f"{uuid}::1"],
                               size=1)["ids"]
        self.assertEqual(ids, [f"{uuid}::1"])


if __name__ == "__main__":
    unittest.main(verbosity=2)

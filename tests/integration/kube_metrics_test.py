"""The metrics of `sublet kube plugin` as it is shipped: simulated GPUs, a kubelet of our own, and
programs that use GPUs.

Usage: kube_metrics_test.py SUBLET_PROGRAM

A cgroup of a pod can't be made everywhere, so the plugin is shown a /proc of the test's, in which
each program has the cgroup that the test gives it. Everything else is real.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import unittest
import urllib.request

from kube_harness import PYTHON, PluginRig
from node_harness import wait_for

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1]

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/07_kube"
GPU = "nvidia.com/gpu"
SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"(?:,|$)')


class Page:
    """What Prometheus would read, checked as it is parsed."""

    def __init__(self, text):
        self.series = {}
        self.types = {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name, kind = line[7:].split(" ")
                assert name not in self.types, f"{name} is there twice"
                self.types[name] = kind
            if line.startswith("#"):
                continue
            name, labels, value = SAMPLE.match(line).groups()
            assert name in self.types, f"{name} has no type"
            key = (name, frozenset(LABEL.findall(labels or "")))
            assert key not in self.series, f"{line} is there twice"
            self.series[key] = float(value)
            assert not name.endswith("_ratio") or 0 <= float(value) <= 1, line

    def every(self, name, /, **labels):
        return [value for (n, have), value in self.series.items()
                if n == name and set(labels.items()) <= have]

    def one(self, name, /, **labels):
        found = self.every(name, **labels)
        assert len(found) <= 1, f"{name} {labels}: {found}"
        return found[0] if found else None

    def pod(self, pod):
        namespace, name = pod.split("/")
        return sum(self.every("sublet_kube_memory_used_bytes", namespace=namespace, pod=name))


class MetricsTestCase(unittest.TestCase):
    def make(self, example=None, sim="a100-80gb:2"):
        rig = PluginRig(SUBLET, sim, "version: v1\n")
        self.addCleanup(rig.close)
        if example:
            text = (EXAMPLES / example).read_text()
            rig.config.write_text(text.replace("/run/nvidia/mps", str(rig.mps)))
        self.rig, self.uids = rig, {}
        for name in ("proc", "logs"):
            (rig.folder / name).mkdir()
        return rig

    def start(self):
        self.rig.start_kubelet()
        self.start_plugin()

    def start_plugin(self):
        folder = self.rig.folder
        self.rig.start_plugin("--metrics-address", "127.0.0.1:0", "--proc", str(folder / "proc"),
                              "--pod-logs", str(folder / "logs"))
        self.rig.await_said("metrics at port ")
        self.port = re.findall(r"metrics at port (\d+)", self.rig.said())[-1]

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=15) as answer:
            return answer.read().decode()

    def page(self):
        return Page(self.get("/metrics"))

    def await_page(self, what, condition):
        last = []

        def holds():
            last[:] = [self.page()]
            return condition(last[0])
        try:
            wait_for(what, holds, 20)
        except AssertionError:
            raise AssertionError(f"{what}\n{last[0].series}\n{self.rig.said()}") from None
        return last[0]

    def admit(self, pod, **requests):
        """Also makes what kubelet makes: a folder for the pod's logs."""
        got = self.rig.kubelet.admit(pod, **requests)
        uid = f"6f2b41d2-0f5c-4d0e-9d6e-{len(self.uids):012}"
        self.uids[pod] = uid
        (self.rig.folder / "logs" / f"{pod.replace('/', '_')}_{uid}").mkdir()
        return got

    def use(self, mib, got, pod=None):
        """A program on the devices that a container got, in the pod's cgroup."""
        environment = {**self.rig.environment, "LD_LIBRARY_PATH": str(self.rig.nvml.parent),
                       "CUDA_VISIBLE_DEVICES": got["envs"]["NVIDIA_VISIBLE_DEVICES"]}
        for mount in got.get("mounts", []):
            if mount["container"].startswith("/mps/"):
                environment["CUDA_MPS_PIPE_DIRECTORY"] = mount["host"] + "/pipe"
        program = subprocess.Popen(
            [PYTHON, str(ROOT / "tests/integration/gpu_client.py"), str(mib)], env=environment,
            text=True, stdout=subprocess.PIPE)
        self.addCleanup(program.stdout.close)
        self.addCleanup(program.wait)
        self.addCleanup(program.kill)
        cgroup = "/user.slice/user-0.slice"
        if pod:
            uid = self.uids[pod].replace("-", "_")
            cgroup = (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/"
                      f"cri-containerd-{'c' * 64}.scope")
        folder = self.rig.folder / "proc" / str(program.pid)
        folder.mkdir()
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
        (folder / "comm").write_text("python3\n")
        self.assertEqual(program.stdout.readline(), "works\n")
        return program

    def end(self, program):
        program.kill()
        program.wait()


class ByPod(MetricsTestCase):
    def test_a_pods_memory_comes_and_goes(self):
        rig = self.make()
        self.start()
        rig.kubelet.await_resources({GPU: 2})
        self.assertEqual(self.get("/healthz"), "ok\n")
        got = self.admit("shop/web-0", **{GPU: 1})
        page = self.page()
        uuid = got["envs"]["NVIDIA_VISIBLE_DEVICES"]
        who = {"namespace": "shop", "pod": "web-0", "container": "main", "UUID": uuid}
        self.assertEqual(page.one("sublet_kube_memory_used_bytes", **who), 0)
        self.assertEqual(page.one("sublet_kube_memory_limit_bytes", **who), 80 << 30)
        self.assertEqual(page.one("sublet_kube_sm_limit_ratio", **who), 1)
        program = self.use(1000, got, "shop/web-0")
        page = self.page()
        used = page.one("sublet_kube_memory_used_bytes", **who)
        self.assertGreaterEqual(used, 1000 << 20)
        self.assertLess(used, 3000 << 20)
        self.assertEqual(page.one("sublet_kube_processes", **who), 1)
        self.assertEqual(page.every("sublet_kube_unattributed_memory_bytes"), [])
        self.assertIsNotNone(page.one("DCGM_FI_DEV_FB_USED", **who))
        self.assertIsNotNone(page.one("DCGM_FI_DEV_SM_CLOCK", UUID=uuid))
        self.assertIsNotNone(page.one("DCGM_FI_DEV_POWER_USAGE", UUID=uuid))
        self.end(program)
        self.await_page("it is gone", lambda now: now.pod("shop/web-0") == 0)
        rig.kubelet.must("remove", pod="shop/web-0")
        self.assertEqual(self.page().every("sublet_kube_memory_used_bytes"), [])
        rig.stop_plugin()

    def test_what_is_in_no_pod_is_nobodys(self):
        rig = self.make()
        self.start()
        rig.kubelet.await_resources({GPU: 2})
        got = self.admit("shop/web-0", **{GPU: 1})
        self.admit("shop/other", **{GPU: 1})
        self.use(1000, got)                # A process of the host's.
        self.use(2000, got, "shop/other")  # A pod on a GPU that isn't its own.
        page = self.page()
        self.assertEqual(page.pod("shop/web-0") + page.pod("shop/other"), 0)
        for reason, mib in (("outside", 1000), ("no-device", 2000)):
            self.assertGreaterEqual(
                page.one("sublet_kube_unattributed_memory_bytes", reason=reason), mib << 20)
            self.assertEqual(page.one("sublet_kube_unattributed_processes", reason=reason), 1)

    def two_on_one(self, resource, first_mib, second_mib):
        pods = {"a/one": first_mib, "b/two": second_mib}
        for pod, mib in pods.items():
            self.use(mib, self.admit(pod, **{resource: 1}), pod)
        page = self.page()
        for pod, mib in pods.items():
            self.assertGreaterEqual(page.pod(pod), mib << 20)
            self.assertLess(page.pod(pod), (mib + 900) << 20)
        self.assertEqual(sum(page.every("sublet_kube_processes")), 2)
        self.assertEqual(page.every("sublet_kube_unattributed_memory_bytes", reason="outside"), [])
        return page

    def test_time_slicing(self):
        rig = self.make("time-slicing.yaml", "a100-80gb:1")
        self.start()
        rig.kubelet.await_resources({GPU: 4})
        page = self.two_on_one(GPU, 1000, 3000)
        self.assertEqual(page.every("sublet_kube_memory_limit_bytes"), [], "nothing limits it")
        self.assertEqual(page.every("DCGM_FI_DEV_FB_USED", pod="one"), [], "it isn't its alone")

    def test_mps(self):
        rig = self.make("mps.yaml", "a100-80gb:1")
        self.start()
        rig.kubelet.await_resources({GPU: 4})
        got = [self.admit("a/one", **{GPU: 1}), self.admit("b/two", **{GPU: 1})]
        self.use(1000, got[0], "a/one")
        self.use(3000, got[1], "b/two")
        page = self.page()
        self.assertLess(1000 << 20, page.pod("a/one"))
        self.assertLess(3000 << 20, page.pod("b/two"))
        self.assertEqual(page.every("sublet_kube_memory_limit_bytes"), [20 << 30] * 2)
        self.assertEqual(page.every("sublet_kube_sm_limit_ratio"), [0.25] * 2)
        self.assertEqual(page.every("sublet_kube_mps_server_up"), [1])
        [uuid] = rig.uuids()
        self.assertEqual(page.every("sublet_kube_mps_client_info", server=uuid), [1, 1])

    def test_a_tenants_server(self):
        rig = self.make("sizes.yaml")
        self.start()
        small = "nvidia.com/gpu.small"
        rig.kubelet.await_resources({small: 3})
        self.admit("shop/one", **{small: 2})
        self.admit("desk/two", **{small: 1})
        self.assertEqual(self.page().every("sublet_kube_mps_client_info"), [], "none has begun")
        rig.kubelet.must("start", pod="shop/one")
        rig.kubelet.must("start", pod="desk/two")
        page = self.page()
        tenant_of = {dict(labels)["server"]: dict(labels)["tenant"]
                     for name, labels in page.series if name == "sublet_kube_mps_server_up"}
        clients = {(dict(labels)["namespace"], tenant_of[dict(labels)["server"]])
                   for name, labels in page.series if name == "sublet_kube_mps_client_info"}
        self.assertEqual(clients, {("shop", "shop"), ("desk", "desk")})
        self.assertEqual(page.one("sublet_kube_memory_limit_bytes", pod="one"), 20 << 30)

    def test_mig(self):
        rig = self.make(sim="a100-80gb:1")
        rig.config.write_text("version: v1\nflags: {migStrategy: mixed}\n")
        rig.cut({"1g.10gb": 2})
        self.start()
        resource = "nvidia.com/mig-1g.10gb"
        rig.kubelet.await_resources({resource: 2})
        page = self.two_on_one(resource, 1000, 3000)
        self.assertEqual(len(page.every("sublet_kube_memory_limit_bytes")), 2)


class WhenSomethingFails(MetricsTestCase):
    def test_kubelets_list_goes_hangs_and_returns(self):
        rig = self.make()
        self.start()
        rig.kubelet.await_resources({GPU: 2})
        self.use(1000, self.admit("a/one", **{GPU: 1}), "a/one")
        self.assertLess(0, self.page().pod("a/one"))
        rig.kubelet.must("stop")
        page = self.await_page("it is noticed",
                               lambda now: now.one("sublet_kube_pod_resources_up") == 0)
        self.assertEqual(page.pod("a/one"), 0, "what isn't known isn't guessed")
        self.assertLess(0, page.one("sublet_kube_unattributed_memory_bytes", reason="kubelet"))
        # One that takes connections and never says a word.
        path = rig.dir / "pod-resources.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            begin = time.monotonic()
            page = self.page()
            self.assertLess(time.monotonic() - begin, 5)
            self.assertEqual(page.one("sublet_kube_pod_resources_up"), 0)
            self.assertEqual(page.one("sublet_kube_driver_up"), 1)
        path.unlink()
        rig.kubelet.must("start-again")
        self.await_page("it is back", lambda now: now.pod("a/one") > 0)

    def test_health_flips(self):
        rig = self.make()
        self.start()
        rig.kubelet.await_resources({GPU: 2})
        uuid, other = rig.uuids()

        def healthy(page, which):
            return page.one("sublet_kube_device_healthy", device=which)
        self.await_page("all are well",
                        lambda now: healthy(now, uuid) == 1 and healthy(now, other) == 1)
        rig.do("xid=0:79")
        page = self.await_page("one isn't", lambda now: healthy(now, uuid) == 0)
        self.assertEqual(healthy(page, other), 1)
        self.assertEqual(page.one("DCGM_FI_DEV_XID_ERRORS", UUID=uuid), 79)
        self.assertEqual(page.one("DCGM_FI_DEV_XID_ERRORS", UUID=other), 0)

    def test_a_driver_that_hangs_holds_nobody(self):
        rig = self.make()
        self.start()
        rig.kubelet.await_resources({GPU: 2})
        self.assertEqual(self.page().one("sublet_kube_late_looks_total"), 0)
        rig.do("hang=nvmlDeviceGetMemoryInfo")
        begin = time.monotonic()
        page = self.page()
        self.assertLess(time.monotonic() - begin, 8)
        self.assertLess(0, page.one("sublet_kube_late_looks_total"))

    def test_addresses_that_are_none(self):
        rig = self.make()
        for address in ("9400", "localhost:9400", "127.0.0.1:", "127.0.0.1:65536", ":x"):
            self.assertEqual(rig.run_plugin("--metrics-address", address).returncode, 2, address)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.assertEqual(rig.run_plugin("--metrics-address", address).returncode, 7)


unittest.main(verbosity=2)

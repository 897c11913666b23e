"""Kills a device plugin at every crash point, starts another, and looks whether kubelet has its
devices again, MPS servers are as wanted, and nothing is left over.

Usage: kube_crash_test.py SUBLET_PROGRAM CRASH_POINTS_HEADER
"""

import os
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
from kube_harness import PluginRig
from node_harness import wait_for

SUBLET = os.path.abspath(sys.argv[1])
POINTS = re.findall(r'"([a-z-]+)"',
                    pathlib.Path(sys.argv[2]).read_text().split("kPluginCrashPoints")[1])
del sys.argv[1:3]

GPU = "nvidia.com/gpu"
MPS = """
version: v1
flags: {mpsRoot: %s}
sharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}
"""
TENANTS = """
version: v1
flags: {mpsRoot: %s}
sublet:
  per_tenant: namespace
  shares: [{resource: nvidia.com/gpu.small, memory: 10Gi, sm_percent: 15, count: 4}]
"""
PLAIN = "version: v1\nflags: {mpsRoot: %s}\n"

reached = set()


class CrashTest(unittest.TestCase):
    def make(self, config):
        rig = PluginRig(SUBLET, "a100-80gb:2", "")
        self.addCleanup(rig.close)
        self.write(rig, config)
        return rig

    @staticmethod
    def write(rig, config):
        rig.config.write_text(config % rig.mps)

    def crashed(self, rig, point):
        self.assertIn(point, POINTS)
        self.assertTrue(rig.await_crash(), f"it passed {point}\n{rig.said()}")
        reached.add(point)

    def check(self, rig, servers, mode):
        """Exactly the control daemons that are wanted, each once, and the compute mode."""
        wait_for("servers are as wanted", lambda: len(rig.daemons()) == servers)
        for place in rig.daemons():
            rig.daemon(place)
        folders = {path.name for path in (rig.mps / "servers").iterdir()} \
            if (rig.mps / "servers").exists() else set()
        self.assertEqual(len(folders), servers)
        wait_for(f"the compute mode is {mode}", lambda: {
            gpu["compute_mode"] for gpu in rig.inventory()["gpus"]} == {mode})
        self.assertEqual([path.name for path in rig.dir.glob("*~")], [])

    def test_at_the_start(self):
        for point in ("plugin-listening", "plugin-registered", "plugin-watched", "mps-mode-written",
                      "mps-mode-set", "mps-folder-made", "domain-creating", "domain-started",
                      "domain-present"):
            with self.subTest(point=point):
                rig = self.make(MPS)
                rig.start(SUBLET_CRASH_AT=point)
                self.crashed(rig, point)
                rig.start_plugin()
                rig.kubelet.await_resources({GPU: 8})
                self.check(rig, 2, "exclusive-process")
                # And away with it all.
                self.write(rig, PLAIN)
                rig.kubelet.await_resources({GPU: 2})
                self.check(rig, 0, "default")
                rig.close()

    def test_at_a_change(self):
        for point in ("plugin-reloading", "domain-removing", "domain-ended"):
            with self.subTest(point=point):
                rig = self.make(MPS)
                rig.start(SUBLET_CRASH_AT=point)
                rig.kubelet.await_resources({GPU: 8})
                self.write(rig, PLAIN)
                self.crashed(rig, point)
                rig.start_plugin()
                rig.kubelet.await_resources({GPU: 2})
                self.check(rig, 0, "default")
                rig.close()

    def test_while_a_tenants_pod_starts(self):
        for point in ("mps-claim-begun", "domain-creating", "domain-started"):
            with self.subTest(point=point):
                rig = self.make(TENANTS)
                rig.start(SUBLET_CRASH_AT=point)
                rig.kubelet.await_resources({"nvidia.com/gpu.small": 8})
                got = rig.kubelet.admit("shop/one", **{"nvidia.com/gpu.small": 1})
                rig.kubelet.refusal("start", pod="shop/one")
                self.crashed(rig, point)
                rig.start_plugin()
                rig.kubelet.await_resources({"nvidia.com/gpu.small": 8})
                # kubelet starts the container again, and it finds its server.
                rig.kubelet.must("start", pod="shop/one")
                [mount] = [one for one in got["mounts"] if one["container"].startswith("/mps/")]
                self.assertTrue(os.path.exists(mount["host"] + "/pipe/control"))
                self.check(rig, 1, "default")
                rig.close()

    def test_zz_each_point_was_reached(self):
        if "-k" not in sys.argv and len(sys.argv) == 1:
            self.assertEqual(set(POINTS) - reached, set())


if __name__ == "__main__":
    unittest.main(verbosity=2)

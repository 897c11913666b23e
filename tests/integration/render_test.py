"""`sublet render` as it is shipped: from a fleet or a plan to files, and what it refuses.

Usage: render_test.py SUBLET_PROGRAM
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SUBLET = sys.argv[1]
del sys.argv[1]

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALIDATOR = ROOT / "src/render/tests/validate_rendered.py"
SHOP = ROOT / "examples/04_render/shop.plan.json"
TARGETS = ["nvidia-device-plugin", "mig", "kubernetes", "dra", "linux", "compose"]

USAGE, INVALID, NOT_FOUND, UNSUPPORTED, CONFLICT = 2, 3, 4, 6, 7


class RenderTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = pathlib.Path(self.folder.name) / "out"

    def sublet(self, *arguments, status=0, text=None):
        done = subprocess.run([SUBLET, *map(str, arguments)], text=True, input=text,
                              capture_output=True, timeout=120)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def render(self, plan, target, *flags, **options):
        return self.sublet("render", plan, "--target", target, "-o", self.out, *flags, **options)

    def files(self):
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*")
                      if path.is_file() and not path.name.startswith(".sublet-render-"))

    def test_prints_the_files_that_it_writes(self):
        for target in TARGETS:
            printed = self.render(SHOP, target).stdout.split()
            for path in printed:
                self.assertTrue(pathlib.Path(path).is_file(), path)
        self.assertIn("mig-parted.yaml", self.files())
        self.assertIn("node/systemd/sublet.target", self.files())

    def test_renders_the_plans_of_the_example_fleets(self):
        plan = pathlib.Path(self.folder.name) / "plan.json"
        for fleet in sorted((ROOT / "examples/03_plan").glob("*.yaml")):
            self.sublet("plan", fleet, "-o", plan)
            for target in TARGETS:
                self.out = pathlib.Path(self.folder.name) / fleet.stem / target
                self.render(plan, target, "--lossy")
                done = subprocess.run([sys.executable, VALIDATOR, self.out], text=True,
                                      capture_output=True, timeout=120)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_four_7b_fits_the_device_plugin(self):
        plan = pathlib.Path(self.folder.name) / "plan.json"
        self.sublet("plan", ROOT / "examples/03_plan/four-7b.yaml", "-o", plan)
        self.render(plan, "nvidia-device-plugin")
        text = (self.out / "device-plugin-configmap.yaml").read_text()
        self.assertIn("name: nvidia.com/gpu\n", text)
        self.assertIn("replicas: 4\n", text)

    def test_reads_a_plan_from_standard_input(self):
        self.render("-", "mig", text=SHOP.read_text())
        self.assertIn("mig-parted.yaml", self.files())

    def test_writes_nothing_where_the_target_can_not_express_the_plan(self):
        plan = json.loads(SHOP.read_text())
        for workload in plan["workloads"]:
            workload["image"] = ""
        refused = self.render("-", "kubernetes", text=json.dumps(plan), status=UNSUPPORTED)
        self.assertIn("an image that the fleet file doesn't give", refused.stderr)
        self.assertIn("targets that can: linux", refused.stderr)
        self.assertFalse(self.out.exists())
        lossy = self.render("-", "kubernetes", "--lossy", text=json.dumps(plan))
        self.assertIn("sublet: warning: left out", lossy.stderr)
        self.assertIn("# WARNING: left out", (self.out / "deployments.yaml").read_text())

    def test_leaves_a_foreign_file_alone(self):
        self.out.mkdir()
        (self.out / "mig-parted.yaml").write_text("mine\n")
        refused = self.render(SHOP, "mig", status=CONFLICT)
        self.assertIn("--force", refused.stderr)
        self.assertEqual(self.files(), ["mig-parted.yaml"])
        self.render(SHOP, "mig", "--force")
        self.assertIn("sublet render", (self.out / "mig-parted.yaml").read_text())

    def test_each_kind_of_mistake_has_its_exit_status(self):
        self.render(SHOP, "helm", status=USAGE)
        self.sublet("render", SHOP, status=USAGE)
        self.render(self.out / "nothing.json", "mig", status=NOT_FOUND)
        whole = SHOP.read_text()
        for text in [whole[: len(whole) // 2], "", "[]", whole.replace("sublet.plan/v1", "v9")]:
            refused = self.render("-", "mig", text=text, status=INVALID)
            self.assertRegex(refused.stderr, r"^sublet: -:\d+:\d+: ")
        hostile = whole.replace('"recommend-server"', '"a\\u001bb"')
        self.assertIn("control character", self.render("-", "linux", text=hostile,
                                                       status=INVALID).stderr)
        self.assertFalse(self.out.exists())


unittest.main()

"""`sublet plan`, `modes`, `render` and `mig check` as they are shipped.

The commands that the documentation shows, run as written on the simulated driver, and what the
program says to input that is wrong: one line with the place, a hint, and an exit status by class.

Usage: plan_test.py SUBLET_PROGRAM
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1:2]

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "03_plan"

INFEASIBLE, USAGE, INVALID, NOT_FOUND, UNAVAILABLE, UNSUPPORTED, CONFLICT = 1, 2, 3, 4, 5, 6, 7

SMALL_FLEET = """\
version: sublet.fleet/v1
name: small
gpus: [{board: a100-80gb, count: 1}]
workloads:
  - name: chat
    memory: 20GiB
    compute: {sm_percent: 20}
"""


class CommandTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.environment = {"PATH": os.environ["PATH"],
                            "SUBLET_SIM_STATE": str(self.path / "state")}

    def run_sublet(self, *arguments, status=0, text=None, **variables):
        done = subprocess.run([SUBLET, *map(str, arguments)],
                              env=dict(self.environment, **variables), cwd=self.path, text=True,
                              input=text, capture_output=True, timeout=120)
        self.assertEqual(done.returncode, status, done.stdout[-500:] + done.stderr)
        return done

    def refusal(self, status, *arguments, **keywords):
        """The error of a command that must fail: short, and without anything half-written."""
        before = sorted(self.path.rglob("*"))
        done = self.run_sublet(*arguments, status=status, **keywords)
        self.assertEqual(done.stdout, "")
        self.assertLess(len(done.stderr), 2000)
        self.assertTrue(done.stderr.startswith("sublet: "), done.stderr)
        after = [p for p in sorted(self.path.rglob("*")) if "state" not in p.parts]
        self.assertEqual(after, [p for p in before if "state" not in p.parts])
        return done.stderr

    def write(self, name, text):
        path = self.path / name
        path.write_text(text)
        return path

    def plan(self, fleet, *arguments, **keywords):
        return json.loads(self.run_sublet("plan", fleet, "--json", *arguments, **keywords).stdout)


class KnownAnswers(CommandTest):
    def test_four_7b_services_need_four_gpus_alone_and_one_shared(self):
        plan = self.plan(EXAMPLES / "four-7b.yaml")
        self.assertEqual(plan["summary"]["gpus"], 1)
        self.assertEqual(plan["summary"]["cost_month_usd"], 2372.5)
        self.assertEqual(plan["summary"]["gap_percent"], 0)
        by_name = {s["name"]: s for s in plan["strategies"]}
        self.assertEqual(by_name["exclusive"]["gpus"], 4)
        self.assertEqual(by_name["exclusive"]["cost_month_usd"], 9490)
        for shared in ("time-slicing", "mps", "mig"):
            self.assertEqual(by_name[shared]["gpus"], 1, shared)
            self.assertEqual(by_name[shared]["cost_month_usd"], 2372.5, shared)

    def test_forty_small_models_share_one_gpu_through_mps_alone(self):
        report = self.path / "r.html"
        self.run_sublet("plan", EXAMPLES / "forty-small.yaml", "--report", report,
                        "-o", "plan.json")
        self.assertIn("forty-small", report.read_text())
        plan = json.loads((self.path / "plan.json").read_text())
        self.assertEqual(plan["summary"]["gpus"], 1)
        (partition,) = plan["gpus"][0]["partitions"]
        self.assertEqual(partition["mode"], "mps")
        self.assertEqual(len(partition["replicas"]), 40)
        by_name = {s["name"]: s for s in plan["strategies"]}
        self.assertEqual(by_name["mig"]["holds"], 7)
        self.assertLess(by_name["time-slicing"]["holds"], 40)
        self.assertIn("load", " ".join(by_name["time-slicing"]["breaks"]))
        self.assertEqual(by_name["mps"]["isolation"], "memory")
        why = {(r["workload"], r["mode"]): r["reason"] for r in plan["rejections"]}
        self.assertIn("1g.10gb, of which a GPU has 7", why[("intent", "mig")])

    def test_the_same_request_gives_the_same_plan_byte_for_byte(self):
        one = self.run_sublet("plan", EXAMPLES / "forty-small.yaml", "--json").stdout
        two = self.run_sublet("plan", EXAMPLES / "forty-small.yaml", "--json").stdout
        self.assertEqual(one, two)


class OnANode(CommandTest):
    def test_a_plan_for_a_simulated_node_names_its_gpus(self):
        node = json.loads(self.run_sublet("inspect", "--json", SUBLET_SIM="a100-80gb:2").stdout)
        plan = self.plan(EXAMPLES / "four-7b.yaml", "--sim", "a100-80gb:2")
        uuids = [gpu["uuid"] for gpu in node["gpus"]]
        self.assertIn(plan["gpus"][0]["uuid"], uuids)

    def test_a_recorded_node_serves_as_well(self):
        self.run_sublet("inspect", "--record", "node.json", SUBLET_SIM="a100-80gb:2")
        plan = self.plan(EXAMPLES / "four-7b.yaml", "--node", "node.json")
        self.assertEqual(plan["gpus"][0]["index"], 0)

    def test_a_fleet_without_gpus_is_planned_for_this_node(self):
        without = SMALL_FLEET.replace("gpus: [{board: a100-80gb, count: 1}]\n", "")
        fleet = self.write("f.yaml", without)
        plan = self.plan(fleet, SUBLET_SIM="h100-80gb:1")
        self.assertEqual(plan["gpus"][0]["board"], "h100-80gb")

    def test_planning_again_moves_nothing(self):
        self.run_sublet("plan", EXAMPLES / "forty-small.yaml", "-o", "now.json")
        plan = self.plan(EXAMPLES / "forty-small.yaml", "--current", "now.json")
        self.assertEqual({c["kind"] for c in plan["changes"]}, {"keep"})

    def test_a_replica_whose_command_changed_is_not_kept(self):
        fleet = self.write("f.yaml", SMALL_FLEET + "    command: [serve, --port, '1']\n")
        self.run_sublet("plan", fleet, "-o", "now.json")
        self.write("f.yaml", SMALL_FLEET + "    command: [serve, --port, '2']\n")
        (change,) = self.plan(fleet, "--current", "now.json")["changes"]
        self.assertEqual(change["kind"], "move")

    def test_a_tenant_that_gets_a_server_of_its_own_is_not_kept(self):
        shared = """\
version: sublet.fleet/v1
name: two
gpus: [{board: l4, count: 1}]
tenants: [{name: red}, {name: blue}]
workloads:
  - {name: a, tenant: red, memory: 4GiB, compute: {sm_percent: 20}}
  - {name: b, tenant: blue, memory: 4GiB, compute: {sm_percent: 20}}
"""
        fleet = self.write("f.yaml", shared)
        self.run_sublet("plan", fleet, "-o", "now.json")
        self.write("f.yaml", shared.replace("name: blue}", "name: blue, isolation: fault}"))
        changes = self.plan(fleet, "--current", "now.json")["changes"]
        self.assertEqual({c["kind"] for c in changes}, {"move"})

    def test_a_node_on_which_nothing_can_run_is_refused_with_the_reason(self):
        self.run_sublet("inspect", "--record", "node.json", SUBLET_SIM="a100-80gb:1")
        node = json.loads((self.path / "node.json").read_text())
        for check in node["modes"]:
            check["gpus"] = []
        self.write("node.json", json.dumps(node))
        said = self.refusal(INVALID, "plan", EXAMPLES / "four-7b.yaml", "--node", "node.json")
        self.assertIn("no sharing mode can run", said)

    def test_single_modes_are_priced_at_what_is_offered(self):
        fleet = self.write("f.yaml", """\
version: sublet.fleet/v1
name: reserved
gpus:
  - {board: a100-80gb, count: 1, price_usd_hour: 1}
  - {board: a100-80gb, price_usd_hour: 3}
workloads: [{name: w, replicas: 3, memory: 60GiB}]
""")
        plan = self.plan(fleet)
        by_name = {s["name"]: s for s in plan["strategies"]}
        self.assertEqual(plan["summary"]["cost_month_usd"], 7 * 730)
        self.assertEqual(by_name["exclusive"]["cost_month_usd"], 7 * 730)

    def test_a_node_that_changed_since_the_current_plan_is_a_conflict(self):
        self.run_sublet("plan", EXAMPLES / "four-7b.yaml", "--sim", "a100-80gb:1", "-o", "now.json")
        self.run_sublet("inspect", "--record", "other.json", SUBLET_SIM="h100-80gb:1")
        said = self.refusal(CONFLICT, "plan", EXAMPLES / "four-7b.yaml", "--node", "other.json",
                            "--current", "now.json")
        self.assertIn("GPU-", said)


class Profiles(CommandTest):
    """Fleets that name what was measured."""

    PROFILE = {
        "version": "sublet.profile/v1", "name": "encoder", "board": "h200", "source": "a test",
        "unit": "forward pass", "service_ms": 0.25, "memory_mib": 85, "crowd": 16, "sharpness": 2.5,
        "points": [
            {"sm_percent": 10, "alone_per_s": 2500, "latency_ms_p50": 0.4, "latency_ms_p99": 0.4,
             "crowd_per_s": 25000, "context_mib": 325},
            {"sm_percent": 100, "alone_per_s": 4000, "latency_ms_p50": 0.25,
             "latency_ms_p99": 0.25, "crowd_per_s": 10000, "context_mib": 868}]}

    def fleet(self, name="p.json", more=""):
        return self.write("fleets/f.yaml", f"""\
version: sublet.fleet/v1
name: busy
gpus: [{{board: h200, count: 1}}]
workloads: [{{name: encoder, replicas: 16, compute: {{profile: {name}}}{more}}}]
""")

    def setUp(self):
        super().setUp()
        (self.path / "fleets").mkdir()
        self.write("fleets/p.json", json.dumps(self.PROFILE))

    def test_the_example_says_what_each_mode_gives(self):
        plan = self.plan(EXAMPLES / "forty-encoders.yaml")
        rates = {s["name"]: s.get("throughput_per_s", 0) for s in plan["strategies"]}
        self.assertLess(3 * rates["time-slicing"], rates["mps-uncapped"])
        self.assertLess(1.3 * rates["mps-uncapped"], rates["mps"])
        self.assertAlmostEqual(plan["summary"]["throughput_per_s"], rates["chosen"], delta=0.01)
        said = self.run_sublet("plan", EXAMPLES / "forty-encoders.yaml").stdout
        for word in ("mps-uncapped", "time-slicing", "/s from the replicas that are always busy"):
            self.assertIn(word, said)

    def test_a_profile_lies_beside_the_fleet_file(self):
        plan = self.plan(self.fleet())
        self.assertAlmostEqual(plan["summary"]["throughput_per_s"], 25000, delta=1)
        (partition,) = plan["gpus"][0]["partitions"]
        self.assertEqual({r["sm_percent"] for r in partition["replicas"]}, {10})
        self.assertIn("measured", plan["workloads"][0]["memory_how"])

    def test_a_fleet_on_standard_input_starts_at_the_working_folder(self):
        text = pathlib.Path(self.fleet("fleets/p.json")).read_text()
        done = self.run_sublet("plan", "-", "--json", text=text)
        self.assertIn("throughput_per_s", done.stdout)

    def test_a_calibration_carries_profiles_and_its_evidence(self):
        calibration = json.loads((ROOT / "data/calibrations/h200.json").read_text())
        entry = {k: v for k, v in self.PROFILE.items() if k != "version"}
        calibration["profiles"] = [entry, dict(entry, name="other")]
        calibration["measurement"] = {"runs": [{"any": "thing"}] * 1000}
        cal = self.write("cal.json", json.dumps(calibration))
        plan = self.plan(self.fleet("../cal.json#encoder"), "--calibration", cal)
        self.assertAlmostEqual(plan["summary"]["throughput_per_s"], 25000, delta=1)
        plan = self.plan(EXAMPLES / "forty-small.yaml", "--calibration", cal)
        self.assertNotIn("throughput_per_s", plan["summary"])
        said = self.refusal(INVALID, "plan", self.fleet("../cal.json"))
        self.assertIn("encoder, other", said)

    def test_a_profile_that_is_not_there_or_wrong_is_refused_with_both_places(self):
        said = self.refusal(NOT_FOUND, "plan", self.fleet("q.json"))
        self.assertRegex(said, r"f\.yaml:4:\d+: profile: .*q\.json")
        self.write("fleets/bad.json", json.dumps(dict(self.PROFILE, steps=0)))
        said = self.refusal(INVALID, "plan", self.fleet("bad.json"))
        self.assertRegex(said, r"f\.yaml:4:\d+: profile: bad\.json:1:\d+: .*from 1 to")
        said = self.refusal(INVALID, "plan", self.fleet("'p.json#encodr'"))
        self.assertIn("did you mean 'encoder'?", said)

    def test_with_a_load_the_request_is_a_unit_of_the_profile(self):
        fleet = self.fleet(more=", load: {requests_per_second: 800}, latency: {p99_ms: 5}")
        replica = self.plan(fleet)["gpus"][0]["partitions"][0]["replicas"][0]
        self.assertGreaterEqual(replica["prediction"]["service_ms"], 0.25)
        self.assertIn("latency_ms_p99", replica["prediction"])
        self.assertNotIn("throughput_per_s", replica["prediction"])


class Modes(CommandTest):
    def test_modes_of_a_board_are_compared(self):
        said = json.loads(self.run_sublet("modes", "--board", "a100-80gb", "--json").stdout)
        modes = {m["name"]: m for m in said["boards"][0]["modes"]}
        self.assertEqual(modes["mig"]["partitions_max"], 7)
        self.assertEqual(modes["mps"]["partitions_max"], 48)
        self.assertEqual(modes["time-slicing"]["isolation"], "none")
        self.assertNotIn("available", modes["mig"])

    def test_a_board_without_mig_has_no_row_for_it(self):
        said = json.loads(self.run_sublet("modes", "--board", "l4", "--json").stdout)
        self.assertNotIn("mig", {m["name"] for m in said["boards"][0]["modes"]})

    def test_on_a_node_the_modes_say_whether_they_can_run(self):
        said = json.loads(self.run_sublet("modes", "--json", SUBLET_SIM="h100-80gb:1").stdout)
        self.assertTrue(all(m["available"] for m in said["boards"][0]["modes"]))

    def test_without_a_driver_it_asks_for_a_board(self):
        said = self.refusal(UNAVAILABLE, "modes", SUBLET_NVML="/nonexistent/libnvidia-ml.so.1")
        self.assertIn("--board", said)


class MigCheck(CommandTest):
    def test_a_placeable_set_is_shown_with_its_placements(self):
        said = self.run_sublet("mig", "check", "--board", "a100-80gb", "3g.40gb", "2g.20gb",
                               "1g.10gb", "1g.10gb").stdout
        self.assertIn("3g.40gb", said)

    def test_an_impossible_set_fails_with_the_reason(self):
        said = self.run_sublet("mig", "check", "--board", "a100-80gb", *["1g.10gb"] * 4,
                               *["2g.20gb"] * 2, status=INFEASIBLE)
        self.assertIn("8 compute slices", said.stdout + said.stderr)


class Render(CommandTest):
    def test_equal_shares_become_a_device_plugin_config(self):
        self.run_sublet("plan", EXAMPLES / "four-7b.yaml", "-o", "plan.json")
        self.run_sublet("render", "plan.json", "--target", "nvidia-device-plugin", "-o", "out/")
        config = (self.path / "out" / "device-plugin-configs" / "mps-4.yaml").read_text()
        self.assertIn("replicas: 4", config)

    def test_unequal_shares_are_refused_with_the_targets_that_can(self):
        self.run_sublet("plan", EXAMPLES / "forty-small.yaml", "-o", "plan.json")
        said = self.refusal(UNSUPPORTED, "render", "plan.json", "--target", "nvidia-device-plugin",
                            "-o", "out/")
        self.assertIn("unequal shares", said)
        self.assertIn("linux", said)


class BadInput(CommandTest):
    def test_a_missing_file(self):
        self.assertIn("none.yaml", self.refusal(NOT_FOUND, "plan", "none.yaml"))

    def test_no_driver_and_no_gpus(self):
        without = SMALL_FLEET.replace("gpus: [{board: a100-80gb, count: 1}]\n", "")
        fleet = self.write("f.yaml", without)
        said = self.refusal(UNAVAILABLE, "plan", fleet, SUBLET_NVML="/nonexistent/lib.so")
        self.assertIn("--node", said)

    def refused_fleet(self, old, new, status=INVALID):
        self.assertIn(old, SMALL_FLEET)
        fleet = self.write("f.yaml", SMALL_FLEET.replace(old, new))
        return self.refusal(status, "plan", fleet, "-o", "plan.json", "--report", "r.html")

    def test_another_version_names_both(self):
        self.assertIn("sublet.fleet/v1", self.refused_fleet("fleet/v1", "fleet/v9"))

    def test_an_unknown_key_has_its_place_and_a_suggestion(self):
        said = self.refused_fleet("compute:", "compte:")
        self.assertIn("f.yaml:7:", said)
        self.assertIn("compute", said)

    def test_negative_and_absurd_numbers(self):
        for bad in ("-1GiB", "9e99GiB", "nan"):
            self.refused_fleet("20GiB", bad)
        for bad in ("-5", "0", "1e9", ".nan"):
            self.refused_fleet("sm_percent: 20", "sm_percent: " + bad)

    def test_an_unknown_board_is_not_found(self):
        said = self.refused_fleet("a100-80gb", "a100-80g", NOT_FOUND)
        self.assertIn("a100-80gb", said)

    def test_a_model_that_fits_no_gpu(self):
        said = self.refused_fleet("20GiB", "200GiB", INFEASIBLE)
        self.assertIn("chat fits no GPU", said)

    def test_a_pool_that_is_too_small_says_what_would_do(self):
        said = self.refused_fleet("name: chat", "name: chat\n    replicas: 9", INFEASIBLE)
        self.assertIn("GPUs of these boards would do", said)

    def test_an_alias_bomb(self):
        bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
        self.refusal(INVALID, "plan", self.write("bomb.yaml", bomb))

    def test_ten_megabytes_of_yaml(self):
        text = SMALL_FLEET + "  - name: w\n    memory: 1GiB\n" * 300_000
        self.refusal(INVALID, "plan", self.write("large.yaml", text))

    def test_a_truncated_plan(self):
        self.run_sublet("plan", EXAMPLES / "four-7b.yaml", "-o", "plan.json")
        text = (self.path / "plan.json").read_text()
        for part in (1, len(text) // 3, len(text) - 3):
            self.write("cut.json", text[:part])
            said = self.refusal(INVALID, "render", "cut.json", "--target", "linux", "-o", "out")
            self.assertIn("cut.json:", said)

    def test_an_output_that_can_not_be_written_leaves_nothing(self):
        self.refusal(NOT_FOUND, "plan", EXAMPLES / "four-7b.yaml", "-o", "no/such/folder/plan.json")

    def test_a_full_disk_behind_standard_output_is_an_error(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([SUBLET, "plan", EXAMPLES / "four-7b.yaml"], stdout=full,
                                  stderr=subprocess.PIPE, env=self.environment, timeout=60)
        self.assertEqual(done.returncode, 8)

    def test_unknown_flags_are_a_usage_error(self):
        self.run_sublet("plan", "--no-such-flag", status=USAGE)


if __name__ == "__main__":
    unittest.main()

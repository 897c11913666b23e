"""Holds docs/formats/*.schema.json to the readers and to the files that they describe.

The keys of each schema are compared with those that the C++ reader asks for, so that a field that
is added to one and not to the other fails here. Exits with 77 (skipped) where the packages are
missing.
"""

import copy
import json
import pathlib
import re
import sys
import unittest

try:
    import jsonschema
    import yaml
except ImportError as error:
    print(f"skipped: {error} (Debian: python3-jsonschema, python3-yaml)")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[3]


def schema(name):
    return json.loads((ROOT / f"docs/formats/{name}.schema.json").read_text())


def errors(validator, document):
    return [error.message for error in validator.iter_errors(document)]


def keys_in_reader(path):
    """The keys that each ObjectReader of a C++ file asks for: {"workload": ({required}, {all})}."""
    text = (ROOT / path).read_text()
    readers = {}
    for block in re.split(r"ObjectReader in\(node, ", text)[1:]:
        what = re.match(r'"([^"]+)"', block).group(1)
        body = block[: block.index("in.Finish()")]
        required = set(re.findall(r'in\.Required(?:List|Enum)?\(\s*"(\w+)"', body))
        optional = set(re.findall(r'in\.Optional(?:List|Enum)?\(\s*"(\w+)"', body))
        if "in.Version(" in body:
            required.add("version")
        readers[what] = (required, required | optional)
    return readers


class Schemas(unittest.TestCase):
    def setUp(self):
        self.fleet = jsonschema.Draft202012Validator(schema("fleet"))
        self.plan = jsonschema.Draft202012Validator(schema("plan"))
        self.sample = json.loads((ROOT / "src/model/tests/data/sample-plan.json").read_text())

    def test_the_schemas_are_schemas(self):
        for name in ("fleet", "plan", "route"):
            jsonschema.Draft202012Validator.check_schema(schema(name))

    def test_the_keys_are_those_of_the_readers(self):
        for name, path in (("fleet", "fleet.cc"), ("plan", "plan_reader.cc"),
                           ("route", "route_config.cc")):
            root = schema(name)
            described = {**root["$defs"], name: root}
            for what, (required, known) in keys_in_reader(f"src/model/{path}").items():
                if what == "workload" and name == "fleet":
                    known |= {"memory", "model"}  # Read by ReadNeed().
                    known |= {"port", "ready", "restart", "stop_timeout_s"}  # By ReadLaunch().
                what = what.replace(" ", "-")
                with self.subTest(f"{name}: {what}"):
                    self.assertEqual(set(described[what]["properties"]), known)
                    self.assertEqual(set(described[what].get("required", [])), required)

    def test_the_device_plugins_keys_are_those_of_its_reader(self):
        root = schema("device-plugin")
        jsonschema.Draft202012Validator.check_schema(root)
        described = {**root["$defs"], "device-plugin's-configuration": root}
        pattern = r'in\.Optional(?:List|Enum)?\(\s*"(\w+)"|ReadPart\(in, "(\w+)"'
        text = (ROOT / "src/model/device_plugin_reader.cc").read_text()
        seen = set()
        for block in re.split(r"ObjectReader in\(node, ", text)[1:]:
            what = re.match(r'"([^"]+)"', block)
            name = what.group(1).replace(" ", "-") if what else "shared-resources"
            body = block[: block.index("in.Finish()")]
            required = set(re.findall(r'in\.Required(?:List|Enum)?\(\s*"(\w+)"', body))
            optional = {a or b for a, b in re.findall(pattern, body)}
            with self.subTest(name):
                self.assertEqual(set(described[name]["properties"]), required | optional)
                self.assertEqual(set(described[name].get("required", [])), required)
            seen.add(name)
        self.assertGreaterEqual(len(seen), 11)

    def test_device_plugin_files_of_the_repository_are_valid(self):
        validator = jsonschema.Draft202012Validator(schema("device-plugin"))
        corpus = ROOT / "src/model/fuzz/corpus/device_plugin_fuzz"
        paths = sorted([*ROOT.glob("examples/07_kube/*.yaml"), *corpus.glob("*.yaml")])
        self.assertGreaterEqual(len(paths), 5)
        for path in paths:
            with self.subTest(str(path)):
                self.assertEqual(errors(validator, yaml.safe_load(path.read_text())), [])
        unenforced = {"resource": "a", "mode": "exclusive", "memory": "1Gi"}
        for bad in ({"flag": {}}, {"version": "v2"}, {"sublet": {"shares": [unenforced]}},
                    {"sharing": {"mps": {"resources": [{"name": "gpu", "replicas": 1}]}}},
                    {"sublet": {"shares": [{"resource": "A"}]}}):
            self.assertTrue(errors(validator, bad), bad)

    def test_a_written_plan_is_valid(self):
        self.assertEqual(errors(self.plan, self.sample), [])

    def test_a_plan_with_a_key_more_or_less_is_not(self):
        optional = {"memory_limit_mib", "sm_percent", "server", "latency_ms_p50", "latency_ms_p99",
                    "headroom_percent", "latency_ms_p50_target", "latency_ms_p99_target",
                    "throughput_per_s", "port", "ready", "restart", "stop_timeout_s"}
        for path in ([], ["summary"], ["gpus", 0], ["gpus", 0, "partitions", 0],
                     ["gpus", 0, "partitions", 0, "servers", 0],
                     ["gpus", 0, "partitions", 0, "replicas", 0],
                     ["gpus", 0, "partitions", 0, "replicas", 0, "prediction"],
                     ["gpus", 0, "partitions", 0, "replicas", 0, "enforcement", 0],
                     ["workloads", 0], ["strategies", 0], ["rejections", 0], ["changes", 0]):
            def at(document):
                for step in path:
                    document = document[step]
                return document
            more = copy.deepcopy(self.sample)
            at(more)["unknown"] = 1
            self.assertTrue(errors(self.plan, more), path)
            for key in at(self.sample):
                less = copy.deepcopy(self.sample)
                del at(less)[key]
                self.assertEqual(bool(errors(self.plan, less)), key not in optional, (path, key))

    def test_readiness_is_the_same_in_a_fleet_and_a_plan(self):
        described = schema("fleet")["$defs"]["readiness"]
        self.assertEqual(described, schema("plan")["$defs"]["readiness"])
        _, known = keys_in_reader("src/model/launch.cc")["readiness"]
        self.assertEqual(set(described["properties"]), known)

    def test_fleet_files_of_the_repository_are_valid(self):
        found = 0
        corpus = ROOT / "src/model/fuzz/corpus/fleet_fuzz"
        for path in sorted([*ROOT.glob("examples/**/*.yaml"), *corpus.iterdir()]):
            document = yaml.safe_load(path.read_text())
            if not isinstance(document, dict) or document.get("version") != "sublet.fleet/v1":
                continue
            found += 1
            with self.subTest(str(path)):
                self.assertEqual(errors(self.fleet, numbers(document)), [])
        self.assertGreaterEqual(found, 2)

    def test_route_files_of_the_repository_are_valid(self):
        route = jsonschema.Draft202012Validator(schema("route"))
        page = (ROOT / "docs/formats/route.md").read_text()
        texts = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.S)
                 if text.startswith("version: sublet.route/v1")]
        corpus = ROOT / "src/model/fuzz/corpus/route_config_fuzz"
        texts += [path.read_text() for path in sorted([*ROOT.glob("examples/**/*.yaml"),
                                                       *corpus.glob("*.yaml")])]
        found = 0
        for text in texts:
            document = yaml.safe_load(text)
            if not isinstance(document, dict) or document.get("version") != "sublet.route/v1":
                continue
            found += 1
            with self.subTest(text[:80]):
                self.assertEqual(errors(route, document), [])
        self.assertGreaterEqual(found, 3)

    def test_wrong_routes_are_refused(self):
        route = jsonschema.Draft202012Validator(schema("route"))
        good = {"version": "sublet.route/v1", "replicas": [{"url": "http://a:1"}]}
        self.assertEqual(errors(route, good), [])
        for change in ({"policy": "costs"}, {"polcy": "cost"}, {"replicas": [{"name": "a"}]},
                       {"replicas": [{"url": "http://a", "simulate": {}}]},
                       {"replicas": [{"url": "gpu1"}]}, {"listen": {"port": 70000}},
                       {"discovery": {"kubernetes": {"port": "http"}}},
                       {"discovery": {"kubernetes": {"service": "a", "selector": "b"}}},
                       {"limits": {"body_bytes_max": 64}}, {"timeouts": {"connect_s": 0}},
                       {"health": {"path": "health"}}, {"threads": 1000}):
            self.assertTrue(errors(route, good | change), change)

    def test_wrong_fleets_are_refused(self):
        good = {"version": "sublet.fleet/v1", "name": "x",
                "workloads": [{"name": "a", "memory": "2GiB"}]}
        self.assertEqual(errors(self.fleet, good), [])
        load = {"requests_per_second": 1, "service_ms": 5}
        full_speed = {"sm_percent": 100, "speed": 1}
        for change in ({"replicas": 0}, {"replcas": 1}, {"model": {"parameters": 7e9}},
                       {"memory": "2 GB or so"}, {"memory": 20}, {"latency": {"p99_ms": 5}},
                       {"latency": {}, "load": load},
                       {"isolation": "total"}, {"priority": 101}, {"engines": {"copy": 1}},
                       {"port": 0}, {"ready": {}}, {"ready": {"http": "health"}, "port": 1},
                       {"ready": {"http": "/", "tcp": True}, "port": 1},
                       {"restart": "sometimes"}, {"stop_timeout_s": -1},
                       {"env": {"A=B": "x"}}, {"tenant": "A"}, {"load": {"service_ms": 5}},
                       {"compute": {"sm_percent": 5, "profile": [full_speed]}},
                       {"load": {"requests_per_second": 5}}, {"compute": {"profile": ""}},
                       {"compute": {"profile": "p.json", "measured_on": "l4"}}):
            bad = copy.deepcopy(good)
            bad["workloads"][0].update(change)
            self.assertTrue(errors(self.fleet, bad), change)
        measured = {"name": "a", "compute": {"profile": "cal.json#encoder"},
                    "load": {"requests_per_second": 5}}
        self.assertEqual(errors(self.fleet, good | {"workloads": [measured]}), [])
        for key in ("version", "name", "workloads"):
            self.assertTrue(errors(self.fleet, {k: v for k, v in good.items() if k != key}), key)


def numbers(value):
    """PyYAML follows YAML 1.1, where 7e9 is text; our reader and YAML 1.2 take it as a number."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[0-9.]+e[0-9]+", value):
        return float(value)
    return value


if __name__ == "__main__":
    unittest.main()

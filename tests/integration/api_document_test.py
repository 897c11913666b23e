"""docs/formats/node-api.yaml is whole, and openapi_check.py holds answers to it."""

import json
import pathlib
import re
import unittest

import jsonschema
import openapi_check
from openapi_check import METHODS, check, document, resolved, resolver, validator

ROOT = pathlib.Path(__file__).resolve().parents[2]

OPERATIONS = {
    "/v1/status": "get", "/v1/node": "get", "/v1/plan": "get put delete", "/v1/shares": "post",
    "/v1/shares/{id}": "delete", "/v1/mig": "put", "/v1/logs/{replica}": "get",
    "/v1/events": "get", "/v1/replicas/{replica}/restart": "post",
    "/v1/gpus/{gpu}/clear": "post", "/v1/health": "get",
    "/metrics": "get", "/v1/stop": "post",
}

SHARE = {"id": "s1", "name": "x", "tenant": "t", "mode": "exclusive", "gpu_uuid": "GPU-1",
         "memory_mib": 1, "enforcement": []}


def walk(value, path="#"):
    yield path, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from walk(each, f"{path}/{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from walk(each, f"{path}/{index}")


def operations():
    for path, item in document()["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item, item[method]


class DocumentTest(unittest.TestCase):
    def test_has_the_operations_that_there_are(self):
        self.assertTrue(document()["openapi"].startswith("3.1."))
        self.assertEqual(
            {path: {method for method in METHODS if method in item}
             for path, item in document()["paths"].items()},
            {path: set(methods.split()) for path, methods in OPERATIONS.items()})

    def test_every_reference_leads_somewhere(self):
        references = [value["$ref"] for _, value in walk(document())
                      if isinstance(value, dict) and "$ref" in value]
        self.assertGreater(len(references), 40)
        for reference in references:
            with self.subTest(reference):
                self.assertIsInstance(resolver().resolve(reference)[1], dict)

    def test_every_component_is_used(self):
        used = {value["$ref"] for _, value in walk(document())
                if isinstance(value, dict) and "$ref" in value}
        for kind in ("schemas", "responses", "parameters"):
            for name in document()["components"][kind]:
                self.assertIn(f"#/components/{kind}/{name}", used)

    def test_every_operation_says_what_it_is(self):
        names = []
        tags = {tag["name"] for tag in document()["tags"]}
        for path, method, item, operation in operations():
            with self.subTest(f"{method} {path}"):
                names.append(operation["operationId"])
                self.assertTrue(operation["summary"].endswith("."))
                self.assertLessEqual(set(operation["tags"]), tags)
                self.assertEqual(set(operation["responses"]), {"200", "default"})
                parameters = [resolved(each) for each in
                              item.get("parameters", []) + operation.get("parameters", [])]
                self.assertEqual(
                    {each["name"] for each in parameters if each["in"] == "path"},
                    set(re.findall(r"{(\w+)}", path)))
                for each in parameters:
                    self.assertEqual(each.get("required", False), each["in"] == "path")
                for response in operation["responses"].values():
                    self.assertIn("description", resolved(response))
        self.assertEqual(len(names), len(set(names)))

    def test_every_schema_is_one_and_every_example_fits(self):
        examples = 0
        for path, value in walk(document()):
            if path.startswith("#/components/schemas/") and path.count("/") == 3:
                jsonschema.Draft202012Validator.check_schema(value)
            if not isinstance(value, dict) or "schema" not in value:
                continue
            jsonschema.Draft202012Validator.check_schema(value["schema"])
            if "example" in value:
                with self.subTest(path):
                    validator(value["schema"]).validate(value["example"])
                    examples += 1
        self.assertGreaterEqual(examples, 9)

    def test_the_manuals_example_fits(self):
        manual = (ROOT / "docs/formats/status.md").read_text(encoding="utf-8")
        check("/v1/status", "GET", 200, re.search(r"```json\n(.*?)```", manual, re.S).group(1))

    def test_error_codes_are_those_of_the_program(self):
        source = (ROOT / "src/base/result.cc").read_text(encoding="utf-8")
        names = re.findall(r'case ErrorCode::k\w+:\s+return "([a-z-]+)";', source)
        schema = document()["components"]["schemas"]["Error"]
        self.assertEqual(schema["properties"]["error"]["properties"]["code"]["enum"], names)


class CheckTest(unittest.TestCase):
    def refused(self, *arguments):
        with self.assertRaises(AssertionError):
            check(*arguments)

    def test_takes_good_answers(self):
        check("/v1/health", "GET", 200, '{"ok":true}\n', "application/json")
        check("/v1/health", "GET", 503, b'{"error":{"code":"unavailable","message":"no"}}')
        check("/v1/logs/chat/0?follow=1", "GET", 200, "any text", "text/plain; charset=utf-8")
        check("/v1/logs/chat%2F0", "GET", 200, "any text")
        check("/v1/replicas/chat/0/restart", "POST", 200, '{"done":true}')
        check("/v1/plan", "PUT", 200,
              '{"step":"replica chat/0","state":"done","message":""}\n{"done":true}\n',
              "application/x-ndjson")
        check("/v1/plan?dry_run=1", "PUT", 200, '{"steps":["start"]}', "application/json")
        check("/v1/shares", "POST", 200,
              json.dumps({"share": SHARE, "environment": {"A": "b", "C": None}}))

    def test_refuses_what_the_document_has_not(self):
        self.refused("/v1/nothing", "GET", 200, "{}")
        self.refused("/v1/status", "POST", 200, "{}")
        self.refused("/v1/health", "GET", 204, "")
        self.refused("/v1/health", "GET", 200, '{"ok":true}', "text/html")

    def test_refuses_other_bodies(self):
        self.refused("/v1/health", "GET", 200, "{}")
        self.refused("/v1/health", "GET", 200, "not JSON")
        self.refused("/v1/health", "GET", 500, '{"error":{"code":"of-tomorrow","message":"m"}}')
        self.refused("/v1/plan", "PUT", 200, '{"done":true}\n{"step":1}\n')
        self.refused("/v1/plan", "PUT", 200, '{"done":true}\n{"done":', "application/x-ndjson")
        self.refused("/v1/plan", "GET", 200, '{"version":"sublet.plan/v1"}')
        for change in ({"domain": "d"}, {"mode": "mps"}, {"id": "17"}, {"colour": "red"}):
            body = {"share": dict(SHARE, **change), "environment": {}}
            self.refused("/v1/shares", "POST", 200, json.dumps(body))

    def test_takes_and_refuses_a_real_plan(self):
        plan = json.loads((ROOT / "examples/04_render/shop.plan.json").read_text(encoding="utf-8"))
        check("/v1/plan", "GET", 200, json.dumps(plan))
        del plan["summary"]["replicas"]
        self.refused("/v1/plan", "GET", 200, json.dumps(plan))
        self.assertIs(openapi_check.operation_of("/v1/plan", "PATCH"), None)


if __name__ == "__main__":
    unittest.main()

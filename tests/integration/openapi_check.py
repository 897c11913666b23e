"""Holds the daemon's answers to docs/formats/node-api.yaml, and the router's to route-api.yaml.

    import openapi_check
    openapi_check.check("/v1/status", "GET", 200, body)       # AssertionError says what is wrong
    openapi_check.check("/v1/plan?dry_run=1", "PUT", 200, body, "application/json")
    openapi_check.ROUTER.check("/workers", "GET", 200, body)
"""

import functools
import json
import pathlib
import re
import urllib.parse

import jsonschema
import yaml

FORMATS = pathlib.Path(__file__).resolve().parents[2] / "docs/formats"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


class Api:
    """An OpenAPI document, and answers held against it."""

    def __init__(self, name):
        self.path = FORMATS / name

    @functools.lru_cache(maxsize=None)
    def document(self):
        return yaml.safe_load(self.path.read_text(encoding="utf-8"))

    @functools.lru_cache(maxsize=None)
    def resolver(self):
        plan = json.loads((FORMATS / "plan.schema.json").read_text(encoding="utf-8"))
        # urljoin(), which the resolver uses, can't join a part to an $id of the form urn:...
        del plan["$id"]
        store = {(FORMATS / "plan.schema.json").as_uri(): plan}
        return jsonschema.RefResolver(self.path.as_uri(), self.document(), store=store)

    def resolved(self, value):
        """What a $ref points to; anything else as it is."""
        while isinstance(value, dict) and "$ref" in value:
            value = self.resolver().resolve(value["$ref"])[1]
        return value

    def validator(self, schema):
        return jsonschema.Draft202012Validator(schema, resolver=self.resolver())

    def operation_of(self, path, method):
        """The operation that a request means, or None."""
        path = urllib.parse.unquote(path.split("?")[0])
        found = []
        for template, item in self.document()["paths"].items():
            # A name in a path may have slashes in it.
            pattern = re.sub(r"\\{[^}]+\\}", "(.+)", re.escape(template))
            if re.fullmatch(pattern, path) and method.lower() in item:
                found.append((template.count("{"), template, item[method.lower()]))
        return min(found, key=lambda each: (each[0], each[1]))[2] if found else None

    def find_faults(self, schema, value):
        return [f"at /{'/'.join(map(str, fault.absolute_path))}: {fault.message}"
                for fault in self.validator(schema).iter_errors(value)]

    def check_lines(self, schema, body):
        assert body == "" or body.endswith("\n"), "the last line has no end"
        for number, line in enumerate(body.splitlines(), 1):
            faults = self.find_faults(schema, json.loads(line))
            assert not faults, f"line {number}: {faults}\n{line}"

    def check(self, path, method, status, body, content_type=None):
        """Asserts that the document has such an answer. `body` is text or bytes.

        Without `content_type` the answer may be of any type that the document has for it.
        """
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        operation = self.operation_of(path, method)
        assert operation is not None, f"the document has no {method} {path}"
        responses = operation["responses"]
        if str(status) in responses:
            response = self.resolved(responses[str(status)])
        else:
            assert "default" in responses and status >= 400, f"{method} {path}: no status {status}"
            response = self.resolved(responses["default"])
        content = response["content"]
        if content_type is not None:
            kind = content_type.split(";")[0].strip()
            assert kind in content, f"{method} {path}: no answer of type {kind}"
            content = {kind: content[kind]}
        wrong = []
        for kind, media in content.items():
            try:
                if kind == "application/x-ndjson":
                    self.check_lines(media["schema"], text)
                elif kind == "application/json":
                    faults = self.find_faults(media["schema"], json.loads(text))
                    assert not faults, faults
                return
            except (AssertionError, ValueError) as error:
                wrong.append(f"as {kind}: {error}")
        raise AssertionError(f"{method} {path} {status}: " + "; ".join(wrong) + f"\n{text[:2000]}")


NODE = Api("node-api.yaml")
ROUTER = Api("route-api.yaml")

document = NODE.document
resolver = NODE.resolver
resolved = NODE.resolved
validator = NODE.validator
operation_of = NODE.operation_of
check = NODE.check

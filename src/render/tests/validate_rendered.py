#!/usr/bin/env python3
"""Holds rendered YAML files to what the programs that read them accept.

usage: validate_rendered.py FOLDER...

Each folder is one rendering. Written from those programs' documentation and sources, apart from the
code that renders: unknown fields are errors, because some of these readers ignore them without a
word. Prints what is wrong, one line each, and exits 1; prints nothing where all is well.
"""

import os
import re
import sys

import yaml

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
DNS_PART = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){DNS_PART}(\.{DNS_PART})*$")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}$")
RESOURCE = re.compile(r"nvidia\.com/(gpu|mig-[0-9]+g\.[0-9]+gb[a-z.+-]*)$")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")
QUANTITY_MI = re.compile(r"[1-9][0-9]*Mi$")
MIG_PROFILE = re.compile(r"([0-9]+c\.)?[0-9]+g\.[0-9]+gb(\+[a-z.,]+|-me)?$")
MEMORY_LIMIT = re.compile(r"0=[1-9][0-9]*M$")

problems = []
place = ""


def need(condition, message):
    if not condition:
        problems.append(f"{place}: {message}")


def fields(value, what, required=(), optional=()):
    """A map with these keys and no others."""
    if not isinstance(value, dict):
        need(False, f"{what} is not a map")
        return {}
    for key in required:
        need(key in value, f"{what} lacks {key}")
    for key in value:
        need(key in required or key in optional, f"{what} has unknown field {key}")
    return value


# ---- NVIDIA's device plugin, config v1 ----


def device_plugin_config(config):
    fields(config, "config", ["version"], ["flags", "resources", "sharing", "imex"])
    need(config.get("version") == "v1", "version is not v1")
    flags = fields(config.get("flags", {}), "flags", [], ["migStrategy"])
    strategy = flags.get("migStrategy", "none")
    need(strategy in ("none", "single", "mixed"), f"migStrategy {strategy}")
    sharing = fields(config.get("sharing", {}), "sharing", [], ["timeSlicing", "mps"])
    need(len(sharing) <= 1, "timeSlicing and mps exclude each other")
    need(not ("mps" in sharing and strategy == "mixed"), "mps with migStrategy mixed")
    for mode, shared in sharing.items():
        fields(shared, mode, ["resources"], ["renameByDefault", "failRequestsGreaterThanOne"])
        names = []
        for resource in shared.get("resources", []):
            # `rename` and `devices` would be dropped by the plugin.
            fields(resource, "resource", ["name", "replicas"])
            replicas = resource.get("replicas")
            need(type(replicas) is int and replicas >= 2, f"replicas {replicas!r}")
            name = resource.get("name", "")
            need(RESOURCE.match(name) and len(name) <= 63, f"resource name {name}")
            need(not (mode == "mps" and "mig-" in name), "mps on MIG devices")
            names.append(name)
        need(names and len(names) == len(set(names)), "resources missing or twice")


# ---- mig-parted, config v1 ----


def mig_config(config):
    fields(config, "config", ["version", "mig-configs"])
    need(config.get("version") == "v1", "version is not v1")
    need("all-disabled" in config["mig-configs"], "the MIG manager's default label is missing")
    for label, entries in config["mig-configs"].items():
        need(LABEL_VALUE.match(label), f"label {label}")
        for entry in entries:
            fields(entry, label, ["devices", "mig-enabled"], ["device-filter", "mig-devices"])
            devices = entry["devices"]
            need(devices == "all" or all(type(d) is int for d in devices), f"devices {devices}")
            for pci in entry.get("device-filter", []):
                need(re.match(r"0x[0-9A-F]{4}10DE$", pci), f"device-filter {pci}")
            if entry["mig-enabled"]:
                counts = entry.get("mig-devices")
                need(isinstance(counts, dict), "mig-devices is required")
                for profile, count in (counts or {}).items():
                    need(MIG_PROFILE.match(profile), f"profile {profile}")
                    need(type(count) is int and count > 0, f"count {count}")
            else:
                need(not entry.get("mig-devices"), "mig-devices with MIG off")


# ---- Kubernetes ----


def metadata(value, name_form, what):
    fields(value, what, ["name"], ["labels", "annotations"])
    need(name_form.match(str(value.get("name"))), f"{what} name {value.get('name')!r}")
    labels(value.get("labels", {}), what)
    for key, text in value.get("annotations", {}).items():
        label_key(key)
        need(isinstance(text, str), f"annotation {key} is not text")


def label_key(key):
    prefix, slash, name = key.rpartition("/")
    need(LABEL_NAME.match(name) and (not slash or DNS_SUBDOMAIN.match(prefix)), f"label key {key}")


def labels(value, what):
    for key, text in value.items():
        label_key(key)
        need(isinstance(text, str) and LABEL_VALUE.match(text), f"{what} label {key}: {text!r}")


def config_map(document, read):
    fields(document, "ConfigMap", ["apiVersion", "kind", "metadata", "data"])
    metadata(document["metadata"], DNS_SUBDOMAIN, "ConfigMap")
    for key, text in document["data"].items():
        need(CONFIG_KEY.match(key) and LABEL_VALUE.match(key), f"key {key}")
        need(isinstance(text, str), f"{key} is not text")
        read(yaml.safe_load(text))


def environment(items):
    names = []
    for variable in items:
        fields(variable, "env", ["name", "value"])
        name, value = variable["name"], variable["value"]
        need(ENV_NAME.match(name), f"variable name {name}")
        need(isinstance(value, str), f"variable {name} is not text")
        limit(name, value)
        names.append(name)
    need(len(names) == len(set(names)), "a variable is set twice")


def limit(name, value):
    if name == "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT":
        need(MEMORY_LIMIT.match(value), f"memory limit {value}")
    if name == "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE":
        need(value.isdigit() and 1 <= int(value) <= 100, f"thread percentage {value}")


def deployment(document, claims):
    fields(document, "Deployment", ["apiVersion", "kind", "metadata", "spec"])
    need(document["apiVersion"] == "apps/v1", "apiVersion")
    metadata(document["metadata"], DNS_SUBDOMAIN, "Deployment")
    spec = fields(document["spec"], "spec", ["replicas", "selector", "strategy", "template"])
    need(type(spec["replicas"]) is int and spec["replicas"] > 0, "replicas")
    template = fields(spec["template"], "template", ["metadata", "spec"])
    of_pod = fields(template["metadata"], "template metadata", ["labels"])["labels"]
    labels(of_pod, "pod")
    match = spec["selector"]["matchLabels"]
    need(match and all(of_pod.get(k) == v for k, v in match.items()), "selector misses its pods")
    pod = fields(template["spec"], "pod", ["containers"], ["nodeSelector", "resourceClaims"])
    labels(pod.get("nodeSelector", {}), "nodeSelector")
    in_pod = set()
    for claim in pod.get("resourceClaims", []):
        fields(claim, "claim", ["name"], ["resourceClaimName", "resourceClaimTemplateName"])
        kind = "ResourceClaim" if "resourceClaimName" in claim else "ResourceClaimTemplate"
        referred = claim.get(kind[0].lower() + kind[1:] + "Name")
        need((kind, referred) in claims, f"no such claim: {claim}")
        in_pod.add(claim["name"])
    for container in pod["containers"]:
        fields(container, "container", ["name", "image", "resources"], ["command", "env"])
        need(DNS_LABEL.match(container["name"]), f"container name {container['name']!r}")
        need(isinstance(container["image"], str) and container["image"], "image")
        need(all(isinstance(w, str) for w in container.get("command", [])), "command has no text")
        environment(container.get("env", []))
        resources = fields(container["resources"], "resources", [], ["limits", "claims"])
        for name, count in resources.get("limits", {}).items():
            need(RESOURCE.match(name) and count == 1, f"limit {name}: {count}")
            need("+" not in name, f"resource name {name}")
        used = {claim["name"] for claim in resources.get("claims", [])}
        need(used == in_pod, "claims of pod and container differ")
        need(bool(used) != bool(resources.get("limits")), "neither or both of limits and claims")


def claim_spec(spec):
    devices = fields(spec, "claim spec", ["devices"])["devices"]
    fields(devices, "devices", ["requests"], ["config"])
    names = set()
    for request in devices["requests"]:
        fields(request, "request", ["name", "exactly"])
        need(DNS_LABEL.match(request["name"]), "request name")
        names.add(request["name"])
        exactly = fields(request["exactly"], "exactly", ["deviceClassName", "selectors"])
        need(exactly["deviceClassName"] in ("gpu.nvidia.com", "mig.nvidia.com"), "deviceClassName")
        for selector in exactly["selectors"]:
            cel = fields(selector, "selector", ["cel"])["cel"]
            expression = fields(cel, "cel", ["expression"])["expression"]
            need(expression.count("'") % 2 == 0 and len(expression) <= 10240, "CEL expression")
    mig = any(r["exactly"]["deviceClassName"] == "mig.nvidia.com" for r in devices["requests"])
    for config in devices.get("config", []):
        fields(config, "config", ["requests", "opaque"])
        need(set(config["requests"]) <= names, "config for an unknown request")
        opaque = fields(config["opaque"], "opaque", ["driver", "parameters"])
        need(opaque["driver"] == "gpu.nvidia.com", "driver")
        driver_config(opaque["parameters"], mig)


def driver_config(parameters, mig):
    fields(parameters, "parameters", ["apiVersion", "kind", "sharing"])
    need(parameters["apiVersion"] == "resource.nvidia.com/v1beta1", "parameters apiVersion")
    need(parameters["kind"] == ("MigDeviceConfig" if mig else "GpuConfig"), "parameters kind")
    extra = [] if mig else ["timeSlicingConfig"]
    sharing = fields(parameters["sharing"], "sharing", ["strategy"], ["mpsConfig"] + extra)
    need(sharing["strategy"] in ("MPS", "TimeSlicing"), "strategy")
    need(("mpsConfig" in sharing) == (sharing["strategy"] == "MPS"), "mpsConfig without MPS")
    interval = sharing.get("timeSlicingConfig", {}).get("interval", "Default")
    need(interval in ("Default", "Short", "Medium", "Long"), "interval")
    mps = fields(sharing.get("mpsConfig", {}), "mpsConfig", [],
                 ["defaultActiveThreadPercentage", "defaultPinnedDeviceMemoryLimit"])
    percent = mps.get("defaultActiveThreadPercentage", 100)
    need(type(percent) is int and 0 <= percent <= 100, f"percentage {percent}")
    need(QUANTITY_MI.match(mps.get("defaultPinnedDeviceMemoryLimit", "1Mi")), "memory limit")


def claim(document):
    fields(document, document["kind"], ["apiVersion", "kind", "metadata", "spec"])
    need(document["apiVersion"] == "resource.k8s.io/v1", "apiVersion")
    metadata(document["metadata"], DNS_SUBDOMAIN, document["kind"])
    spec = document["spec"]
    if document["kind"] == "ResourceClaimTemplate":
        spec = fields(spec, "template spec", ["spec"])["spec"]
    claim_spec(spec)


# ---- compose ----

SERVICE_FIELDS = ["devices", "ipc", "pid", "environment", "volumes", "entrypoint", "healthcheck",
                  "restart", "depends_on"]


def compose(document, variables):
    fields(document, "compose file", ["name", "services"], ["volumes"])
    need(re.match(r"[a-z0-9][a-z0-9_-]*$", document["name"]), "project name")
    for name, service in document["services"].items():
        need(re.match(r"[a-zA-Z0-9._-]+$", name), f"service name {name}")
        fields(service, name, ["image"], SERVICE_FIELDS)
        need(service.get("restart", "no") in ("no", "always", "on-failure", "unless-stopped"),
             f"restart {service.get('restart')!r}")
        for other, how in service.get("depends_on", {}).items():
            need(other in document["services"], f"depends on unknown {other}")
            need(how == {"condition": "service_healthy"}, "depends_on condition")
            checked = document["services"].get(other, {})
            need("healthcheck" in checked, f"{other} has no healthcheck")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            known = source in document.get("volumes", {})
            need(source.startswith("./") or known, f"volume {source}")
        for key, value in service.get("environment", {}).items():
            need(ENV_NAME.match(key) and isinstance(value, str), f"variable {key}: {value!r}")
            limit(key, value)
        texts = service.get("devices", []) + service.get("entrypoint", []) + [service["image"]]
        for text in texts + list(service.get("environment", {}).values()):
            need(isinstance(text, str), f"not text: {text!r}")
            interpolation(text, variables)


def interpolation(text, variables):
    """Every dollar is doubled, or begins ${NAME...} with a known name."""
    rest = text.replace("$$", "")
    for name in re.findall(r"\$\{([A-Za-z_0-9]+)(?::[?-][^}]*)?\}", rest):
        need(name in variables or name == "SUBLET_MPS_IMAGE", f"unknown variable {name}")
    rest = re.sub(r"\$\{[A-Za-z_0-9]+(:[?-][^}]*)?\}", "", rest)
    need("$" not in rest, f"would be interpolated: {text!r}")


def env_file(path):
    names = set()
    for line in open(path, encoding="utf-8"):
        if line.strip() and not line.startswith("#"):
            name, equals, value = line.rstrip("\n").partition("=")
            need(equals and ENV_NAME.match(name), f".env line {line!r}")
            need(not value or re.match(r"nvidia\.com/gpu=[-A-Za-z0-9]+$", value), f"device {value}")
            names.add(name)
    return names


def validate(path, claims):
    with open(path, encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    name = os.path.basename(path)
    if name == "compose.yaml":
        compose(documents[0], env_file(os.path.join(os.path.dirname(path), ".env")))
    elif name == "mig-parted.yaml":
        mig_config(documents[0])
    elif name == "mig-configmap.yaml":
        config_map(documents[0], mig_config)
    elif name == "device-plugin-configmap.yaml":
        config_map(documents[0], device_plugin_config)
    elif os.path.basename(os.path.dirname(path)) == "device-plugin-configs":
        device_plugin_config(documents[0])
    elif name == "dra-claims.yaml":
        for document in documents:
            claim(document)
            claims.add((document["kind"], document["metadata"]["name"]))
        need(len(claims) == len(documents), "two claims of one name")
    elif name in ("deployments.yaml", "dra-deployments.yaml"):
        names = [document["metadata"]["name"] for document in documents]
        need(len(names) == len(set(names)), "two deployments of one name")
        for document in documents:
            deployment(document, claims)
    else:
        need(False, "nobody reads this file")


def main():
    global place
    for folder in sys.argv[1:]:
        claims = set()
        for root, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):  # dra-claims.yaml comes before dra-deployments.yaml.
                if name.endswith(".yaml"):
                    place = os.path.join(root, name)
                    validate(place, claims)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


main()

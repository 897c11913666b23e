"""deploy/helm/sublet and deploy/manifests: rendered alike, no flag or path that the program doesn't
know, no right that it doesn't use, and nothing left on a node when they have gone.

Usage: manifests_test.py SUBLET_PROGRAM
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import yaml

import helm_render
from helm_render import CHART, MANIFESTS, ROOT, TemplateError, merged, render
from kube_api_server import ApiServer
from kube_harness import PluginRig
from node_harness import wait_for

try:
    import jsonschema
except ImportError:
    jsonschema = None

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1:2]

# Values of users, each about another part.
MPS = {"mps": {"enabled": True},
       "config": {"files": {"default": (ROOT / "examples/07_kube/mps.yaml").read_text()}}}
CDI = {"cdi": {"enabled": True}, "config": {"files": {
    "default": "version: v1\nflags: {plugin: {deviceListStrategy: [cdi-cri]}}\n"}}}
MIG = {"mig": {"monitor": True, "manager": {"enabled": True, "clientsNamespace": "gpu-operator"}}}
METRICS = {"metrics": {"enabled": True, "from": [{"namespaceSelector": {}}],
                       "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}}
PER_NODE = {"config": {"perNode": True}}
TENANTS = merged(MPS, {"tenants": {"byLabel": True}})
HOST = {"driver": {"source": "host"}}
FILE = {"labels": {"to": "file"}}
NO_AGENT = {"labels": {"enabled": False}}
OTHERS = {"image": {"tag": "1.2", "pullSecrets": [{"name": "registry"}]},
          "driver": {"runtimeClassName": "nvidia"}, "nodeSelector": {"gpu": "yes"},
          "plugin": {"extraArgs": ["--health-poll=1"], "updateStrategy": {"type": "OnDelete"}},
          "podAnnotations": {"a": "1"}, "agent": {"runAsUser": 0},
          "networkPolicy": {"apiServer": {"cidr": "10.0.0.0/8"}}}
VARIANTS = {
    "default": {}, "mps": MPS, "cdi": CDI, "mig": MIG, "metrics": METRICS, "per node": PER_NODE,
    "tenants": TENANTS, "host": HOST, "file": FILE, "no agent": NO_AGENT, "others": OTHERS,
    "node": {"labels": {"to": "node"}}, "node feature": {"labels": {"to": "node-feature"}},
    "all": merged(merged(merged(TENANTS, MIG), merged(CDI, METRICS)), PER_NODE),
    "no policy": {"networkPolicy": {"enabled": False}},
    "existing": {"config": {"existing": "mine"},
                 "mig": {"manager": {"enabled": True, "existing": "mine-mig"}}},
    **{f"cleanup of {name}": merged(values, {"cleanup": {"enabled": True}}) for name, values in
       {"default": {}, "mps": MPS, "cdi": CDI, "file": FILE, "host": HOST, "mig": MIG,
        "no agent": NO_AGENT}.items()},
}


def documents(values):
    """Every object that the chart makes of these values."""
    return [document for name, text in render(CHART, values).items() if name.endswith(".yaml")
            for document in yaml.safe_load_all(text) if document]


def of_kind(kind, values):
    return {one["metadata"]["name"]: one for one in documents(values) if one["kind"] == kind}


def pods(values):
    return {name: one["spec"]["template"] for name, one in of_kind("DaemonSet", values).items()}


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def own(pod):
    """Containers that run this program."""
    return [one for one in containers(pod) if one.get("command") == ["sublet"]]


def every(values=None):
    """(variant, pod's name, pod, container) of all variants, or of one."""
    variants = VARIANTS if values is None else {"": values}
    for variant, chosen in variants.items():
        for name, pod in pods(chosen).items():
            for container in containers(pod):
                yield variant, name, pod, container


def volume_of(pod, mount):
    return next(one for one in pod["spec"]["volumes"] if one["name"] == mount["name"])


_help = {}


def help_of(verb):
    if verb not in _help:
        _help[verb] = subprocess.run([SUBLET, "kube", verb, "--help"], text=True, check=True,
                                     capture_output=True).stdout
    return _help[verb]


def flags_of(verb):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_of(verb)))


def default_of(verb, flag):
    found = re.search(rf"^  {flag} \S+?=(\S+)", help_of(verb), re.M)
    return found and found[1]


class Rendering(unittest.TestCase):
    def test_the_manifests_are_what_the_chart_gives(self):
        wanted = helm_render.manifests()
        there = {str(path.relative_to(MANIFESTS)): path.read_text()
                 for path in MANIFESTS.rglob("*.yaml")}
        self.assertEqual(set(there), set(wanted), "run tests/integration/helm_render.py")
        for name, text in wanted.items():
            self.assertEqual(there[name], text, f"{name}: run tests/integration/helm_render.py")
            self.assertTrue(all(document["kind"] for document in yaml.safe_load_all(text)))

    def assert_same(self, other, values, what):
        mine = render(CHART, values)
        self.assertEqual({name: text.strip() for name, text in mine.items() if text.strip()},
                         {name: text.strip() for name, text in other.items() if text.strip()},
                         what)

    def test_gos_own_templates_give_the_same(self):
        go, sources = shutil.which("go"), pathlib.Path("/usr/share/gocode")
        sprig = sources / "src/github.com/Masterminds/sprig"
        if not go or not sprig.exists() or not (sources / "src/sigs.k8s.io/yaml").exists():
            self.skipTest("needs golang-go, golang-github-masterminds-sprig-dev and "
                          "golang-k8s-sigs-yaml-dev")
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ, GO111MODULE="off", GOPATH=str(sources),
                               GOCACHE=f"{folder}/cache", GOFLAGS="")
            subprocess.run([go, "build", "-o", f"{folder}/oracle",
                            ROOT / "tests/integration/helm_oracle.go"],
                           check=True, env=environment, timeout=280)
            for name, values in VARIANTS.items():
                done = subprocess.run(
                    [f"{folder}/oracle", CHART, json.dumps(helm_render.chart_values(CHART, values)),
                     json.dumps(helm_render.RELEASE)], text=True, capture_output=True, timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assert_same(json.loads(done.stdout), values, name)

    def test_helm_gives_the_same(self):
        helm = shutil.which("helm")
        if not helm:
            self.skipTest("helm isn't installed")
        for name, values in VARIANTS.items():
            done = subprocess.run(
                [helm, "template", helm_render.RELEASE["Name"], CHART, "--namespace",
                 helm_render.RELEASE["Namespace"], "--values", "-"], input=json.dumps(values),
                text=True, capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            key = json.dumps
            self.assertEqual(sorted(map(key, filter(None, yaml.safe_load_all(done.stdout)))),
                             sorted(map(key, documents(values))), name)

    def test_what_the_renderer_doesnt_know_is_an_error_with_its_line(self):
        for text, words in {
                "a\n{{ lookup \"v1\" }}": "x.yaml:2: not a function: lookup",
                "{{ .Values.absent }}": "x.yaml:1: no such value: .Values.absent",
                "{{ if true }}\na": "x.yaml:1: no end",
                "\n{{ end }}": "x.yaml:2: end without a beginning",
                "{{ $x := 1 }}": "x.yaml:1: not known",
                "{{ .Values.a": "x.yaml:1: an action without its end",
                "{{ if eq 1 \"1\" }}{{ end }}": "x.yaml:1: eq compares",
                "{{ include \"none\" . }}": "x.yaml:1: include of what isn't defined",
        }.items():
            with tempfile.TemporaryDirectory() as folder:
                chart = pathlib.Path(folder)
                (chart / "templates").mkdir()
                (chart / "templates/x.yaml").write_text(text)
                (chart / "values.yaml").write_text("a: 1\n")
                (chart / "Chart.yaml").write_text("name: x\n")
                with self.assertRaises(TemplateError) as caught:
                    render(chart, {})
                self.assertIn(words, str(caught.exception))


@unittest.skipUnless(jsonschema, "python3-jsonschema isn't installed")
class Values(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.schema = json.loads((CHART / "values.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(cls.schema)
        cls.validator = jsonschema.Draft7Validator(cls.schema)

    def faults(self, values):
        return [error.message for error in
                self.validator.iter_errors(helm_render.chart_values(CHART, values))]

    def test_defaults_and_variants_are_valid(self):
        for name, values in VARIANTS.items():
            self.assertEqual(self.faults(values), [], name)

    def test_what_is_wrong_is_refused(self):
        for values in ({"mpss": {}}, {"mps": {"enable": True}}, {"image": {"tag": "latest"}},
                       {"mps": {"root": "/run/nvidia/a-name-that-is-too-long"}},
                       {"mps": {"root": "run"}}, {"labels": {"to": "stdout"}},
                       {"metrics": {"port": "9400"}}, {"driver": {"source": "cdi"}},
                       {"plugin": {"resources": {"limits": {"memory": "much"}}}},
                       {"plugin": {"extraArgs": ["health-poll"]}},
                       {"metrics": {"podMonitor": {"enabled": True}}},
                       merged(HOST, {"mps": {"enabled": True}})):
            self.assertNotEqual(self.faults(values), [], values)

    def test_the_schema_knows_every_value_and_no_other(self):
        def names(schema, prefix=""):
            for name, inner in schema["properties"].items():
                yield prefix + name
                if inner.get("properties"):
                    yield from names(inner, prefix + name + ".")

        def there(values, prefix=""):
            for name, value in values.items():
                yield prefix + name
                if isinstance(value, dict):
                    yield from there(value, prefix + name + ".")

        wanted = set(names(self.schema)) - {"global"}
        values = set(there(helm_render.chart_values(CHART, {})))
        free = ("config.files.", "affinity.", "nodeSelector.", "podAnnotations.")
        values = {name for name in values if not name.startswith(free) and
                  not re.search(r"resources\.|updateStrategy\.", name)}
        wanted = {name for name in wanted if not re.search(r"resources\.|updateStrategy\.", name)}
        self.assertEqual(values, wanted)

    def test_each_group_of_values_is_explained(self):
        lines = (CHART / "values.yaml").read_text().splitlines()
        silent = []
        for at, line in enumerate(lines):
            # A value with others below it has its words there.
            if re.match(r"^(  ){1,2}\w+: \S", line) and not lines[at - 1].strip().startswith("#"):
                silent.append(line.strip())
        # What its name and its neighbour say.
        plain = [line for line in silent if not re.match(
            r"(pullPolicy|requests|limits|enabled|port|interval|labels|ports|cidr):? ?", line)]
        self.assertLessEqual(len(plain), 8, plain)


class Pods(unittest.TestCase):
    def test_the_image_is_the_programs_version(self):
        version = subprocess.run([SUBLET, "--version"], text=True, check=True,
                                 capture_output=True).stdout.split()[1]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["appVersion"], chart["version"]), (version, version))
        for variant, name, _, container in every({}):
            self.assertEqual(container["image"], f"sublet:{version}", (variant, name))
        text = (ROOT / "deploy/image/Containerfile").read_text()
        self.assertIn(f"ARG VERSION={version}\n", text)

    def test_every_image_has_a_version(self):
        for variant, name, _, container in every():
            self.assertRegex(container["image"], r":[^/:]+$", (variant, name))
            self.assertNotRegex(container["image"], r":latest$", (variant, name))

    def test_resources_are_set(self):
        for variant, name, _, container in every():
            where = (variant, name, container["name"])
            requests = container["resources"]["requests"]
            self.assertEqual(set(requests), {"cpu", "memory"}, where)
            # MPS servers live in the plugin's container: its end is theirs.
            if "mps" not in [mount["name"] for mount in container.get("volumeMounts", [])]:
                self.assertIn("memory", container["resources"]["limits"], where)

    def test_no_more_privilege_than_the_reasons_for_it(self):
        for variant, name, pod, container in every():
            where = (variant, name, container["name"])
            values = helm_render.chart_values(CHART, VARIANTS[variant])
            security = container["securityContext"]
            is_plugin = name.endswith("-device-plugin")
            host = values["driver"]["source"] == "host"
            # What takes labels and files back needs no driver.
            driver = container["name"] in ("device-plugin", "agent", "end-mps")
            reason = driver and (host or (values["mps"]["enabled"] if is_plugin
                                          else values["mig"]["manager"]["enabled"]))
            self.assertEqual(security.get("privileged", False), bool(reason), where)
            self.assertTrue(security["readOnlyRootFilesystem"], where)
            if not reason:
                self.assertFalse(security["allowPrivilegeEscalation"], where)
                self.assertEqual(security["capabilities"]["drop"], ["ALL"], where)
                self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"}, where)
                added = ["SYS_ADMIN"] if driver and values["mig"]["monitor"] else []
                self.assertEqual(security["capabilities"].get("add", []), added, where)
            writes = any(
                not mount.get("readOnly") and "hostPath" in volume_of(pod, mount)
                for mount in container.get("volumeMounts", []))
            self.assertEqual(security["runAsUser"] == 0,
                             writes or bool(reason) or bool(security["capabilities"].get("add")) or
                             (name == "sublet-agent" and driver and
                              values["agent"]["runAsUser"] == 0), where)
            self.assertNotIn("hostNetwork", pod["spec"], where)
            self.assertNotIn("hostIPC", pod["spec"], where)
            pids = (values["mps"]["enabled"] or values["metrics"]["enabled"] if is_plugin
                    else values["mig"]["manager"]["enabled"])
            self.assertEqual(pod["spec"].get("hostPID", False), bool(pids), where)

    def test_every_flag_is_the_programs(self):
        unknown = set()
        # Of a program that has no metrics at all yet, the chart may speak already.
        has_metrics = "metrics" in help_of("plugin")
        for variant, name, pod, container in every():
            if container not in own(pod):
                continue
            self.assertEqual(container["args"][0], "kube")
            verb = container["args"][1]
            for argument in container["args"][2:]:
                flag = argument.split("=", 1)[0]
                if flag not in flags_of(verb) and (has_metrics or flag != "--metrics-address"):
                    unknown.add((variant, verb, flag))
        self.assertEqual(unknown, set())

    def test_every_mount_has_its_volume_and_every_volume_its_mount(self):
        for variant, values in VARIANTS.items():
            for name, pod in pods(values).items():
                volumes = [one["name"] for one in pod["spec"].get("volumes") or []]
                mounts = [mount["name"] for one in containers(pod)
                          for mount in one.get("volumeMounts", [])]
                self.assertEqual(len(volumes), len(set(volumes)), (variant, name))
                self.assertEqual(set(volumes), set(mounts), (variant, name))
                for one in pod["spec"].get("volumes") or []:
                    if "configMap" in one:
                        self.assertTrue(one["configMap"]["name"] in of_kind("ConfigMap", values) or
                                        one["configMap"]["name"].startswith("mine"),
                                        (variant, name))

    def test_paths_of_the_program_are_mounted(self):
        def mounted(container):
            return {mount["mountPath"]: mount for mount in container["volumeMounts"]}

        [plugin] = own(pods(VARIANTS["all"])["sublet-device-plugin"])
        [agent] = own(pods(VARIANTS["all"])["sublet-agent"])
        places = mounted(plugin)
        # Where kubelet is, by its own constant.
        self.assertIn("/var/lib/kubelet/device-plugins", places)
        self.assertIn(default_of("plugin", "--cdi-dir"), places)
        self.assertIn(os.path.dirname(default_of("plugin", "--pod-resources-socket")), places)
        self.assertIn("/driver-root", places)
        self.assertIn(default_of("plugin", "--pod-logs") or "/var/log/pods", places)
        config = f"--config-file={default_of('agent', '--config-file-dst')}"
        self.assertIn(config, plugin["args"])
        self.assertIn(os.path.dirname(default_of("agent", "--config-file-dst")), places)
        self.assertIn(os.path.dirname(default_of("agent", "--config-file-dst")), mounted(agent))
        self.assertIn(default_of("agent", "--state-dir"), mounted(agent))
        # The link that the agent makes leads to the same file in both.
        folder = "--config-file-srcdir=/available-configs"
        self.assertIn(folder, agent["args"])
        self.assertIn("/available-configs", places)
        self.assertIn("/available-configs", mounted(agent))
        # Every path that is an option's value lies in a mount.
        for variant, _, pod, container in every():
            if container not in own(pod):
                continue
            for argument in container["args"]:
                path = argument.partition("=")[2]
                if path.startswith("/") and "driver-root" not in argument:
                    self.assertTrue(any(path == mount["mountPath"] or
                                        path.startswith(mount["mountPath"] + "/")
                                        for mount in container["volumeMounts"]),
                                    (variant, argument))

    def test_where_and_when_they_run(self):
        for variant, values in VARIANTS.items():
            for name, one in of_kind("DaemonSet", values).items():
                spec = one["spec"]["template"]["spec"]
                self.assertEqual(spec["priorityClassName"], "system-node-critical")
                self.assertIn({"key": "nvidia.com/gpu", "operator": "Exists",
                               "effect": "NoSchedule"}, spec["tolerations"])
                self.assertGreater(spec["terminationGracePeriodSeconds"], 0)
                labels = one["spec"]["template"]["metadata"]["labels"]
                selector = one["spec"]["selector"]["matchLabels"]
                self.assertEqual({key: labels[key] for key in selector}, selector)
                # A selector can't be changed by an upgrade, so no version may be in it.
                self.assertNotIn("app.kubernetes.io/version", selector)
                # MPS servers end with the plugin's pod: somebody chooses the moment.
                on_delete = name.endswith("plugin") and not values.get("cleanup") and (
                    "mps" in values or "updateStrategy" in values.get("plugin", {}))
                self.assertEqual(one["spec"]["updateStrategy"]["type"],
                                 "OnDelete" if on_delete else "RollingUpdate", (variant, name))

    def test_the_network_is_shut_but_for_the_api_server(self):
        for variant, values in VARIANTS.items():
            policies = of_kind("NetworkPolicy", values)
            if variant == "no policy":
                self.assertEqual(policies, {})
                continue
            for name, pod in pods(values).items():
                labels = pod["metadata"]["labels"]
                [policy] = [one["spec"] for one in policies.values()
                            if one["spec"]["podSelector"]["matchLabels"].items() <= labels.items()]
                self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
                metrics = name.endswith("plugin") and "metrics" in values
                if metrics:
                    [rule] = policy["ingress"]
                    self.assertEqual(rule["ports"], [{"protocol": "TCP", "port": 9400}])
                    self.assertEqual(rule["from"], values["metrics"]["from"])
                else:
                    self.assertEqual(policy["ingress"], [], (variant, name))
                if not pod["spec"]["automountServiceAccountToken"]:
                    self.assertEqual(policy["egress"], [], (variant, name))
                    continue
                [rule] = policy["egress"]
                self.assertEqual(rule["ports"], [{"protocol": "TCP", "port": 443},
                                                 {"protocol": "TCP", "port": 6443}])

    def test_metrics_are_scraped_only_where_asked_for(self):
        self.assertEqual(of_kind("PodMonitor", {}), {})
        self.assertEqual(of_kind("PodMonitor", {"metrics": {"enabled": True}}), {})
        [monitor] = of_kind("PodMonitor", METRICS).values()
        plugin = pods(METRICS)["sublet-device-plugin"]
        [port] = plugin["spec"]["containers"][0]["ports"]
        self.assertEqual(monitor["spec"]["podMetricsEndpoints"][0]["port"], port["name"])
        selector = monitor["spec"]["selector"]["matchLabels"]
        self.assertLessEqual(selector.items(), plugin["metadata"]["labels"].items())
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")


# A rule as (namespace or None for all, group, resource, verb).
EVENTS = ("default", "", "events", "create")
PODS = ("gpu-operator", "", "pods", "list")
NODES = {(None, "", "nodes", verb) for verb in ("get", "list", "watch", "patch")}
FEATURES = {("kube-system", "nfd.k8s-sigs.io", "nodefeatures", verb)
            for verb in ("create", "patch", "delete")}


def rights(values, account):
    """What RBAC gives a service account."""
    found = set()
    objects = documents(values)
    for binding in objects:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        if binding["subjects"] != [{"kind": "ServiceAccount", "name": account,
                                    "namespace": "kube-system"}]:
            continue
        namespace = binding["metadata"].get("namespace")
        [role] = [one for one in objects if one["kind"] == binding["roleRef"]["kind"] and
                  one["metadata"]["name"] == binding["roleRef"]["name"] and
                  one["metadata"].get("namespace") == namespace]
        found |= {(namespace, group, resource, verb) for rule in role["rules"]
                  for group in rule["apiGroups"] for resource in rule["resources"]
                  for verb in rule["verbs"]}
    return found


def asked_for(requests):
    """The rights that requests to the API server take."""
    found = set()
    for method, target, _ in requests:
        path, _, query = target.partition("?")
        parts = path.strip("/").split("/")
        group, parts = (parts[1], parts[3:]) if parts[0] == "apis" else ("", parts[2:])
        namespace = None
        if parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        if method == "GET":
            verbs = ["get" if len(parts) > 1 else "watch" if "watch=1" in query else "list"]
        elif method == "PATCH" and group == "nfd.k8s-sigs.io":
            # Server-side apply of what may not be there yet.
            verbs = ["patch", "create"]
        else:
            verbs = [{"POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]]
        found |= {(namespace, group, parts[0], verb) for verb in verbs}
    return found


class Machine(unittest.TestCase):
    """A node whose mounts are folders of ours, and a cluster."""

    SIM = "a100-80gb:1"

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sm", dir="/tmp")
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        self.environment = {"PATH": os.environ["PATH"], "SUBLET_SIM": self.SIM,
                            "SUBLET_SIM_STATE": str(self.path / "sim"), "NODE_NAME": "gpu-1",
                            "NAMESPACE": "kube-system", "POD_NAME": "sublet-agent-x",
                            "POD_UID": "1-2"}

    def place(self, volume, values):
        """Where a volume of the pods is here."""
        folder = self.path / volume["name"]
        if not folder.exists():
            folder.mkdir()
            if "configMap" in volume:
                data = of_kind("ConfigMap", values)[volume["configMap"]["name"]]["data"]
                for name, text in data.items():
                    (folder / name).write_text(text)
        return folder

    def command(self, pod, container, values, *more):
        """The container's command line, with its mounts where they are here."""
        places = {mount["mountPath"]: str(self.place(volume_of(pod, mount), values))
                  for mount in container.get("volumeMounts", [])}
        arguments = []
        for argument in container["args"]:
            flag, equals, path = argument.partition("=")
            for mount in sorted(places, key=len, reverse=True):
                if path == mount or path.startswith(mount + "/"):
                    path = places[mount] + path[len(mount):]
                    break
            arguments.append(flag + equals + path)
        return [SUBLET, *arguments, *more]

    def run_to_end(self, command):
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True,
                              timeout=60)
        self.assertEqual(done.returncode, 0, (command, done.stderr))
        return done

    def api_server(self, **options):
        server = ApiServer("gpu-1", **options)
        self.addCleanup(server.__exit__, None, None, None)
        return server.__enter__()

    def start(self, command):
        log = open(self.path / "log", "ab")
        self.addCleanup(log.close)
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def said(self):
        return (self.path / "log").read_text()

    def end(self, process):
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(30), 0, self.said())


class Agents(Machine):
    def agent(self, server, values):
        pod = pods(values)["sublet-agent"]
        return self.start(self.command(pod, own(pod)[0], values, "--api-server", server.url))

    def await_watch(self, server):
        wait_for("the watch", lambda: any("watch=1" in one[1] for one in server.requests))

    def clean(self, server, values):
        values = merged(values, {"cleanup": {"enabled": True}})
        pod = pods(values)["sublet-agent"]
        for container in own(pod):
            self.run_to_end(self.command(pod, container, values, "--api-server", server.url))

    def check_rights(self, server, values, unseen=frozenset()):
        """Every request is allowed, and every right is used, or stands in `unseen`."""
        given = rights(values, "sublet-agent")
        self.assertEqual(asked_for(server.requests) - given, set())
        self.assertEqual(given - asked_for(server.requests), set(unseen))

    def test_by_default_rights_are_enough_and_nothing_stays(self):
        server = self.api_server()
        before = json.dumps(server.node, sort_keys=True)
        agent = self.agent(server, {})
        wait_for("the labels", lambda: server.features)
        [feature] = server.features.values()
        self.assertEqual(feature["spec"]["labels"]["nvidia.com/gpu.count"], "1")
        self.assertEqual(feature["metadata"]["ownerReferences"][0]["uid"], "1-2")
        self.await_watch(server)
        self.end(agent)
        self.clean(server, {})
        self.assertEqual(server.features, {})
        self.assertEqual(json.dumps(server.node, sort_keys=True), before)
        self.check_rights(server, {})

    def test_without_node_feature_discovery_nothing_stays_on_the_node(self):
        server = self.api_server(has_node_features=False)
        before = dict(server.node["labels"])
        agent = self.agent(server, {})
        server.wait_for(lambda node: node["labels"].get("nvidia.com/gpu.count") == "1")
        self.end(agent)
        self.clean(server, {})
        self.assertEqual(server.node["labels"], before)
        self.assertEqual(asked_for(server.requests) - rights({}, "sublet-agent"), set())

    def test_a_features_file_goes_with_the_agent(self):
        values = FILE
        server = self.api_server()
        agent = self.agent(server, values)
        file = self.path / "features/gfd"
        wait_for("the labels", file.exists)
        self.await_watch(server)
        agent.kill()
        agent.wait()
        self.assertTrue(file.exists())
        self.clean(server, values)
        self.assertFalse(file.exists())
        self.check_rights(server, values, {(None, "", "nodes", "get")})

    def test_with_everything_rights_are_enough(self):
        values = merged(merged(PER_NODE, MIG), {
            "config": {"files": {"other": "version: v1\nflags: {migStrategy: mixed}\n"}},
            "mig": {"manager": {"config": (
                "version: v1\nmig-configs:\n  two:\n    - {devices: all, mig-enabled: true, "
                "mig-devices: {\"3g.40gb\": 2}}\n")}}})
        server = self.api_server()
        server.label("nvidia.com/gpu.deploy.dcgm", "true")
        agent = self.agent(server, values)
        wait_for("the labels", lambda: server.features)
        wait_for("the choice", (self.path / "chosen/config.yaml").is_symlink)
        self.assertEqual(os.readlink(self.path / "chosen/config.yaml"),
                         str(self.path / "configs/default"))
        server.label("nvidia.com/device-plugin.config", "absent")
        server.wait_for(lambda node: "sublet.dev/device-plugin.config.problem" in
                        node["annotations"])
        server.label("nvidia.com/device-plugin.config", "other")
        server.label("nvidia.com/mig.config", "two")
        server.wait_for(lambda node: node["labels"].get("nvidia.com/mig.config.state") == "success")
        wait_for("their labels", lambda: "nvidia.com/mig-3g.40gb.count" in
                 next(iter(server.features.values()))["spec"]["labels"])
        wait_for("the event", lambda: server.events)
        self.end(agent)
        self.clean(server, values)
        self.assertEqual(server.features, {})
        self.assertEqual(list((self.path / "state").iterdir()), [])
        self.check_rights(server, values)

    def test_the_rights_are_those_of_the_manual(self):
        self.assertEqual(rights(VARIANTS["all"], "sublet-agent"),
                         NODES | FEATURES | {EVENTS, PODS})
        manual = (ROOT / "docs/operating/kubernetes-labels.md").read_text()
        for row in ("nodes: get, list, watch", "nodes: patch", "events: create, in `default`",
                    "nodefeatures.nfd.k8s-sigs.io: create, patch, delete, in its namespace",
                    "pods: list, in the clients' namespace"):
            self.assertIn(f"| {row} |", manual)
        self.assertEqual(rights(VARIANTS["node feature"], "sublet-agent"),
                         NODES - {(None, "", "nodes", "patch")} | FEATURES)
        self.assertEqual(rights(VARIANTS["node"], "sublet-agent"), NODES)
        self.assertEqual(rights({}, "sublet-device-plugin"), set())
        self.assertEqual(rights(TENANTS, "sublet-device-plugin"), {(None, "", "pods", "get")})
        self.assertEqual([one for one in documents(NO_AGENT) if "agent" in one["metadata"]["name"]],
                         [])


class Plugins(unittest.TestCase):
    def rig(self, values):
        rig = PluginRig(SUBLET, "a100-80gb:1",
                        helm_render.chart_values(CHART, values)["config"]["files"]["default"])
        self.addCleanup(rig.close)
        return rig

    def command(self, rig, container):
        # The mounts of the pod, as the rig has them.
        places = {"/available-configs/default": str(rig.config), "/run/nvidia/mps": str(rig.mps)}
        arguments = []
        for argument in container["args"]:
            flag, equals, path = argument.partition("=")
            arguments.append(flag + equals + places.get(path, path))
        return [SUBLET, *arguments]

    def offer(self, values):
        """The plugin's pod of these values in front of a kubelet."""
        rig = self.rig(values)
        rig.start_kubelet()
        rig.mps.mkdir()
        pod = pods(values)["sublet-device-plugin"]
        [container] = own(pod)
        rig.plugin = subprocess.Popen(
            [*self.command(rig, container), "--kubelet-socket", rig.dir / "kubelet.sock",
             "--cdi-dir", rig.folder / "cdi"], env=rig.environment, stdout=rig.log, stderr=rig.log)
        return rig

    def clean(self, rig, values):
        values = merged(values, {"cleanup": {"enabled": True}})
        for container in own(pods(values)["sublet-device-plugin"]):
            more = ["--output", str(rig.folder / "cdi")] if "cdi" in container["args"] else []
            done = subprocess.run([*self.command(rig, container), *more], env=rig.environment,
                                  text=True, capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)

    def end(self, rig):
        rig.plugin.send_signal(signal.SIGTERM)
        self.assertEqual(rig.plugin.wait(10), 0)
        self.assertEqual([path.name for path in rig.dir.glob("nvidia-*")], [])

    def test_by_default_it_offers_the_gpus_and_leaves_nothing(self):
        rig = self.offer({})
        rig.kubelet.await_resources({"nvidia.com/gpu": 1})
        self.end(rig)
        # So there is nothing to run before an uninstall.
        self.assertNotIn("sublet-device-plugin", pods({"cleanup": {"enabled": True}}))
        self.assertEqual(list(rig.mps.iterdir()), [])
        self.assertFalse((rig.folder / "cdi").exists())

    def test_mps_servers_are_ended(self):
        rig = self.offer(MPS)
        rig.kubelet.await_resources({"nvidia.com/gpu": 4})
        self.end(rig)
        self.assertNotEqual(list(rig.mps.iterdir()), [])
        self.clean(rig, MPS)
        self.assertEqual(list(rig.mps.iterdir()), [])
        node = json.loads(subprocess.run([SUBLET, "inspect", "--json"], env=rig.environment,
                                         capture_output=True, check=True).stdout)
        self.assertEqual({gpu["compute_mode"] for gpu in node["gpus"]}, {"default"})

    def test_cdi_specifications_are_removed(self):
        rig = self.offer(CDI)
        rig.kubelet.await_resources({"nvidia.com/gpu": 1})
        folder = rig.folder / "cdi"
        self.assertEqual([path.name for path in folder.iterdir()],
                         ["k8s.device-plugin.nvidia.com-gpu.json"])
        other = folder / "others.json"
        other.write_text("{}")
        self.end(rig)
        self.clean(rig, CDI)
        self.assertEqual(list(folder.iterdir()), [other])


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""`sublet kube cdi` as it is shipped, and what container runtimes make of its files.

Usage: kube_cdi_test.py SUBLET_PROGRAM SIMULATED_LIBRARY LIST_GPUS_PROGRAM

The containers are real ones: podman reads the files itself; for crun, which knows no CDI, the edits
are applied to an OCI bundle here as the specification says. They run in a mount namespace of their
own, in which /run and /sys/fs/cgroup are others, so that nothing of this machine is touched. Where
a container can't be started at all (no root, no namespaces), these tests are skipped and say why.
"""

import copy
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

try:
    import jsonschema
except ImportError:
    jsonschema = None

SUBLET, LIBRARY, LIST_GPUS = map(os.path.abspath, sys.argv[1:4])
del sys.argv[1:4]

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIMULATION = pathlib.Path(LIBRARY).parent
KIND = "k8s.device-plugin.nvidia.com/gpu"
FILE = "k8s.device-plugin.nvidia.com-gpu.json"
VERSION = "580.159.04"
LIBRARIES = "usr/lib/x86_64-linux-gnu"

NOT_FOUND, USAGE = 4, 2

TWO_INSTANCES = """
version: v1
mig-configs:
  two:
    - devices: all
      mig-enabled: true
      mig-devices: {"3g.40gb": 1, "1g.10gb": 1}
"""


class CdiTestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name).resolve()
        self.environment = {
            "PATH": os.environ["PATH"],
            "SUBLET_SIM": "a100-80gb:1",
            "SUBLET_SIM_STATE": str(self.path / "state"),
        }

    def sublet(self, *arguments, status=0, **variables):
        done = subprocess.run([SUBLET, *map(str, arguments)], text=True, capture_output=True,
                              env=dict(self.environment, **variables), timeout=60)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def cdi(self, *arguments, **options):
        return self.sublet("kube", "cdi", *arguments, **options)

    def spec(self, *arguments, **options):
        return json.loads(self.cdi("--print", *arguments, **options).stdout)

    def driver_root(self):
        """A host with a driver whose libraries are the simulated ones under real names."""
        root = self.path / "host"
        libraries = root / LIBRARIES
        libraries.mkdir(parents=True)
        for name in ("libnvidia-ml.so", "libcuda.so"):
            source = SIMULATION / f"{name}.1"
            if source.exists():
                shutil.copy(source, libraries / f"{name}.{VERSION}")
        programs = root / "usr/bin"
        programs.mkdir()
        shutil.copy(LIST_GPUS, programs / "nvidia-smi")
        (root / "etc").mkdir()
        subprocess.run(["/sbin/ldconfig", "-r", root], check=False, capture_output=True)
        return root

    def dev_root(self):
        """Device nodes that are /dev/null in disguise; absent where none can be made."""
        dev = self.path / "host/dev"
        dev.mkdir(parents=True, exist_ok=True)
        try:
            for name in ("nvidiactl", "nvidia-uvm", "nvidia0"):
                os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            self.skipTest("this user may not make device nodes")
        return dev.parent


class ProgramTest(CdiTestCase):
    def test_prints_the_simulated_node(self):
        done = self.cdi("--print")
        spec = json.loads(done.stdout)
        self.assertIn("simulated", done.stderr)
        self.assertEqual(spec["kind"], KIND)
        self.assertEqual([device["name"] for device in spec["devices"]][0], "0")
        self.assertEqual(spec["devices"][-1]["name"], "all")
        self.assertIn("SUBLET_SIM=a100-80gb:1", spec["containerEdits"]["env"])
        for device in spec["devices"]:
            for node in device["containerEdits"]["deviceNodes"]:
                self.assertEqual(node["hostPath"], "/dev/null")
        mounts = {mount["containerPath"]: mount["hostPath"]
                  for mount in spec["containerEdits"]["mounts"]}
        self.assertEqual(mounts[f"/{LIBRARIES}/libnvidia-ml.so.1"],
                         str(SIMULATION / "libnvidia-ml.so.1"))

    def test_prints_exactly_what_it_writes(self):
        folder = self.path / "cdi"
        self.assertIn("written", self.cdi("--output", folder).stdout)
        text = (folder / FILE).read_text()
        self.assertEqual(self.cdi("--print").stdout, text)
        self.assertEqual(self.cdi("--json").stdout, text)

    def test_writes_only_what_changes_and_removes_it_again(self):
        folder = self.path / "cdi"
        self.cdi("--output", folder)
        before = (folder / FILE).stat()
        self.assertIn("unchanged", self.cdi("--output", folder).stdout)
        self.assertEqual((folder / FILE).stat().st_ino, before.st_ino)
        self.cdi("--output", folder, SUBLET_SIM="a100-80gb:2")
        self.assertNotEqual((folder / FILE).stat().st_ino, before.st_ino)
        self.assertEqual(os.listdir(folder), [FILE])
        self.assertIn("removed", self.cdi("--remove", "--output", folder).stdout)
        self.assertEqual(os.listdir(folder), [])

    def test_keeps_simulated_gpus_out_of_the_machines_folder(self):
        self.assertIn("--output", self.cdi(status=USAGE).stderr)

    def test_names_mig_devices(self):
        config = self.path / "mig.yaml"
        config.write_text(TWO_INSTANCES)
        self.sublet("mig", "apply", "--config-file", config, "--nvml", LIBRARY)
        spec = self.spec()
        names = [device["name"] for device in spec["devices"]]
        self.assertEqual([name for name in names if ":" in name], ["0:0", "0:1"])
        self.assertEqual(len([name for name in names if name.startswith("MIG-")]), 2)
        by_name = {device["name"]: device["containerEdits"] for device in spec["devices"]}
        paths = [node["path"] for node in by_name["0:1"]["deviceNodes"]]
        self.assertEqual(paths[0], "/dev/nvidia0")
        self.assertEqual(len([path for path in paths if "nvidia-caps" in path]), 2)
        self.assertEqual(len(by_name["all"]["deviceNodes"]), 1 + 2 * 2)

    def test_walks_a_driver_root(self):
        root = self.driver_root()
        spec = self.spec("--driver-root", "/run/driver", "--container-driver-root", root)
        mounts = {mount["containerPath"]: mount["hostPath"]
                  for mount in spec["containerEdits"]["mounts"]}
        self.assertEqual(mounts[f"/{LIBRARIES}/libnvidia-ml.so.1"],
                         f"/run/driver/{LIBRARIES}/libnvidia-ml.so.{VERSION}")
        self.assertEqual(mounts["/usr/bin/nvidia-smi"], "/run/driver/usr/bin/nvidia-smi")

    def test_uses_nvidias_hook_where_it_is(self):
        root = self.driver_root()
        hook = root / "usr/bin/nvidia-cdi-hook"
        hook.write_text("#!/bin/sh\n")
        hook.chmod(0o755)
        spec = self.spec("--driver-root", "/", "--container-driver-root", root)
        self.assertEqual([hook["args"][1] for hook in spec["containerEdits"]["hooks"]],
                         ["create-symlinks", "update-ldcache"])
        spec = self.spec("--driver-root", "/", "--container-driver-root", root,
                         "--cdi-disable-hooks", "all")
        self.assertNotIn("hooks", spec["containerEdits"])

    def test_says_what_is_wrong(self):
        empty = self.path / "empty"
        empty.mkdir()
        self.assertIn(VERSION, self.cdi("--print", "--driver-root", empty, status=NOT_FOUND).stderr)
        self.assertIn("absolute", self.cdi("--print", "--driver-root", "x", status=USAGE).stderr)
        self.cdi("--print", "--output", "x", status=USAGE)
        self.sublet("kube", status=USAGE)
        (self.path / "file").write_text("")
        failed = self.cdi("--output", self.path / "file", status=NOT_FOUND)
        self.assertIn(str(self.path / "file"), failed.stderr)

    @unittest.skipUnless(jsonschema, "python3-jsonschema isn't installed")
    def test_keeps_to_the_schema(self):
        schema = json.loads((ROOT / "docs/formats/cdi.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        root = self.driver_root()
        (root / "usr/bin/nvidia-ctk").write_text("#!/bin/sh\n")
        (root / "usr/bin/nvidia-ctk").chmod(0o755)
        for arguments in ([], ["--driver-root", "/", "--container-driver-root", root]):
            spec = self.spec(*arguments)
            jsonschema.validate(spec, schema)
            # And it would have noticed.
            for flaw in (lambda bad: bad.pop("kind"),
                         lambda bad: bad["devices"].clear(),
                         lambda bad: bad["devices"][0].pop("containerEdits"),
                         lambda bad: bad["devices"][0]["containerEdits"].clear(),
                         lambda bad: bad["containerEdits"]["env"].append("x"),
                         lambda bad: bad["containerEdits"]["mounts"][0].pop("hostPath")):
                bad = copy.deepcopy(spec)
                flaw(bad)
                with self.assertRaises(jsonschema.ValidationError):
                    jsonschema.validate(bad, schema)


def libraries_of(program):
    """The files that the dynamic linker loads for a program, by their paths."""
    listing = subprocess.run(["ldd", program], text=True, capture_output=True).stdout
    return [word for line in listing.splitlines() for word in line.split()
            if word.startswith("/")]


class ContainerTestCase(CdiTestCase):
    """Containers in a mount namespace of their own."""

    PROGRAMS = ["/bin/sh", "/bin/ls", "/usr/bin/env", "/usr/bin/stat"]

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("containers are started as root")
        for program in self.NEEDED:
            if shutil.which(program) is None:
                self.skipTest(f"{program} isn't installed")
        done = self.apart("true")
        if done.returncode != 0:
            self.skipTest(f"no mount namespace of our own: {done.stderr.strip()}")

    def apart(self, script, **variables):
        """Runs a script where /run is empty and the machine's folder of CDI is ours."""
        run, cdi = self.path / "run", self.path / "cdi"
        run.mkdir(exist_ok=True)
        cdi.mkdir(exist_ok=True)
        prologue = f"""set -e
            mount --bind {run} /run
            mkdir -p /run/cdi
            mount --bind {cdi} /run/cdi
            umount -R /sys/fs/cgroup 2>/dev/null || true
            mount -t cgroup2 none /sys/fs/cgroup
            """
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.path), **variables}
        return subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                               prologue + script], text=True, capture_output=True, env=environment,
                              timeout=120)

    def root_file_system(self):
        """A Debian without anything: a shell, our program, and what both load; no cache."""
        root = self.path / "rootfs"
        for folder in ("bin", "dev", "proc", "sys", "tmp", "run", "etc"):
            (root / folder).mkdir(parents=True)
        shutil.copy(LIST_GPUS, root / "bin/list-gpus")
        needed = set(libraries_of(LIST_GPUS) + libraries_of(LIBRARY))
        for program in self.PROGRAMS:
            shutil.copy(program, root / "bin")
            needed.update(libraries_of(program))
        for library in sorted(needed):
            target = root / library.lstrip("/")
            # On a merged /usr both are one folder, and here they are two: the linker's own is asked
            # for by its path.
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        return root

    def uuids(self):
        node = json.loads(self.sublet("inspect", "--json").stdout)
        return "".join(gpu["uuid"] + "\n" for gpu in node["gpus"])

    LOOK = "stat -c '%n %t:%T' /dev/nvidia*; env; list-gpus"

    def check_container(self, output):
        self.assertIn("/dev/nvidia0 1:3\n", output)
        self.assertIn("/dev/nvidiactl 1:3\n", output)
        self.assertIn("NVIDIA_VISIBLE_DEVICES=void\n", output)
        self.assertIn("SUBLET_SIM=a100-80gb:1\n", output)
        self.assertTrue(output.endswith(self.uuids()), output)


class PodmanTest(ContainerTestCase):
    NEEDED = ["podman", "crun", "conmon", "unshare"]

    def podman(self, device, script):
        root = self.path / "rootfs"
        if not root.exists():
            self.root_file_system()
        command = (
            f"exec podman --root {self.path}/store --runroot {self.path}/runroot "
            "--cgroup-manager cgroupfs --events-backend none --runtime crun run --rm "
            # Not more than this process may have, which podman doesn't ask.
            "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --cgroups disabled "
            f"--network none --device {device} --env PATH=/bin --rootfs {root} "
            "/bin/sh -c \"$LOOK\"")
        return self.apart(command, LOOK=script)

    def start_or_skip(self, device, script):
        done = self.podman(device, script)
        if done.returncode == 0:
            return done
        # Is it the files, or can no container be started here?
        plain = self.podman("/dev/null", "true")
        if plain.returncode != 0:
            self.skipTest(f"podman starts no container here: {plain.stderr.strip()}")
        self.fail(done.stderr)

    def test_gives_a_container_the_simulated_gpu(self):
        self.cdi("--output", self.path / "cdi")
        self.check_container(self.start_or_skip(f"{KIND}=0", self.LOOK).stdout)

    def test_gives_a_container_the_files_of_a_driver_root(self):
        root = self.driver_root()
        self.dev_root()
        self.cdi("--output", self.path / "cdi", "--driver-root", root)
        uuid = self.uuids().strip()
        done = self.start_or_skip(f"{KIND}={uuid}", self.LOOK + "; /usr/bin/nvidia-smi")
        lines = done.stdout.splitlines()
        self.assertIn("/dev/nvidia0 1:3", lines)
        self.assertIn("/dev/nvidia-uvm 1:3", lines)
        self.assertEqual(lines[-2:], [uuid, uuid])

    def test_refuses_a_device_that_no_file_describes(self):
        self.cdi("--output", self.path / "cdi")
        self.start_or_skip(f"{KIND}=0", "true")
        done = self.podman(f"{KIND}=7", "true")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("gpu=7", done.stderr)


def apply_edits(edits, oci):
    """Does to an OCI configuration what the CDI specification says that a runtime does."""
    oci["process"]["env"] += edits.get("env", [])
    for node in edits.get("deviceNodes", []):
        host = os.stat(node.get("hostPath", node["path"]))
        oci["linux"].setdefault("devices", []).append({
            "path": node["path"],
            "type": node.get("type", "c"),
            "major": node.get("major", os.major(host.st_rdev)),
            "minor": node.get("minor", os.minor(host.st_rdev)),
            "fileMode": 0o666, "uid": 0, "gid": 0})
    for mount in edits.get("mounts", []):
        oci["mounts"].append({"destination": mount["containerPath"], "source": mount["hostPath"],
                              "type": mount.get("type", "bind"), "options": mount["options"]})
    for hook in edits.get("hooks", []):
        oci.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(
            {key: hook[key] for key in ("path", "args", "env", "timeout") if key in hook})


class CrunTest(ContainerTestCase):
    NEEDED = ["crun", "unshare"]

    def crun(self, spec, device, script):
        if not (self.path / "rootfs").exists():
            self.root_file_system()
        oci = {
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"],
                        "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                        "options": ["mode=755"]}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}]},
        }
        if spec:
            edits = {one["name"]: one["containerEdits"] for one in spec["devices"]}[device]
            apply_edits(edits, oci)
            apply_edits(spec.get("containerEdits", {}), oci)
        (self.path / "config.json").write_text(json.dumps(oci))
        return self.apart(f"exec crun --root {self.path}/crun --cgroup-manager=disabled "
                          f"run --bundle {self.path} sublet-cdi-{os.getpid()}")

    def start_or_skip(self, spec, device, script):
        done = self.crun(spec, device, script)
        if done.returncode == 0:
            return done
        plain = self.crun(None, "", "true")
        if plain.returncode != 0:
            self.skipTest(f"crun starts no container here: {plain.stderr.strip()}")
        self.fail(done.stderr)

    def test_gives_a_container_the_simulated_gpu(self):
        self.check_container(self.start_or_skip(self.spec(), "0", self.LOOK).stdout)

    def test_runs_the_hooks_before_the_program(self):
        root = self.driver_root()
        self.dev_root()
        # The host's own program in the driver root is the one that the runtime would run, so the
        # hook's path is named as the host has it.
        hook = self.path / "hook/nvidia-cdi-hook"
        hook.parent.mkdir()
        # The container's state comes by standard input, and the runtime wants it read.
        hook.write_text(f"#!/bin/sh\ncat >/dev/null\necho \"$@\" >>{self.path}/hooks\n")
        hook.chmod(0o755)
        spec = self.spec("--driver-root", root, "--nvidia-cdi-hook-path", hook)
        self.start_or_skip(spec, "0", "true")
        self.assertEqual((self.path / "hooks").read_text().splitlines(),
                         [f"create-symlinks --link libcuda.so.1::/{LIBRARIES}/libcuda.so",
                          f"update-ldcache --folder /{LIBRARIES}"])


if __name__ == "__main__":
    unittest.main()

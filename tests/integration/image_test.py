"""The container image: its root file system out of a bundle, and the Containerfile's last stage.

Usage: image_test.py SUBLET_PROGRAM

Both are run by real runtimes, in a mount namespace of their own in which /run and /sys/fs/cgroup
are others. No image is fetched: the first stage, which builds in a Debian, is replaced by what was
built here. Where a container can't be started at all, these tests are skipped and say why.
"""

import concurrent.futures
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

from node_harness import marked, wait_for

SUBLET = os.path.abspath(sys.argv[1])
del sys.argv[1:2]

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(SUBLET).parents[1]
SCRIPT = ROOT / "deploy/image/rootfs.sh"
CONTAINERFILE = ROOT / "deploy/image/Containerfile"
NEEDED = ["podman", "crun", "conmon", "unshare", "patchelf"]


def setUpModule():
    """One root file system for all tests."""
    global FOLDER, ROOTFS
    absent = [name for name in NEEDED if not shutil.which(name)]
    if absent:
        raise unittest.SkipTest(f"not installed: {', '.join(absent)}")
    if os.geteuid() != 0:
        raise unittest.SkipTest("needs root, for a mount namespace")
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    FOLDER = pathlib.Path(folder.name).resolve()
    ROOTFS = FOLDER / "context/rootfs"
    ROOTFS.parent.mkdir()
    for command in ([ROOT / "dev", "--bundle-files", BUILD, FOLDER / "bundle"],
                    [SCRIPT, FOLDER / "bundle", ROOTFS]):
        done = subprocess.run(list(map(str, command)), text=True, capture_output=True, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"{command}: {done.stdout}{done.stderr}")


def apart(script):
    """Runs a script where /run is empty."""
    (FOLDER / "run").mkdir(exist_ok=True)
    prologue = f"""set -e
        mount --bind {FOLDER}/run /run
        umount -R /sys/fs/cgroup 2>/dev/null || true
        mount -t cgroup2 none /sys/fs/cgroup
        podman() {{
          command podman --root {FOLDER}/store --runroot {FOLDER}/runroot --storage-driver vfs \\
            --cgroup-manager cgroupfs --events-backend none --runtime crun "$@"
        }}
        """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(FOLDER)}
    return subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                           prologue + script], text=True, capture_output=True, env=environment,
                          timeout=280)


# As the pods have it: no network but the loopback, nothing to write to, no capability.
LIKE_A_POD = ("--rm --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --cgroups disabled "
              "--network none --read-only --read-only-tmpfs=false --cap-drop all "
              "--security-opt no-new-privileges --env SUBLET_SIM=a100-80gb:1 "
              "--env SUBLET_SIM_STATE=/state/sim --tmpfs /state:mode=1777")


class RootFileSystem(unittest.TestCase):
    def test_has_no_shell_and_no_link_to_nowhere(self):
        programs = sorted(str(path.relative_to(ROOTFS)) for path in ROOTFS.rglob("*")
                          if path.is_file() and not path.is_symlink() and os.access(path, os.X_OK)
                          and ".so" not in path.name)
        self.assertEqual(programs, ["opt/sublet/bin/sublet",
                                    "opt/sublet/lib/sublet-sim/nvidia-cuda-mps-control"])
        for path in ROOTFS.rglob("*"):
            if path.is_symlink():
                self.assertFalse(os.path.isabs(os.readlink(path)), path)
                self.assertTrue(path.exists(), path)
            # Nothing that another user of a node could change.
            elif path != ROOTFS / "tmp":
                self.assertEqual(path.stat().st_mode & 0o022, 0, path)

    def test_has_every_library_that_is_needed_and_its_licence(self):
        there = {path.name for path in ROOTFS.rglob("*.so*")}
        for path in [*ROOTFS.rglob("*.so*"), ROOTFS / "opt/sublet/bin/sublet"]:
            dynamic = subprocess.run(["readelf", "-d", path], text=True, capture_output=True,
                                     check=True).stdout
            for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
                self.assertIn(name, there, path)
        licences = {path.name for path in (ROOTFS / "opt/sublet/share/doc/licences").iterdir()}
        self.assertIn("libc6", licences)
        self.assertGreater(len(licences), 10)

    def test_the_script_refuses_what_it_cant_do(self):
        for arguments, words in (([], "BUNDLE ROOT"), ([FOLDER, FOLDER / "x"], "BUNDLE ROOT"),
                                 ([FOLDER / "bundle", ROOTFS], "not empty")):
            done = subprocess.run([SCRIPT, *arguments], text=True, capture_output=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)


class Containers(unittest.TestCase):
    @staticmethod
    def rootfs():
        """A copy, because podman leaves files in one."""
        copy = FOLDER / "copy"
        if not copy.exists():
            shutil.copytree(ROOTFS, copy, symlinks=True)
        return copy

    def run_or_skip(self, script):
        done = apart(script)
        if done.returncode == 0:
            return done
        # Is it ours, or can no container be started here?
        plain = apart(f"podman run {LIKE_A_POD} --rootfs {self.rootfs()} "
                      "/opt/sublet/bin/sublet --version")
        if plain.returncode != 0 and "sublet" not in plain.stderr:
            self.skipTest(f"podman starts no container here: {plain.stderr.strip()}")
        self.fail(done.stderr)

    def check_labels(self, text):
        labels = dict(line.split("=", 1) for line in text.splitlines())
        self.assertEqual(labels["nvidia.com/gpu.count"], "1")
        self.assertEqual(labels["nvidia.com/gpu.product"], "NVIDIA-A100-SXM4-80GB")

    def test_the_root_file_system_runs_as_a_pod_runs_it(self):
        done = self.run_or_skip(f"podman run {LIKE_A_POD} --user 65532 --rootfs {self.rootfs()} "
                                "/opt/sublet/bin/sublet kube labels --oneshot")
        self.check_labels(done.stdout)

    def test_the_plugin_needs_no_capability_and_writes_to_its_mounts_only(self):
        kubelet, config, stop = FOLDER / "kubelet", FOLDER / "config", FOLDER / "stop"
        kubelet.mkdir()
        config.mkdir()
        (config / "default").write_text("version: v1\n")
        self.run_or_skip(f"podman run {LIKE_A_POD} --rootfs {self.rootfs()} "
                         "/opt/sublet/bin/sublet --version")
        script = (
            f"podman run --name plugin {LIKE_A_POD} --user 0 --env KUBELET_SOCKET= "
            f"--volume {kubelet}:/var/lib/kubelet/device-plugins "
            f"--volume {config}:/available-configs:ro --rootfs {self.rootfs()} "
            "/usr/bin/sublet kube plugin --config-file=/available-configs/default & "
            f"while [ ! -e {stop} ]; do sleep 0.05; done; "
            "podman stop --time 10 plugin >&2; wait $!")
        with concurrent.futures.ThreadPoolExecutor() as threads:
            done = threads.submit(apart, script)
            try:
                wait_for("its socket", lambda: done.done() or
                         (kubelet / "nvidia-gpu.sock").is_socket())
            finally:
                stop.touch()
            done = done.result()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("nvidia.com/gpu: 1 devices", done.stderr)
        self.assertIn("ends by signal 15", done.stderr)
        self.assertEqual(list(kubelet.iterdir()), [])

    def test_mps_servers_outlive_a_crash_of_the_plugin_in_a_container(self):
        config, mps, stop = FOLDER / "mps-config", FOLDER / "m", FOLDER / "mps-stop"
        config.mkdir()
        mps.mkdir()
        (config / "default").write_text(
            "version: v1\nsharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n")
        self.run_or_skip(f"podman run {LIKE_A_POD} --rootfs {self.rootfs()} "
                         "/opt/sublet/bin/sublet --version")
        script = (
            f"podman run --name mps {LIKE_A_POD} --user 0 --env KUBELET_SOCKET= "
            "--env SUBLET_TEST=in-a-container --tmpfs /var/lib/kubelet/device-plugins "
            f"--volume {mps}:/mps --volume {config}:/available-configs:ro "
            f"--rootfs {self.rootfs()} /usr/bin/sublet kube plugin --mps-root=/mps --supervised "
            "--config-file=/available-configs/default & "
            f"while [ ! -e {stop} ]; do sleep 0.05; done; "
            "podman stop --time 10 mps >&2; wait $!")

        def running(name, but=""):
            """Processes in the container, as the host sees them."""
            found = []
            for pid in marked("SUBLET_TEST", "in-a-container"):
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if name in " ".join(words) and (not but or but not in words):
                    found.append(pid)
            return found

        def one(*name):
            return wait_for(f"one {name}", lambda: done.done() or
                            (len(found := running(*name)) == 1 and found[0]))

        with concurrent.futures.ThreadPoolExecutor() as threads:
            done = threads.submit(apart, script)
            try:
                wait_for("the server's socket", lambda: done.done() or
                         list(mps.glob("servers/*/pipe/control")))
                daemon = one("nvidia-cuda-mps-control -")
                plugin = one("kube plugin", "--supervised")
                os.kill(plugin, signal.SIGKILL)
                wait_for("another plugin", lambda: done.done() or
                         running("kube plugin", "--supervised") not in ([], [plugin]))
                self.assertEqual(one("nvidia-cuda-mps-control -"), daemon)
            finally:
                stop.touch()
            done = done.result()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("killed by signal 9", done.stderr)
        self.assertIn("ends by signal 15", done.stderr)

    def test_the_containerfile_makes_an_image_of_it(self):
        done = self.run_or_skip(
            f"cd {ROOT} && podman build --build-context build={FOLDER}/context --build-arg "
            f"REVISION=abc --quiet -f {CONTAINERFILE} -t sublet:test . >&2 && "
            "podman inspect sublet:test && echo === && "
            f"podman run {LIKE_A_POD} sublet:test kube labels --oneshot && echo === && "
            f"podman run {LIKE_A_POD} --entrypoint sublet sublet:test --version")
        image, labels, version = done.stdout.split("===\n")
        [image] = json.loads(image)
        config = image["Config"]
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(config["Entrypoint"], ["/opt/sublet/bin/sublet"])
        self.assertEqual(config["Labels"]["org.opencontainers.image.revision"], "abc")
        self.assertEqual(f"sublet {config['Labels']['org.opencontainers.image.version']}\n",
                         version)
        self.assertLess(image["Size"], 90 << 20)
        self.check_labels(labels)


if __name__ == "__main__":
    unittest.main(verbosity=2)

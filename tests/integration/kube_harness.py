"""A device plugin on the simulated driver in front of a kubelet of our own, for tests.

    rig = PluginRig(sublet, sim="a100-80gb:2", config=TEXT)
    rig.start_kubelet()
    rig.start_plugin()
    rig.kubelet.await_resources({"nvidia.com/gpu": 8})
    rig.close()
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from node_harness import marked, wait_for

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"

# What happens to the simulated machine.
DO = """
import ctypes, sys
nvml = ctypes.CDLL(sys.argv[1])
nvml.nvmlInit_v2()
for rule in sys.argv[2:]:
    if rule == "clear":
        code = nvml.subletSimClearFaults()
    elif rule.startswith("reset="):
        code = nvml.subletSimResetGpu(int(rule[6:]))
    else:
        code = nvml.subletSimFault(rule.encode())
    assert code == 0, (rule, code)
"""


class Kubelet:
    """tests/kubelet, driven."""

    def __init__(self, program, folder, environment):
        self.process = subprocess.Popen(
            [program, "--dir", str(folder), "--drive"], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lock = threading.Lock()

    def ask(self, what, **arguments):
        with self.lock:
            self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())

    def must(self, what, **arguments):
        answer = self.ask(what, **arguments)
        if not answer["ok"]:
            raise AssertionError(f"{what} {arguments}: {json.dumps(answer, indent=1)}")
        return answer

    def state(self):
        return self.must("state")["state"]

    def await_resources(self, resources, seconds=20):
        state = self.must("await", resources=resources, seconds=seconds)["state"]
        for name, resource in state.items():
            if resource["fault"]:
                raise AssertionError(f"{name}: {resource['fault']}")
        return state

    def admit(self, pod, **requests):
        """One container; requests as resource=count, with "__" for what no Python name has."""
        return self.must("admit", pod=pod, containers={"main": requests})["containers"][0]

    def refusal(self, what, **arguments):
        answer = self.ask(what, **arguments)
        if answer["ok"]:
            raise AssertionError(f"{what} {arguments} went well")
        return answer["error"]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class PluginRig:
    def __init__(self, sublet, sim="a100-80gb:2", config="version: v1\n", **variables):
        self.sublet = sublet
        binaries = pathlib.Path(sublet).parent
        self.test_kubelet = str(binaries / "test-kubelet")
        self.nvml = binaries.parent / "lib/sublet-sim/libnvidia-ml.so.1"
        # Short: sockets lie below.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sk", dir="/tmp"))
        self.dir = self.folder / "k"
        self.mps = self.folder / "m"
        self.config = self.folder / "config.yaml"
        self.config.write_text(config)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "SUBLET_SIM": sim,
            "SUBLET_SIM_STATE": str(self.folder / "sim"),
            **variables,
        }
        self.kubelet = None
        self.plugin = None
        self.log = open(self.folder / "plugin.log", "ab")

    def close(self):
        for process in (self.plugin,):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        if self.kubelet:
            self.kubelet.close()
        for _ in range(50):
            left = marked("SUBLET_SIM_STATE", self.folder / "sim")
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_kubelet(self):
        self.kubelet = Kubelet(self.test_kubelet, self.dir, self.environment)
        self.kubelet.state()

    def arguments(self, *more):
        return [self.sublet, "kube", "plugin", "--config-file", str(self.config),
                "--kubelet-socket", str(self.dir / "kubelet.sock"),
                "--pod-resources-socket", str(self.dir / "pod-resources.sock"),
                "--cdi-dir", str(self.folder / "cdi"), "--health-poll", "0.2",
                "--recover-after", "1", *more]

    def start_plugin(self, *more, **variables):
        self.plugin = subprocess.Popen(
            self.arguments(*more), env=dict(self.environment, **variables), stdout=self.log,
            stderr=self.log, stdin=subprocess.DEVNULL)

    def run_plugin(self, *more, seconds=20, **variables):
        """One that is to fail at its start."""
        return subprocess.run(self.arguments(*more), env=dict(self.environment, **variables),
                              text=True, capture_output=True, timeout=seconds,
                              stdin=subprocess.DEVNULL)

    def start(self, *more, **variables):
        self.start_kubelet()
        self.start_plugin(*more, **variables)

    def stop_plugin(self):
        self.plugin.terminate()
        status = self.plugin.wait(timeout=20)
        if status != 0:
            raise AssertionError(f"status {status}\n{self.said()}")

    def kill_plugin(self):
        self.plugin.kill()
        self.plugin.wait()

    def await_crash(self, seconds=60):
        try:
            self.plugin.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return self.plugin.returncode == -signal.SIGKILL

    def said(self):
        return (self.folder / "plugin.log").read_text()[-8000:]

    def await_said(self, text, seconds=20):
        wait_for(f"it says {text!r}", lambda: text in (self.folder / "plugin.log").read_text(),
                 seconds)

    def do(self, *rules):
        subprocess.run([PYTHON, "-c", DO, str(self.nvml), *rules], env=self.environment,
                       check=True)

    def verb(self, *arguments):
        return subprocess.run([self.sublet, *arguments], env=self.environment, text=True,
                              capture_output=True, timeout=120, stdin=subprocess.DEVNULL)

    def inventory(self):
        return json.loads(self.verb("inspect", "--json").stdout)

    def uuids(self):
        return [gpu["uuid"] for gpu in self.inventory()["gpus"]]

    def cut(self, *slices):
        """MIG instances on the GPUs in order, each a {profile: count}, None for no MIG; by NVML,
        as somebody else would."""
        text = "version: v1\nmig-configs:\n  wanted:\n"
        for index, profiles in enumerate(slices):
            enabled = "false" if profiles is None else "true"
            text += f"    - devices: [{index}]\n      mig-enabled: {enabled}\n"
            if profiles is not None:
                text += f"      mig-devices: {json.dumps(profiles)}\n"
        path = self.folder / "mig.yaml"
        path.write_text(text)
        done = self.verb("mig", "apply", "-f", str(path), "-c", "wanted")
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)

    def daemon(self, pipe):
        """The control daemon there. Who asks it something is one beside it, for milliseconds."""
        def alone():
            pids = self.daemons().get(pipe, [])
            return pids[0] if len(pids) == 1 else None
        return wait_for(f"there is one daemon at {pipe}", alone)

    def daemons(self):
        """Control daemons, and programs that ask them, by their pipe directory."""
        found = {}
        for pid in marked("SUBLET_SIM_STATE", self.folder / "sim"):
            try:
                command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
                lines = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"nvidia-cuda-mps-control" not in command:
                continue
            for line in lines:
                name, _, value = line.decode(errors="replace").partition("=")
                if name == "CUDA_MPS_PIPE_DIRECTORY":
                    found.setdefault(value, []).append(pid)
        return found

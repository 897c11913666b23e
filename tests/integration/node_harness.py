"""A node daemon on the simulated driver, for tests: started, killed, asked, and looked over for
what it left behind.

    node = Node(sublet, sim="a100-80gb:1")
    node.start()
    node.run_verb("up", plan)
    node.assert_no_leaks(test)
    node.close()
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time


def wait_for(what, condition, seconds=30):
    """Waits until condition() is true; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def marked(name, value):
    """Numbers of the processes that have the variable in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = pathlib.Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{name}={value}".encode() in environment:
            found.append(int(entry))
    return sorted(found)


class Node:
    def __init__(self, sublet, sim="a100-80gb:1"):
        self.sublet = sublet
        # Short: the sockets of MPS domains lie below.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sn", dir="/tmp"))
        self.state = self.folder / "state"
        self.socket = self.folder / "run" / "s"
        self.socket.parent.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "SUBLET_SIM": sim,
            "SUBLET_SIM_STATE": str(self.folder / "sim"),
            "SUBLET_SOCKET": str(self.socket),
        }
        self.daemon = None
        self.log = open(self.folder / "daemon.log", "ab")

    def close(self):
        """Ends everything that is the node's, however it went."""
        if self.daemon and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for _ in range(50):
            left = marked("SUBLET_STATE", self.state) + marked("SUBLET_SIM_STATE",
                                                             self.folder / "sim")
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

    def start(self, *arguments, wait=True, **variables):
        """A daemon of this node; with `wait`, once it answers."""
        self.daemon = subprocess.Popen(
            [self.sublet, "daemon", "--socket", str(self.socket), "--state", str(self.state),
             *arguments],
            env=dict(self.environment, **variables), stdout=self.log, stderr=self.log,
            stdin=subprocess.DEVNULL)
        if wait:
            wait_for("the daemon answers", self.answers)

    def answers(self):
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.daemon.returncode}\n{self.said()}")
        return self.verb("ps", "--json").returncode == 0

    def said(self):
        return (self.folder / "daemon.log").read_text()[-6000:]

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait(timeout=20)

    def await_crash(self, seconds=60):
        """True once the daemon has ended by itself, as at a crash point."""
        try:
            self.daemon.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return self.daemon.returncode == -signal.SIGKILL

    def verb(self, *arguments, timeout=120, **options):
        return subprocess.run([self.sublet, *arguments], env=self.environment, text=True,
                              capture_output=True, timeout=timeout,
                              stdin=subprocess.DEVNULL, **options)

    def verb_in_background(self, *arguments):
        return subprocess.Popen([self.sublet, *arguments], env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.DEVNULL)

    def status(self):
        done = self.verb("ps", "--json")
        if done.returncode != 0:
            raise AssertionError(f"{done.stderr}\n{self.said()}")
        return json.loads(done.stdout)

    def shares(self):
        return {share["share"]["name"]: share for share in self.status()["shares"]}

    def await_quiet(self):
        """No operation goes on, and every share is up or on its way out; the status then."""
        def quiet():
            status = self.status()
            settled = all(share["state"] in ("ready", "running", "stopped")
                          for share in status["shares"])
            domains = all(domain["state"] == "ready" for domain in status["domains"])
            return status if not status.get("operation") and settled and domains else None
        return wait_for("the node is quiet", quiet, 60)

    def leaks(self, status):
        """What is there of the node's and isn't in its status."""
        found = []
        known = {share["share"]["id"] for share in status["shares"]}
        for pid in marked("SUBLET_STATE", self.state):
            environment = self.environment_of(pid)
            share = environment.get("SUBLET_SHARE")
            if share is not None and share not in known:
                found.append(f"process {pid} of share {share}")
            pipe = environment.get("CUDA_MPS_PIPE_DIRECTORY", "")
            domain = pathlib.Path(pipe).name
            if share is None and domain not in {d["domain"]["name"] for d in status["domains"]}:
                found.append(f"process {pid} of domain {domain}")
        folders = {path.name for path in (self.socket.parent / "mps").iterdir()}
        for name in folders - {d["domain"]["name"] for d in status["domains"]}:
            found.append(f"folder of domain {name}")
        logs = {path.name.split(".")[0] for path in (self.state / "logs").iterdir()}
        for name in logs - known:
            found.append(f"log of share {name}")
        return found

    @staticmethod
    def environment_of(pid):
        try:
            lines = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return {}
        pairs = (line.decode(errors="replace").partition("=") for line in lines)
        return {name: value for name, _, value in pairs}

    def instances(self):
        """MIG instances by GPU, as the simulated driver has them."""
        files = list((self.folder / "sim").glob("*.json"))
        if not files:
            return {}
        gpus = json.loads(files[0].read_text())["gpus"]
        return {i: gpu["instances"] for i, gpu in enumerate(gpus)}

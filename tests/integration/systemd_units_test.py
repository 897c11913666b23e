"""What deploy/systemd has is understood by systemd's own programs, and installs as it says."""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

UNITS = pathlib.Path(__file__).resolve().parents[2] / "deploy/systemd"
SYSTEM = "usr/lib/systemd/system"


class Directives(configparser.RawConfigParser):
    """A unit's directives, each with its last value."""

    def __init__(self, path):
        super().__init__(strict=False, delimiters="=", comment_prefixes="#", interpolation=None)
        self.optionxform = str
        self.read(path, encoding="utf-8")


@unittest.skipUnless(shutil.which("systemd-analyze"), "systemd isn't installed")
class SystemdTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        program = self.root / "usr/bin/sublet"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        system = self.root / SYSTEM
        system.mkdir(parents=True)
        # The targets that every system has.
        for target in pathlib.Path("/usr/lib/systemd/system").glob("*.target"):
            if not target.is_symlink():
                shutil.copy(target, system)
        for unit in ("sublet.service", "sublet.socket", "sublet-route.service"):
            shutil.copy(UNITS / unit, system)
        # What ExecReload= runs.
        kill = self.root / "bin/kill"
        kill.parent.mkdir()
        kill.write_text("#!/bin/sh\n")
        kill.chmod(0o755)

    def verify(self):
        return subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"--root={self.root}", "sublet.service",
             "sublet.socket", "sublet-route.service"], capture_output=True, text=True, timeout=60)

    def test_units_pass_verify(self):
        done = self.verify()
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_verify_finds_what_is_wrong(self):
        unit = self.root / SYSTEM / "sublet.service"
        good = unit.read_text()
        unit.write_text(good.replace("KillMode=process", "KillMode=sometimes"))
        self.assertIn("kill mode", self.verify().stderr)
        unit.write_text(good.replace("/usr/bin/sublet", "/usr/bin/absent"))
        self.assertNotEqual(self.verify().returncode, 0)

    def test_restrictions_hold_what_they_can(self):
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", f"--root={self.root}",
             "--no-pager", "sublet.service"], capture_output=True, text=True, timeout=60)
        score = re.search(r"Overall exposure level for sublet.service: ([\d.]+)", done.stdout)
        self.assertIsNotNone(score, done.stdout + done.stderr)
        # 9.6 is a service without any. It may not creep back there.
        self.assertLess(float(score.group(1)), 8.6)

    def test_the_router_is_held_tightly(self):
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", f"--root={self.root}",
             "--no-pager", "sublet-route.service"], capture_output=True, text=True, timeout=60)
        score = re.search(r"Overall exposure level for sublet-route.service: ([\d.]+)", done.stdout)
        self.assertIsNotNone(score, done.stdout + done.stderr)
        self.assertLess(float(score.group(1)), 2.5)

    def test_the_router_may_come_to_its_end(self):
        service = Directives(UNITS / "sublet-route.service")["Service"]
        self.assertEqual(service["Type"], "notify")
        self.assertEqual(service["KillSignal"], "SIGTERM")
        # timeouts.drain_s has 30 s, unless the file says otherwise.
        self.assertGreater(int(service["TimeoutStopSec"]), 30)

    def test_tenants_outlive_the_daemon(self):
        service = Directives(UNITS / "sublet.service")["Service"]
        self.assertEqual(service["KillMode"], "process")
        self.assertEqual(service["OOMPolicy"], "continue")
        self.assertEqual(service["RuntimeDirectoryPreserve"], "yes")
        self.assertEqual(service["Type"], "notify")
        # Anything that names a device forbids all others, the GPUs among them.
        for name in ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "PrivateTmp",
                     "ProtectHome", "MemoryDenyWriteExecute", "ProtectKernelModules",
                     "NoNewPrivileges"):
            self.assertNotIn(name, service)

    def test_socket_and_folder_are_where_the_program_looks(self):
        socket = Directives(UNITS / "sublet.socket")["Socket"]
        service = Directives(UNITS / "sublet.service")["Service"]
        self.assertEqual(socket["ListenStream"], "/run/sublet/sublet.sock")
        self.assertEqual(f"/run/{service['RuntimeDirectory']}/sublet.sock",
                         socket["ListenStream"])
        self.assertEqual((socket["SocketMode"], socket["SocketGroup"]), ("0660", "sublet"))

    def test_the_group_is_made(self):
        etc = self.root / "etc"
        etc.mkdir()
        done = subprocess.run(
            ["systemd-sysusers", f"--root={self.root}", UNITS / "sublet.sysusers.conf"],
            capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex((etc / "group").read_text(), r"(?m)^sublet:.*sublet-route")
        self.assertRegex((etc / "passwd").read_text(), r"(?m)^sublet-route:")

    @unittest.skipUnless(os.geteuid() == 0, "only root makes folders that are root's")
    def test_the_folder_is_made(self):
        done = subprocess.run(
            ["systemd-tmpfiles", "--create", f"--root={self.root}",
             UNITS / "sublet.tmpfiles.conf"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.root / "run/sublet").stat().st_mode & 0o7777, 0o755)

    def test_the_manual_names_every_file(self):
        manual = (UNITS / "README.md").read_text(encoding="utf-8")
        for path in UNITS.iterdir():
            if path.name != "README.md":
                self.assertIn(path.name, manual)


if __name__ == "__main__":
    unittest.main()

"""`sublet top` on a terminal and off one, and a GPU that fails while it is watched.

Usage: top_test.py SUBLET_PROGRAM SIMULATED_NVML
"""

import ctypes
import fcntl
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

SUBLET = os.path.abspath(sys.argv[1])
NVML = os.path.abspath(sys.argv[2])
del sys.argv[1:3]

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
PATIENCE_S = 60


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command, environment, columns=80, rows=24):
        self.screen, self.side = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.side)
        self.seen = b""
        self.process = subprocess.Popen(command, env=environment, stdin=self.side,
                                        stdout=self.side, stderr=self.side,
                                        start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.screen)
        os.close(self.side)

    def resize(self, columns, rows):
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.screen, text)

    def read_until(self, what, pattern):
        """What came up to the pattern, which is taken away."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = re.search(pattern, self.seen, re.DOTALL)
            if found:
                before, self.seen = self.seen[:found.end()], self.seen[found.end():]
                return before
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.screen], [], [], left)[0]:
                raise AssertionError(f"no {what} within {PATIENCE_S} s: {self.seen[-2000:]!r}")
            self.seen += os.read(self.screen, 65536)

    def frame(self, rows):
        """One whole frame, without what steers the terminal."""
        text = self.read_until("frame", rb"\x1b\[H(?:(?!\x1b\[H).)*q quit[^\r\n]*")
        lines = text.split(b"\x1b[H")[-1].decode().split("\r\n")
        assert len(lines) == rows, lines
        return [re.sub(r"\x1b\[[0-9;]*[mK]", "", line).rstrip("\r") for line in lines]


class TopTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="st", dir="/tmp"))
        cls.socket = cls.folder / "s"
        cls.environment = {
            "PATH": os.environ["PATH"], "HOME": str(cls.folder), "TERM": "xterm-256color",
            "SUBLET_SIM": "a100-80gb:2", "SUBLET_SIM_STATE": str(cls.folder / "sim"),
            "SUBLET_SOCKET": str(cls.socket),
        }
        cls.log = open(cls.folder / "daemon.log", "wb")
        cls.daemon = subprocess.Popen(
            [SUBLET, "daemon", "--socket", str(cls.socket), "--state", str(cls.folder / "state")],
            env=cls.environment, stdin=subprocess.DEVNULL, stdout=cls.log, stderr=cls.log)
        cls.wait_for("the daemon answers", lambda: cls.sublet("ps").returncode == 0)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.terminate()
        cls.daemon.wait(timeout=PATIENCE_S)
        cls.log.close()
        shutil.rmtree(cls.folder, ignore_errors=True)

    @classmethod
    def sublet(cls, *arguments):
        return subprocess.run([SUBLET, *arguments], env=cls.environment, text=True,
                              capture_output=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)

    @staticmethod
    def wait_for(what, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE_S} s: {what}")
            time.sleep(0.05)

    def terminal(self, **size):
        terminal = Terminal([SUBLET, "top", "--interval", "0.1"], self.environment, **size)
        self.addCleanup(terminal.close)
        return terminal

    def assert_ends(self, terminal, status):
        """It ends, and the terminal is as it was."""
        terminal.read_until("way back", re.escape(LEAVE))
        self.assertEqual(terminal.process.wait(timeout=PATIENCE_S), status)
        self.assertEqual(termios.tcgetattr(terminal.side), terminal.before)

    def test_prints_one_frame_where_there_is_no_terminal(self):
        done = self.sublet("top")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("GPU 1  NVIDIA A100", done.stdout)
        self.assertNotIn("\x1b", done.stdout)
        self.assertNotIn("q quit", done.stdout)

    def test_draws_frames_of_the_terminals_size_until_q(self):
        terminal = self.terminal()
        terminal.read_until("another page", re.escape(ENTER))
        lines = terminal.frame(24)
        self.assertIn("2 GPUs, 0 shares", lines[1])
        self.assertEqual([line for line in lines if len(line) > 80], [])
        terminal.frame(24)
        terminal.resize(120, 40)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.read_until("larger frame", rb"\x1b\[H(?:[^\n]*\n){39}")
        terminal.type(b"m")
        terminal.read_until("another order", b"by memory")
        terminal.type(b"q")
        self.assert_ends(terminal, 0)

    def test_puts_the_terminal_back_whatever_ends_it(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
                       signal.SIGSEGV):
            with self.subTest(number.name):
                terminal = self.terminal()
                terminal.frame(24)
                terminal.process.send_signal(number)
                self.assert_ends(terminal, -number)

    def test_control_c_ends_it_as_a_signal_does(self):
        terminal = self.terminal()
        terminal.frame(24)
        terminal.type(b"\x03")
        self.assert_ends(terminal, -signal.SIGINT)

    def test_comes_back_after_a_stop(self):
        # Without a shell that could continue it, the kernel lets nobody stop it; it draws anew.
        terminal = self.terminal()
        terminal.frame(24)
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.read_until("way back", re.escape(LEAVE))
        terminal.read_until("another page", re.escape(ENTER))
        terminal.frame(24)
        terminal.type(b"q")
        self.assert_ends(terminal, 0)

    def test_a_node_that_is_not_there_is_an_error(self):
        done = subprocess.run([SUBLET, "top", "--socket", str(self.folder / "none")],
                              env=self.environment, capture_output=True, text=True,
                              timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertEqual(done.stdout, "")

    def test_a_gpu_that_fails_is_shown_and_gets_no_shares(self):
        os.environ.update({name: self.environment[name]
                           for name in ("SUBLET_SIM", "SUBLET_SIM_STATE")})
        hands = ctypes.CDLL(NVML)
        self.assertEqual(hands.nvmlInit_v2(), 0)
        self.addCleanup(hands.nvmlShutdown)
        terminal = self.terminal(columns=120)
        terminal.frame(24)
        # Nobody waits for events yet while the daemon takes its first look.
        def unhealthy():
            self.assertEqual(hands.subletSimFault(b"xid=0:79"), 0)
            return "unhealthy: XID 79 (fallen off the bus)" in self.sublet("top").stdout
        self.wait_for("GPU 0 is unhealthy", unhealthy)
        terminal.read_until("warning", b"1 unhealthy")
        metrics = self.sublet_metrics()
        self.assertRegex(metrics, r'sublet_gpu_healthy{gpu="0",[^}]*} 0\n')
        self.assertRegex(metrics, r'sublet_gpu_healthy{gpu="1",[^}]*} 1\n')
        self.assertRegex(metrics, r'DCGM_FI_DEV_XID_ERRORS{gpu="0",[^}]*} 79\n')
        for _ in range(3):
            done = self.sublet("run", "--gpu-memory", "1GiB", "--mode", "time-slicing", "--",
                               "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn(self.first_uuid(metrics), done.stdout)

    @staticmethod
    def first_uuid(metrics):
        return re.search(r'sublet_gpu_healthy{gpu="0",uuid="([^"]*)"', metrics)[1]

    def sublet_metrics(self):
        return subprocess.run(["curl", "-sS", "--unix-socket", str(self.socket),
                               "http://node/metrics"], capture_output=True, text=True,
                              check=True).stdout


if __name__ == "__main__":
    unittest.main()

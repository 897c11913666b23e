"""A Python program that knows NVML alone: loads the simulated driver with ctypes.

Usage: foreign_test.py LIBRARY
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import unittest

LIBRARY = sys.argv.pop(1)
NO_INSTANCE = 0xFFFFFFFF
SUCCESS, INSUFFICIENT_SIZE, GPU_IS_LOST, VERSION_MISMATCH = 0, 7, 15, 25


class MemoryV2(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class ProcessInfo(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("usedGpuMemory", ctypes.c_ulonglong),
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    ]


class ForeignTest(unittest.TestCase):
    def setUp(self):
        self.state = tempfile.TemporaryDirectory()
        os.environ["SUBLET_SIM"] = "h200:2"
        os.environ["SUBLET_SIM_STATE"] = self.state.name
        self.nvml = ctypes.CDLL(LIBRARY)
        self.assertEqual(self.nvml.nvmlInit_v2(), SUCCESS)

    def tearDown(self):
        self.nvml.nvmlShutdown()
        self.state.cleanup()

    def device(self, index):
        device = ctypes.c_void_p()
        code = self.nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
        self.assertEqual(code, SUCCESS)
        return device

    def text(self, function, *arguments):
        buffer = ctypes.create_string_buffer(96)
        self.assertEqual(function(*arguments, buffer, 96), SUCCESS)
        return buffer.value.decode()

    def test_reads_names_and_versions(self):
        self.assertEqual(self.text(self.nvml.nvmlSystemGetDriverVersion), "580.159.04")
        self.assertEqual(self.text(self.nvml.nvmlDeviceGetName, self.device(1)), "NVIDIA H200")
        uuids = {self.text(self.nvml.nvmlDeviceGetUUID, self.device(i)) for i in (0, 1)}
        self.assertEqual(len(uuids), 2)

    def test_versioned_structures_are_checked(self):
        memory = MemoryV2(version=1)
        call = self.nvml.nvmlDeviceGetMemoryInfo_v2
        self.assertEqual(call(self.device(0), ctypes.byref(memory)), VERSION_MISMATCH)
        memory.version = ctypes.sizeof(MemoryV2) | 2 << 24
        self.assertEqual(call(self.device(0), ctypes.byref(memory)), SUCCESS)
        self.assertEqual(memory.total, memory.reserved + memory.free + memory.used)

    def test_another_process_shares_the_state(self):
        script = (
            "import ctypes, sys\n"
            "sim = ctypes.CDLL(sys.argv[1])\n"
            "sim.nvmlInit_v2()\n"
            "none = ctypes.c_uint(0xFFFFFFFF)\n"
            "code = sim.subletSimProcessStart(0, 0, none, none, ctypes.c_ulonglong(3 << 30), 0)\n"
            "print(code, flush=True)\n"
            "sys.stdin.read()\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script, LIBRARY],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(child.stdout.readline(), "0\n")
        processes = (ProcessInfo * 4)()
        count = ctypes.c_uint(0)
        call = self.nvml.nvmlDeviceGetComputeRunningProcesses_v3
        device = self.device(0)
        self.assertEqual(call(device, ctypes.byref(count), None), INSUFFICIENT_SIZE)
        self.assertEqual(count.value, 1)
        self.assertEqual(call(device, ctypes.byref(count), processes), SUCCESS)
        self.assertEqual(processes[0].pid, child.pid)
        self.assertEqual(processes[0].usedGpuMemory, 3 << 30)
        self.assertEqual(processes[0].gpuInstanceId, NO_INSTANCE)
        child.communicate()
        count.value = 4
        self.assertEqual(call(device, ctypes.byref(count), processes), SUCCESS)
        self.assertEqual(count.value, 0)

    def test_a_lost_gpu_is_lost_for_all(self):
        device = self.device(1)
        self.assertEqual(self.nvml.subletSimFault(b"lost=1"), SUCCESS)
        index = ctypes.c_uint()
        self.assertEqual(self.nvml.nvmlDeviceGetIndex(device, ctypes.byref(index)), GPU_IS_LOST)

    def test_exports_nvml_and_nothing_of_its_insides(self):
        listing = subprocess.run(["nm", "-D", "--defined-only", LIBRARY],
                                 check=True, capture_output=True, text=True).stdout
        names = [line.split()[-1] for line in listing.splitlines()]
        self.assertIn("nvmlDeviceGetGpuInstancePossiblePlacements_v2", names)
        self.assertEqual([n for n in names if not n.startswith(("nvml", "subletSim"))], [])


if __name__ == "__main__":
    unittest.main()

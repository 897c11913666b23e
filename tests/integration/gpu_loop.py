"""A program for a GPU, through the CUDA driver's own interface and nothing else.

Usage: gpu_loop.py [endless | ends | fails | idle | never-waits | late-failure] [SECONDS]

It loads libcuda.so.1 as the loader finds it, as a framework does, and knows nothing of Sublet.
"""

import ctypes
import sys
import time

# A loop of multiply-adds; the simulated driver knows it by name.
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry sublet_spin(.param .u64 sublet_spin_param_0, .param .u32 sublet_spin_param_1)
{
    ret;
}
"""
BLOCKS, THREADS, ITERATIONS = 264, 256, 2_000_000
BUFFER, INPUT, OUTPUT = 64 << 20, 4 << 20, 1 << 20


class Gpu:
    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)
        module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), PTX)
        self.kernel = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(self.kernel), module, b"sublet_spin")
        self.buffer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(self.buffer), ctypes.c_size_t(BUFFER))
        self.host = ctypes.create_string_buffer(INPUT)
        self.where, self.count = ctypes.c_uint64(0), ctypes.c_uint32(ITERATIONS)
        self.arguments = (ctypes.c_void_p * 2)(ctypes.addressof(self.where),
                                               ctypes.addressof(self.count))

    def call(self, name, *arguments):
        code = getattr(self.cuda, name)(*arguments)
        if code != 0:
            sys.exit(f"{name} returned {code}")

    def launch(self):
        self.call("cuMemcpyHtoDAsync_v2", self.buffer, self.host, ctypes.c_size_t(INPUT), None)
        self.call("cuLaunchKernel", self.kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, None,
                  self.arguments, None)

    def work(self):
        self.launch()
        self.call("cuMemcpyDtoHAsync_v2", self.host, self.buffer, ctypes.c_size_t(OUTPUT), None)
        self.call("cuStreamSynchronize", None)


def main():
    how = sys.argv[1] if len(sys.argv) > 1 else "endless"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    if how == "fails":
        print("loading weights")
        sys.exit("weights.bin: no such file")
    if how == "idle":
        time.sleep(seconds)
        return
    gpu = Gpu()
    if how == "never-waits":
        for _ in range(10):
            gpu.launch()
        return
    end = time.monotonic() + seconds
    while how == "endless" or time.monotonic() < end:
        gpu.work()
    if how == "late-failure":
        sys.exit("ran out of luck")


main()

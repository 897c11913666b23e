"""A program that uses a GPU until it is told to end, or breaks when it is asked to.

Usage: gpu_client.py [MIB] [FILE]

It allocates MIB and launches short kernels. Once FILE is there it removes that and accesses an
address that isn't allocated. An error of CUDA ends it with status 1 and that error.
"""

import ctypes
import os
import sys
import time

# The simulated driver knows sublet_poke by its name.
PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry sublet_poke(.param .u64 at) { ret; }
.visible .entry anything(.param .u64 at) { ret; }
"""


def main():
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    trigger = sys.argv[2] if len(sys.argv) > 2 else ""
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name, *arguments):
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            sys.exit(f"{name} returned {code}")

    call("cuInit", 0)
    context, module, memory = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
    call("cuCtxCreate_v2", ctypes.byref(context), 0, 0)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(mib << 20))
    call("cuModuleLoadData", ctypes.byref(module), PTX)

    def launch(name, address):
        kernel, value = ctypes.c_void_p(), ctypes.c_uint64(address)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(value))
        call("cuModuleGetFunction", ctypes.byref(kernel), module, name)
        call("cuLaunchKernel", kernel, 1, 1, 1, 32, 1, 1, 0, None, arguments, None)
        call("cuCtxSynchronize")

    launch(b"anything", 0)
    print("works", flush=True)
    while True:
        if trigger and os.path.exists(trigger):
            os.unlink(trigger)
            launch(b"sublet_poke", 16)
        launch(b"anything", 0)
        time.sleep(0.05)


main()

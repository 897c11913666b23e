#!/usr/bin/env python3
"""A process on the (simulated) GPU without any framework: ctypes on libcuda.so.1.

    SUBLET_SIM=h200 cuda_client.py LIBCUDA idle     a context, until its input ends
    ...                            LIBCUDA work     launches a short kernel again and again, too
    ...                            LIBCUDA fault    an illegal access
    ...                            LIBCUDA wall     allocates until the driver refuses

It prints one line of JSON once it has a context (wall: its memory; fault: the error), and exits
with 1 where CUDA refused one.
"""
import ctypes
import json
import select
import sys

OUT_OF_MEMORY = 2
# sublet_poke writes to the address that it is given. A kernel by any other name is a short one.
PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry sublet_poke(.param .u64 at) { ret; }
.visible .entry anything(.param .u64 at) { ret; }
"""


class Cuda:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)

    def __call__(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise RuntimeError(code)

    def launch(self, kernel, address):
        value = ctypes.c_ulonglong(address)
        parameters = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(value), ctypes.c_void_p))
        self("cuLaunchKernel", kernel, 8, 1, 1, 256, 1, 1, 0, None, parameters, None)
        self("cuCtxSynchronize")


def allocate_to_the_wall(cuda):
    granted = 0
    piece = 1 << 30
    while piece >= 2 << 20:
        pointer = ctypes.c_ulonglong()
        code = cuda.library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(piece))
        if code == 0:
            granted += piece
        elif code == OUT_OF_MEMORY:
            piece //= 2
        else:
            raise RuntimeError(code)
    return granted


def main():
    cuda = Cuda(sys.argv[1])
    mode = sys.argv[2]
    context = ctypes.c_void_p()
    module = ctypes.c_void_p()
    kernel = ctypes.c_void_p()
    seen = {}
    try:
        cuda("cuInit", 0)
        cuda("cuCtxCreate_v2", ctypes.byref(context), 0, 0)
        cuda("cuModuleLoadData", ctypes.byref(module), PTX)
        name = b"sublet_poke" if mode == "fault" else b"anything"
        cuda("cuModuleGetFunction", ctypes.byref(kernel), module, name)
        if mode == "wall":
            seen["granted"] = allocate_to_the_wall(cuda)
        if mode == "fault":
            cuda.launch(kernel, 16)
        print(json.dumps(seen), flush=True)
        while not select.select([sys.stdin], [], [], 0.001 if mode == "work" else None)[0]:
            cuda.launch(kernel, 0)
        cuda("cuCtxSynchronize")
    except RuntimeError as error:
        print(json.dumps({"error": error.args[0]}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

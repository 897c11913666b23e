#!/usr/bin/env python3
"""A model server as small as it can be: memory on the GPU, and work on it for each request.

    GET  /health   200 once its memory is allocated and a kernel has run
    POST /infer    launches --kernels kernels, one after the other as decode steps would be, waits
                   for each, and answers {"milliseconds": ..., "requests": ...}
    GET  /         what it has: memory, SMs that it may use, requests so far
    POST /break    with --breakable: fails as models do, by {"how": "fault"}, an illegal access on
                   the GPU, or {"how": "memory"}, taking memory until it is refused

Needs Python and the CUDA driver (libcuda.so.1), nothing else; a simulated one will do. It knows
nothing of Sublet: its share's limits come through the environment, as they would for any program.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

# "think" works for as long as its argument says, "sublet_poke" writes where it is told to. The
# driver compiles them for whatever GPU there is; the simulated one knows the second by its name.
KERNEL = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry think(.param .u64 memory, .param .u32 rounds)
{
  .reg .pred %more;
  .reg .u32 %round, %rounds, %thread, %width;
  .reg .u64 %base, %place;
  .reg .f32 %value;
  ld.param.u64 %base, [memory];
  ld.param.u32 %rounds, [rounds];
  mov.u32 %thread, %tid.x;
  mul.wide.u32 %place, %thread, 4;
  cvta.to.global.u64 %base, %base;
  add.u64 %place, %base, %place;
  ld.global.f32 %value, [%place];
  mov.u32 %round, 0;
again:
  fma.rn.f32 %value, %value, 0f3F7FFFFF, 0f33800000;
  add.u32 %round, %round, 1;
  setp.lt.u32 %more, %round, %rounds;
  @%more bra again;
  st.global.f32 [%place], %value;
  ret;
}
.visible .entry sublet_poke(.param .u64 address) {
  .reg .u64 %place;
  .reg .u32 %one;
  ld.param.u64 %place, [address];
  mov.u32 %one, 1;
  st.u32 [%place], %one;
  ret;
}
\0"""

BLOCKS = 4096
THREADS = 256
ROUNDS = 2_000  # Some 0.1 ms on an H200.
BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC: a waiting server leaves its core to the others.
MULTIPROCESSOR_COUNT = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
EXHAUST_BYTES = 64 << 20
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


class CudaError(RuntimeError):
    def __init__(self, call, code, words):
        super().__init__(f"{call}: {code}: {words}")
        self.code = code


class Cuda:
    """The driver's functions; each failure is an exception with the driver's words."""

    def __init__(self):
        self._library = ctypes.CDLL("libcuda.so.1")

    def __getattr__(self, name):
        function = getattr(self._library, name)

        def call(*arguments):
            result = function(*arguments)
            if result != 0:
                text = ctypes.c_char_p()
                self._library.cuGetErrorString(result, ctypes.byref(text))
                words = text.value.decode() if text.value else "unknown error"
                raise CudaError(name, result, words)

        return call


class Model:
    """A block of memory and a kernel: all that the GPU sees of a model."""

    def __init__(self, memory_bytes, kernels):
        self.memory_bytes = memory_bytes
        self.kernels = kernels
        self.requests = 0
        self._cuda = cuda = Cuda()
        cuda.cuInit(0)
        device = ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), 0)
        cuda.cuDevicePrimaryCtxSetFlags_v2(device, ctypes.c_uint(BLOCKING_SYNC))
        context = ctypes.c_void_p()
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        cuda.cuCtxSetCurrent(context)
        sms = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(sms), MULTIPROCESSOR_COUNT, device)
        self.sms = sms.value
        self._memory = ctypes.c_uint64()
        cuda.cuMemAlloc_v2(ctypes.byref(self._memory), ctypes.c_size_t(memory_bytes))
        self._module = ctypes.c_void_p()
        cuda.cuModuleLoadData(ctypes.byref(self._module), KERNEL)
        self._function = self._find(b"think")

    def _find(self, name):
        function = ctypes.c_void_p()
        self._cuda.cuModuleGetFunction(ctypes.byref(function), self._module, name)
        return function

    def fault(self):
        """An illegal access; takes with it whoever shares this process's MPS server."""
        address = ctypes.c_uint64(16)
        arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(address), ctypes.c_void_p))
        self._cuda.cuLaunchKernel(self._find(b"sublet_poke"), 1, 1, 1, 1, 1, 1, 0, None,
                                  arguments, None)
        self._cuda.cuCtxSynchronize()

    def exhaust(self):
        """Takes memory until it is refused, and gives it back; how much it got, in MiB."""
        taken = []
        try:
            while True:
                block = ctypes.c_uint64()
                self._cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(EXHAUST_BYTES))
                taken.append(block)
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
        for block in taken:
            self._cuda.cuMemFree_v2(block)
        return len(taken) * EXHAUST_BYTES >> 20

    def infer(self):
        """One request; returns its milliseconds."""
        begin = time.perf_counter()
        rounds = ctypes.c_uint32(ROUNDS)
        arguments = (ctypes.c_void_p * 2)(
            ctypes.cast(ctypes.byref(self._memory), ctypes.c_void_p),
            ctypes.cast(ctypes.byref(rounds), ctypes.c_void_p))
        for _ in range(self.kernels):
            self._cuda.cuLaunchKernel(self._function, BLOCKS, 1, 1, THREADS, 1, 1, 0, None,
                                      arguments, None)
            self._cuda.cuCtxSynchronize()
        self.requests += 1
        return (time.perf_counter() - begin) * 1e3


class Handler(BaseHTTPRequestHandler):
    model = None
    breakable = False

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {"ok": True})
        elif self.path == "/":
            model = self.model
            self.answer(200, {"memory_mib": model.memory_bytes >> 20, "sms": model.sms,
                              "requests": model.requests, "pid": os.getpid()})
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/infer":
                milliseconds = round(self.model.infer(), 3)
                self.answer(200, {"milliseconds": milliseconds, "requests": self.model.requests})
            elif self.path == "/break" and self.breakable:
                if json.loads(body)["how"] == "fault":
                    self.model.fault()
                self.answer(200, {"taken_mib": self.model.exhaust()})
            else:
                self.answer(404, {"error": "no such page"})
        except CudaError as error:
            # A context that has failed once never works again: the next process's will.
            self.answer(500, {"error": str(error)})
            print(f"ends: {error}", flush=True)
            os._exit(1)

    def answer(self, status, body):
        data = (json.dumps(body) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass  # A line for each health check would bury the rest.


def parse_bytes(text):
    for unit, size in UNITS.items():
        if text.endswith(unit):
            return int(float(text[:-len(unit)]) * size)
    raise argparse.ArgumentTypeError(f"an amount of memory is written like 8GiB: {text}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=parse_bytes, default=parse_bytes("1GiB"))
    parser.add_argument("--kernels", type=int, default=4, help="in a request (default: 4)")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8100")),
                        help="(default: the variable PORT, else 8100)")
    parser.add_argument("--breakable", action="store_true", help="answer POST /break")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    model = Model(options.memory, options.kernels)
    model.infer()
    Handler.model = model
    Handler.breakable = options.breakable
    server = HTTPServer(("127.0.0.1", options.port), Handler)
    print(f"serves port {options.port} with {model.memory_bytes >> 20} MiB and {model.sms} SMs",
          flush=True)
    server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except CudaError as failure:
        sys.exit(f"server.py: {failure}")
    except KeyboardInterrupt:
        pass

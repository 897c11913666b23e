#!/usr/bin/env python3
"""The text encoder of examples/02_measure as a server: one process, one CUDA graph, one port.

    GET  /health               200 once the graph is captured
    POST /infer                one forward pass; answers {"milliseconds": ...}
    GET  /load?from=S&to=S     with --load: what was done between two moments of the machine's
                               monotonic clock: requests a second, p50, p99, the longest pause
    GET  /                     its memory and what it has done so far
    POST /break                with --breakable: fails as models do, by {"how": "fault"}, an illegal
                               access on the GPU, or by {"how": "memory"}, taking memory until it
                               is refused; "most_mib": at most so much, "hold_s": gives it back then

With --load it feeds itself: one request after the other, so that forty of them can be measured
without a client that takes the cores they need. CLOCK_MONOTONIC is one clock for all processes of a
machine, so whoever measures chooses a window that has passed and asks each server what it did in it
(load_window.py).

Needs PyTorch with CUDA. It knows nothing of Sublet.
"""

import argparse
import array
import bisect
import ctypes
import json
import os
import pathlib
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "02_measure"))
import torch_encoder  # noqa: E402  (the folder must be known first)

import server  # noqa: E402  (the example beside this one)

SHAPE = (1, 64, torch_encoder.MODEL_DIMENSION)
REMEMBERED = 1 << 19  # Requests: some two minutes of one that has an H200 to itself.
# In pieces of such sizes memory is taken, by one that fails so.
LARGEST_PIECE_MIB = 1024
SMALLEST_PIECE_MIB = 16


class Encoder:
    """The forward pass as a CUDA graph, and a way to wait for it."""

    def __init__(self, spin):
        torch.manual_seed(0)
        with torch.no_grad():
            # Kept: the graph has the addresses of the weights, and doesn't own them.
            self._model = torch_encoder.make_encoder(torch.device("cuda"))
            self._tokens = torch.randn(SHAPE).to(device="cuda", dtype=torch.bfloat16)
            self._graph, self._result = torch_encoder.capture(self._model, self._tokens)
        # What the capture needed beside the graph goes back to the card.
        torch.cuda.empty_cache()
        # Many processes that spin while they wait take each other's cores.
        self._done = torch.cuda.Event(blocking=not spin)
        self._turn = threading.Lock()

    def infer(self):
        """One forward pass; its milliseconds."""
        with self._turn:
            begin = time.perf_counter()
            self._graph.replay()
            self._done.record()
            self._done.synchronize()
            return (time.perf_counter() - begin) * 1e3


def fault():
    """An illegal access; takes with it whoever shares this process's MPS server."""
    torch.cuda.set_device(0)  # PyTorch's context, for this thread too.
    cuda = server.Cuda()
    module, poke = ctypes.c_void_p(), ctypes.c_void_p()
    cuda.cuModuleLoadData(ctypes.byref(module), server.KERNEL)
    cuda.cuModuleGetFunction(ctypes.byref(poke), module, b"sublet_poke")
    address = ctypes.c_uint64(16)
    arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(address), ctypes.c_void_p))
    cuda.cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, None, arguments, None)
    torch.cuda.synchronize()


def take_memory(most_mib, hold_s):
    """Takes memory until it is refused or has `most_mib`; gives it back after `hold_s`."""
    taken, mib, refused = [], 0, ""
    piece_mib = min(LARGEST_PIECE_MIB, most_mib)
    while mib < most_mib and piece_mib >= SMALLEST_PIECE_MIB:
        try:
            taken.append(torch.empty(piece_mib << 20, dtype=torch.uint8, device="cuda"))
            mib += piece_mib
        except torch.OutOfMemoryError as error:
            # Its first words; it goes on with every process of the GPU.
            refused = ". ".join(str(error).split(". ")[:3])
            piece_mib //= 2
    time.sleep(hold_s)
    taken.clear()
    torch.cuda.empty_cache()
    return {"taken_mib": mib, "refused": refused}


class Record:
    """When requests ended, and what each took: the last REMEMBERED of them."""

    def __init__(self):
        self._ends = array.array("d", bytes(8 * REMEMBERED))
        self._milliseconds = array.array("d", bytes(8 * REMEMBERED))
        self.count = 0
        self.began = None  # When the first ended.

    def add(self, end, milliseconds):
        if self.count == 0:
            self.began = end
        place = self.count % REMEMBERED
        self._ends[place] = end
        self._milliseconds[place] = milliseconds
        # Last: a reader in another thread sees whole entries only.
        self.count += 1

    def window(self, begin, end):
        """What ended in [begin, end)."""
        count = self.count
        start = max(0, count - REMEMBERED)
        split = start % REMEMBERED
        # In the order of time.
        ends = self._ends[split:count if count < REMEMBERED else REMEMBERED]
        times = self._milliseconds[split:count if count < REMEMBERED else REMEMBERED]
        if count > REMEMBERED:
            ends += self._ends[:split]
            times += self._milliseconds[:split]
        first, last = bisect.bisect_left(ends, begin), bisect.bisect_left(ends, end)
        ordered = sorted(times[first:last])
        # A pause counts where it touches the window.
        around = ends[max(0, first - 1):last + 1]
        answer = {"from": begin, "to": end, "requests": len(ordered),
                  "requests_per_s": len(ordered) / (end - begin),
                  "longest_pause_ms": 1e3 * max(
                      (b - a for a, b in zip(around, around[1:])), default=end - begin),
                  # Whether the window is within what is remembered.
                  "complete": count > 0 and len(ends) > 0 and
                              (start == 0 or ends[0] <= begin) and end <= time.monotonic()}
        if ordered:
            answer["p50_ms"] = ordered[len(ordered) // 2]
            answer["p99_ms"] = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        return answer


class Handler(BaseHTTPRequestHandler):
    encoder = None
    record = None
    breakable = False

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/health":
            self.answer(200, {"ok": True})
        elif url.path == "/":
            self.answer(200, {"pid": os.getpid(), "requests": self.record.count,
                              "began": self.record.began,
                              "allocated_mib": torch.cuda.memory_reserved() >> 20,
                              "sms": torch.cuda.get_device_properties(0).multi_processor_count})
        elif url.path == "/load":
            query = urllib.parse.parse_qs(url.query)
            begin, end = float(query["from"][0]), float(query["to"][0])
            if end > begin:
                self.answer(200, self.record.window(begin, end))
            else:
                self.answer(400, {"error": "the window is empty"})
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/infer":
            self.answer(200, {"milliseconds": round(self.encoder.infer(), 4)})
        elif self.path == "/break" and self.breakable:
            wish = json.loads(body)
            if wish["how"] == "fault":
                self.answer(200, {"faults": True})
                fault()
            else:
                self.answer(200, take_memory(wish.get("most_mib", float("inf")),
                                             wish.get("hold_s", 0)))
        else:
            self.answer(404, {"error": "no such page"})

    def answer(self, status, body):
        data = (json.dumps(body) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass  # A line for each health check would bury the rest.


def feed(encoder, record):
    """One request after the other, for ever. An error of the GPU ends the process."""
    try:
        while True:
            milliseconds = encoder.infer()
            record.add(time.monotonic(), milliseconds)
    except RuntimeError as error:
        print(f"ends: {error}", flush=True)
        os._exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8200")),
                        help="(default: the variable PORT, else 8200)")
    parser.add_argument("--load", action="store_true", help="be busy all the time")
    parser.add_argument("--breakable", action="store_true", help="answer POST /break")
    parser.add_argument("--spin", action="store_true", help="wait for the GPU without sleeping")
    options = parser.parse_args()

    # Its work is on the GPU; more threads would only take cores from the other replicas.
    torch.set_num_threads(1)
    encoder, record = Encoder(options.spin), Record()
    encoder.infer()
    Handler.encoder, Handler.record = encoder, record
    Handler.breakable = options.breakable
    listener = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(f"serves port {options.port}", flush=True)
    if options.load:
        threading.Thread(target=feed, args=(encoder, record), daemon=True).start()
    listener.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass

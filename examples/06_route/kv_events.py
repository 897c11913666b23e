"""KV events as vLLM sends them: batches in MessagePack over a ZeroMQ PUB socket, the last ones
again on request over a ROUTER socket.

    events = Publisher("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558")
    events.publish([["BlockStored", [hash], parent_hash, token_ids, block_size, None]])

libzmq is found by its C interface, so that no Python package for it is needed: LIBZMQ_PATH names
it where the system has none. docs/formats/kv-events.md describes the messages.
"""

import collections
import ctypes
import ctypes.util
import os
import struct
import threading
import time

import msgpack

PUB, ROUTER = 1, 6
RCVTIMEO, LINGER = 27, 17
SNDMORE, DONTWAIT = 2, 1
KEPT = 10_000  # Batches that can be asked for again; as vLLM.
REPLAY_ENDS = b"\xff" * 8


def load():
    name = os.environ.get("LIBZMQ_PATH") or ctypes.util.find_library("zmq")
    if not name:
        raise SystemExit("no libzmq: install libzmq5, or let LIBZMQ_PATH name one")
    library = ctypes.CDLL(name, use_errno=True)
    library.zmq_ctx_new.restype = library.zmq_socket.restype = ctypes.c_void_p
    library.zmq_socket.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.zmq_bind.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.zmq_setsockopt.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
                                       ctypes.c_size_t]
    library.zmq_send.argtypes = library.zmq_recv.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    return library


class Socket:
    """One thread's."""

    def __init__(self, library, context, kind, endpoint):
        self._zmq = library
        self._socket = library.zmq_socket(context, kind)
        for option, value in ((LINGER, 0), (RCVTIMEO, 500)):
            number = ctypes.c_int(value)
            library.zmq_setsockopt(self._socket, option, ctypes.byref(number),
                                   ctypes.sizeof(number))
        if library.zmq_bind(self._socket, endpoint.encode()) != 0:
            raise OSError(ctypes.get_errno(), f"binding {endpoint}")

    def send(self, *frames):
        for place, frame in enumerate(frames):
            more = SNDMORE if place + 1 < len(frames) else 0
            self._zmq.zmq_send(self._socket, frame, len(frame), more | DONTWAIT)

    def receive(self):
        """One frame, or None where half a second brought none."""
        buffer = ctypes.create_string_buffer(256)
        size = self._zmq.zmq_recv(self._socket, buffer, len(buffer), 0)
        return None if size < 0 else buffer.raw[:size]


class Publisher:
    def __init__(self, endpoint, replay_endpoint=""):
        self._zmq = load()
        self._context = self._zmq.zmq_ctx_new()
        self._socket = Socket(self._zmq, self._context, PUB, endpoint)
        self._sequence = 0
        self._kept = collections.deque(maxlen=KEPT)
        self._lock = threading.Lock()
        if replay_endpoint:
            threading.Thread(target=self._replay, args=(replay_endpoint,), daemon=True).start()

    def publish(self, events):
        """In one thread."""
        payload = msgpack.packb([time.time(), events])
        sequence = struct.pack(">Q", self._sequence)
        with self._lock:
            self._kept.append((sequence, payload))
        self._socket.send(b"", sequence, payload)
        self._sequence += 1

    def _replay(self, endpoint):
        socket = Socket(self._zmq, self._context, ROUTER, endpoint)
        while True:
            who = socket.receive()
            if who is None:
                continue
            socket.receive()  # The empty frame between.
            start = socket.receive() or REPLAY_ENDS
            with self._lock:
                batches = [each for each in self._kept if each[0] >= start]
            for sequence, payload in batches:
                socket.send(who, b"", sequence, payload)
            socket.send(who, b"", REPLAY_ENDS, b"")

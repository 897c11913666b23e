"""vLLM's KV event publisher as a process of its own, for tests; told what to do over descriptor 3.

Sockets, frames, numbers, ring and replay are as in vLLM's ZmqEventPublisher, on pyzmq and msgpack.
It first says where it listens, "ENDPOINT REPLAY\\n", and then answers each line with "ok\\n":

    publish N   N batches of one stored block each
    lose N      the same, but they are only kept, not sent
    clear       a batch that says that all blocks were cleared
    garbage     a batch that isn't MessagePack
"""

import collections
import socket
import sys
import time

import msgpack
import zmq

END_SEQ = (-1).to_bytes(8, "big", signed=True)


class Publisher:
    def __init__(self, endpoint, replay_endpoint, ring):
        context = zmq.Context()
        self.pub = context.socket(zmq.PUB)
        self.pub.set_hwm(100_000)
        self.pub.bind(endpoint)
        self.replay = context.socket(zmq.ROUTER)
        self.replay.bind(replay_endpoint)
        self.buffer = collections.deque(maxlen=ring)
        self.next_seq = 0

    def send(self, payload, lost=False):
        seq = self.next_seq
        self.next_seq += 1
        if not lost:
            self.pub.send_multipart((b"", seq.to_bytes(8, "big"), payload))
        self.buffer.append((seq, payload))

    def stored(self, lost):
        seq = self.next_seq
        event = {"type": "BlockStored", "block_hashes": [seq + 1000], "parent_block_hash": None,
                 "token_ids": [seq, seq + 1], "block_size": 2, "lora_id": None, "medium": "GPU",
                 "lora_name": None}
        self.send(msgpack.packb([time.time(), [event]]), lost)

    def service_replay(self):
        client, _, start = self.replay.recv_multipart()
        start = int.from_bytes(start, "big")
        for seq, payload in self.buffer:
            if seq >= start:
                self.replay.send_multipart((client, b"", seq.to_bytes(8, "big"), payload))
        self.replay.send_multipart((client, b"", END_SEQ, b""))

    def obey(self, words):
        if words[0] in ("publish", "lose"):
            for _ in range(int(words[1])):
                self.stored(lost=words[0] == "lose")
        elif words[0] == "clear":
            self.send(msgpack.packb([time.time(), [{"type": "AllBlocksCleared"}]]))
        elif words[0] == "garbage":
            self.send(b"\xc1")


def main():
    endpoint, replay_endpoint, ring = sys.argv[1:]
    control = socket.socket(fileno=3)
    publisher = Publisher(endpoint, replay_endpoint, int(ring))
    places = [s.getsockopt_string(zmq.LAST_ENDPOINT) for s in (publisher.pub, publisher.replay)]
    control.sendall((" ".join(places) + "\n").encode())
    poller = zmq.Poller()
    poller.register(publisher.replay, zmq.POLLIN)
    poller.register(control.fileno(), zmq.POLLIN)
    pending = b""
    while True:
        ready = dict(poller.poll())
        if publisher.replay in ready:
            publisher.service_replay()
        if control.fileno() not in ready:
            continue
        received = control.recv(4096)
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            publisher.obey(line.decode().split())
            control.sendall(b"ok\n")


main()

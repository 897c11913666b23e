"""Asks sublet-sim-engine as programs do that nobody here wrote: urllib, pyzmq, msgpack.

  foreign_client.py PATH/sublet-sim-engine
"""

import json
import struct
import subprocess
import sys
import urllib.error
import urllib.request

import msgpack
import zmq

RECEIVE_MS = 20_000


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def stream(url, body):
    """The events of a streamed chat, as a client library sees them."""
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer:
            if line.startswith(b"data: ") and b"[DONE]" not in line:
                yield json.loads(line[6:])


def check_api(url):
    models = json.loads(ask(url + "/v1/models"))
    assert [model["id"] for model in models["data"]] == ["demo"], models
    messages = [{"role": "user", "content": "Where do the blocks go?"}]
    body = {"model": "demo", "messages": messages, "max_tokens": 20}
    whole = json.loads(ask(url + "/v1/chat/completions", body))
    body.update(stream=True, stream_options={"include_usage": True})
    chunks = list(stream(url + "/v1/chat/completions", body))
    said = "".join(c["delta"].get("content", "") for e in chunks for c in e["choices"])
    assert said == whole["choices"][0]["message"]["content"], (said, whole)
    assert chunks[-1]["usage"]["completion_tokens"] == 20, chunks[-1]
    try:
        ask(url + "/v1/chat/completions", {"model": "x", "messages": messages})
    except urllib.error.HTTPError as error:
        assert error.code == 404 and "error" in json.load(error)
    else:
        raise AssertionError("an unknown model was served")


class Listener:
    """What vLLM's own example of a subscriber does."""

    def __init__(self, context, line):
        self.sub = context.socket(zmq.SUB)
        self.sub.setsockopt_string(zmq.SUBSCRIBE, "")
        self.sub.setsockopt(zmq.RCVTIMEO, RECEIVE_MS)
        self.sub.connect(line["kv_events"])
        self.replay = context.socket(zmq.DEALER)
        self.replay.setsockopt(zmq.RCVTIMEO, RECEIVE_MS)
        self.replay.connect(line["kv_replay"])

    def next(self):
        topic, sequence, payload = self.sub.recv_multipart()
        assert topic == b"kv@demo", topic
        return struct.unpack(">Q", sequence)[0], msgpack.unpackb(payload)

    def replayed_from(self, start):
        self.replay.send_multipart([b"", struct.pack(">Q", start)])
        batches = {}
        while True:
            empty, sequence, payload = self.replay.recv_multipart()
            assert empty == b""
            if sequence == b"\xff" * 8:
                return batches
            batches[struct.unpack(">Q", sequence)[0]] = msgpack.unpackb(payload)


def apply(held, batch):
    """The cache's content as a listener keeps it: how often each block is there."""
    for event in batch[1]:
        if event["type"] == "AllBlocksCleared":
            held.clear()
            continue
        hashes = event["block_hashes"]
        stored = event["type"] == "BlockStored"
        for block in hashes:
            held[block] = held.get(block, 0) + (1 if stored else -1)
        if stored:
            assert len(event["token_ids"]) == len(hashes) * event["block_size"], event


def complete(url, prompt):
    return json.loads(ask(url + "/v1/completions", {"prompt": prompt, "max_tokens": 4}))


def check_events(url, line):
    context = zmq.Context()
    listener = Listener(context, line)
    # A subscription takes effect some time after connect(): events are made until one is heard.
    poller = zmq.Poller()
    poller.register(listener.sub, zmq.POLLIN)
    number = 0
    while not poller.poll(20):
        number += 1
        complete(url, f"prompt number {number} with some words")
    first, _ = listener.next()
    before = listener.replayed_from(0)
    assert sorted(before) == list(range(len(before))) and first in before, sorted(before)

    complete(url, list(range(100, 140)))
    state = json.loads(ask(url + "/sim/state"))
    held = {}
    batches = listener.replayed_from(0)
    for sequence in sorted(batches):
        apply(held, batches[sequence])
    assert sum(held.values()) == state["blocks_cached"], (held, state)
    assert all(count >= 0 for count in held.values()), held

    # A batch that is lost leaves a gap, which a replay fills.
    last = max(batches)
    urllib.request.urlopen(url + "/sim/fault", b"events-drop", timeout=30).read()
    complete(url, list(range(500, 540)))
    complete(url, list(range(900, 940)))
    heard = last
    while heard <= last:
        heard, _ = listener.next()
    assert heard == last + 2, (heard, last)
    assert last + 1 in listener.replayed_from(last + 1)

    # A restart begins at 0, with an empty cache.
    try:
        urllib.request.urlopen(url + "/sim/fault", b"restart", timeout=30).read()
    except OSError:
        pass
    complete(url, list(range(40)))
    batches = listener.replayed_from(0)
    assert min(batches) == 0 and len(batches) < 10, sorted(batches)
    context.destroy(linger=0)


def main():
    engine = subprocess.Popen(
        [sys.argv[1], "--model", "demo", "--port", "0", "--kv-blocks", "64", "--block-tokens", "4",
         "--step-ms", "0.2", "--kv-events-port", "0", "--replay-port", "0",
         "--kv-events-topic", "kv@demo"],
        stdout=subprocess.PIPE)
    try:
        line = json.loads(engine.stdout.readline())
        check_api(line["url"])
        check_events(line["url"], line)
    finally:
        engine.terminate()
    assert engine.wait(timeout=30) == 0


if __name__ == "__main__":
    main()

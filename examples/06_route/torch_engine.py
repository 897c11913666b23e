#!/usr/bin/env python3
"""A small inference engine: a PyTorch decoder with a prefix KV cache, behind OpenAI's API.

    torch_engine.py --port 8301 --kv-events tcp://127.0.0.1:5557 --replay tcp://127.0.0.1:5558

    POST /v1/chat/completions, /v1/completions   streamed or not
    GET  /v1/models, /health, /metrics           the last with vLLM's names
    POST /reset_prefix_cache                     forgets all cached blocks

The weights are random and a word is a token, so its answers mean nothing; what it computes, keeps
and reuses is real. A prompt's blocks of keys and values are kept when they have been computed, the
least recently used forgotten first, and each block that comes or goes is announced as a KV event,
as vLLM does it. A prompt that begins as one before is computed only from where they part.

Prompts are computed in chunks, between which the sequences that decode make a step each.

Needs PyTorch, aiohttp, msgpack and libzmq. It knows nothing of Sublet.
"""

import argparse
import asyncio
import collections
import hashlib
import itertools
import json
import os
import re
import struct
import threading
import time
import zlib

import torch
import torch.nn.functional as F
from aiohttp import web

import kv_events

WORDS = ("the a one of to in and then light stone river bread door wind paper salt glass road "
         "winter field copper engine quiet early seven under over again never often").split()


# ---- the model ----------------------------------------------------------------------------------


def rotate(x, cosine, sine):
    """Rotary position embedding; x is [batch, heads, tokens, head_dimension]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def attend(q, k, v, lengths=None):
    """Each query sees the keys up to its own position, which is counted from the end of the keys;
    with `lengths`, one query a sequence, each with so many keys."""
    repeats = q.shape[1] // k.shape[1]
    if lengths is None and q.device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right
        k, v = (x.repeat_interleave(repeats, 1) for x in (k, v))
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]))
    places = torch.arange(k.shape[2], device=q.device)
    if lengths is None:
        own = torch.arange(q.shape[2], device=q.device) + k.shape[2] - q.shape[2]
        seen = (places[None, :] <= own[:, None])[None, None]
    else:
        seen = (places[None, :] < lengths[:, None])[:, None, None]
    # A group of query heads has one head of keys; as one more dimension nothing is copied.
    q = q.unflatten(1, (k.shape[1], repeats)) if hasattr(q, "unflatten") else q
    scores = q @ k.unsqueeze(2).transpose(-1, -2) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~seen.unsqueeze(1), float("-inf"))
    return (scores.softmax(-1) @ v.unsqueeze(2)).flatten(1, 2)


class Decoder:
    """A decoder-only transformer with grouped keys and values, as Llama's are."""

    def __init__(self, shape, device, dtype):
        torch.manual_seed(0)
        self.shape, self.device, self.dtype = shape, device, dtype
        width, kv_width = shape.heads * shape.head, shape.kv_heads * shape.head

        def matrix(rows, columns):
            weight = torch.empty(rows, columns, device=device, dtype=dtype)
            return weight.normal_(0, columns ** -0.5)

        self.embedding = matrix(shape.vocabulary, width)
        self.layers = [(matrix(width + 2 * kv_width, width), matrix(width, width),
                        matrix(2 * shape.inner, width), matrix(width, shape.inner))
                       for _ in range(shape.layers)]
        steps = torch.arange(0, shape.head // 2, device=device) / (shape.head // 2)
        angles = torch.outer(torch.arange(shape.length, device=device).float(), 10000.0 ** -steps)
        self.cosine, self.sine = angles.cos().to(dtype), angles.sin().to(dtype)

    def norm(self, x):
        return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5).to(x.dtype)

    def split(self, x, weight):
        """x as queries, keys and values, [batch, heads, tokens, head]."""
        shape = self.shape
        width, kv_width = shape.heads * shape.head, shape.kv_heads * shape.head
        q, k, v = F.linear(self.norm(x), weight).split((width, kv_width, kv_width), -1)
        return [part.view(*part.shape[:2], heads, shape.head).transpose(1, 2)
                for part, heads in ((q, shape.heads), (k, shape.kv_heads), (v, shape.kv_heads))]

    def rest(self, x, mixed, layer):
        _, out, up, down = layer
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), out)
        gate, value = F.linear(self.norm(x), up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * value, down)

    def next_token(self, x):
        return F.linear(self.norm(x), self.embedding).argmax(-1)

    @torch.no_grad()
    def prefill(self, tokens, keys, values, start):
        """Computes `tokens`, which stand at `start` in a sequence whose keys and values are in
        keys[layer, kv_head, place, :]; returns the token that follows."""
        end = start + len(tokens)
        x = self.embedding[torch.tensor(tokens, device=self.device)][None]
        cosine, sine = self.cosine[start:end], self.sine[start:end]
        for place, layer in enumerate(self.layers):
            q, k, v = self.split(x, layer[0])
            keys[place, :, start:end] = rotate(k, cosine, sine)[0]
            values[place, :, start:end] = v[0]
            mixed = attend(rotate(q, cosine, sine), keys[place, :, :end][None],
                           values[place, :, :end][None])
            x = self.rest(x, mixed, layer)
        return int(self.next_token(x[0, -1]))

    @torch.no_grad()
    def decode(self, tokens, keys, values, slots, lengths):
        """One step of several sequences: tokens[i] stands at lengths[i] in slot slots[i]."""
        slot = torch.tensor(slots, device=self.device)
        at = torch.tensor(lengths, device=self.device)
        longest = max(lengths) + 1
        x = self.embedding[torch.tensor(tokens, device=self.device)][:, None]
        cosine, sine = self.cosine[at][:, None, None], self.sine[at][:, None, None]
        for place, layer in enumerate(self.layers):
            q, k, v = self.split(x, layer[0])
            keys[slot, place, :, at] = rotate(k, cosine, sine)[:, :, 0]
            values[slot, place, :, at] = v[:, :, 0]
            mixed = attend(rotate(q, cosine, sine), keys[slot, place, :, :longest],
                           values[slot, place, :, :longest], at + 1)
            x = self.rest(x, mixed, layer)
        return self.next_token(x[:, 0]).tolist()


# ---- the prefix cache ---------------------------------------------------------------------------


class PrefixCache:
    """Blocks of keys and values by the hash of all tokens up to their end."""

    def __init__(self, shape, blocks, block_tokens, device, dtype):
        size = (blocks, shape.layers, shape.kv_heads, block_tokens, shape.head)
        self.keys = torch.empty(size, device=device, dtype=dtype)
        self.values = torch.empty(size, device=device, dtype=dtype)
        self.block_tokens = block_tokens
        self.free = list(range(blocks))
        self.kept = collections.OrderedDict()  # Hash to block; the least recently used first.
        self.events = []

    def chain(self, tokens):
        hashes, parent = [], b""
        for start in range(0, len(tokens) - self.block_tokens + 1, self.block_tokens):
            block = tokens[start:start + self.block_tokens]
            parent = hashlib.blake2b(parent + struct.pack(f"{len(block)}I", *block),
                                     digest_size=8).digest()
            hashes.append(int.from_bytes(parent, "big"))
        return hashes

    def load(self, chain, keys, values):
        """Copies what is kept of the chain's beginning to a sequence; returns its tokens."""
        found = list(itertools.takewhile(self.kept.__contains__, chain))
        if found:
            blocks = torch.tensor([self.kept[each] for each in found], device=self.keys.device)
            for kept, to in ((self.keys, keys), (self.values, values)):
                # [block, layer, head, token, :] to [layer, head, block and token, :]
                piece = kept[blocks].permute(1, 2, 0, 3, 4).flatten(2, 3)
                to[:, :, :piece.shape[2]] = piece
        self.touch(found)
        return len(found) * self.block_tokens

    def touch(self, chain):
        # The last block of a prompt is forgotten before its first.
        for each in reversed(chain):
            if each in self.kept:
                self.kept.move_to_end(each)

    def store(self, chain, tokens, keys, values):
        """Keeps what isn't kept yet of a sequence."""
        new = []
        for place, name in enumerate(chain):
            if name in self.kept:
                continue
            if not self.free:
                old, block = self.kept.popitem(last=False)
                self.free.append(block)
                self.events.append(["BlockRemoved", [old]])
            block = self.free.pop()
            self.kept[name] = block
            begin = place * self.block_tokens
            end = begin + self.block_tokens
            self.keys[block] = keys[:, :, begin:end]
            self.values[block] = values[:, :, begin:end]
            new.append((place, name))
        self.touch(chain)
        for _, run in itertools.groupby(enumerate(new), lambda each: each[1][0] - each[0]):
            run = [each for _, each in run]
            first, last = run[0][0], run[-1][0]
            self.events.append([
                "BlockStored", [name for _, name in run], chain[first - 1] if first else None,
                tokens[first * self.block_tokens:(last + 1) * self.block_tokens],
                self.block_tokens, None])

    def clear(self):
        self.free += self.kept.values()
        self.kept.clear()
        self.events.append(["AllBlocksCleared"])


# ---- the engine ---------------------------------------------------------------------------------


class Request:
    def __init__(self, tokens, output_tokens, emit):
        self.tokens, self.left, self.emit = tokens, output_tokens, emit
        self.slot = self.cached = None
        self.done = 0  # Tokens whose keys and values are there.
        self.prompt = len(tokens)
        self.cancelled = False


class Engine(threading.Thread):
    """Owns the GPU: one thread that does a step after the other."""

    def __init__(self, options, device, dtype, publisher):
        super().__init__(daemon=True)
        self.model = Decoder(options, device, dtype)
        self.cache = PrefixCache(options, options.blocks, options.block_tokens, device, dtype)
        size = (options.slots, options.layers, options.kv_heads, options.length, options.head)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.free = list(range(options.slots))
        self.chunk, self.publisher = options.chunk, publisher
        self.waiting, self.filling, self.decoding = collections.deque(), [], []
        self.changed = threading.Condition()
        self.reset = False
        self.asked = self.found = self.steps = 0
        self.chunks = self.chunk_seconds = 0

    def submit(self, request):
        with self.changed:
            self.waiting.append(request)
            self.changed.notify()

    def forget(self):
        with self.changed:
            self.reset = True
            self.changed.notify()

    def run(self):
        try:
            while True:
                self.admit()
                if self.filling:
                    self.fill(self.filling[0])
                if self.decoding:
                    self.decode()
                if self.cache.events:
                    events, self.cache.events = self.cache.events, []
                    if self.publisher:
                        self.publisher.publish(events)
        except Exception as error:  # An engine without its thread must not look well.
            print(f"ends: {error!r}", flush=True)
            os._exit(1)

    def admit(self):
        with self.changed:
            while not (self.waiting or self.filling or self.decoding or self.reset):
                self.changed.wait()
            if self.reset:
                self.reset = False
                self.cache.clear()
            while self.waiting and self.free:
                request = self.waiting.popleft()
                request.slot = self.free.pop()
                self.filling.append(request)

    def fill(self, request):
        keys, values = self.keys[request.slot], self.values[request.slot]
        if request.cached is None:
            # At least the last token is computed, since what follows it must be known.
            chain = self.cache.chain(request.tokens[:-1])
            request.done = request.cached = self.cache.load(chain, keys, values)
            self.asked += request.prompt
            self.found += request.cached
        piece = request.tokens[request.done:request.done + self.chunk]
        began = time.perf_counter()
        token = self.model.prefill(piece, keys, values, request.done)
        self.chunk_seconds += time.perf_counter() - began
        self.chunks += len(piece)
        request.done += len(piece)
        if request.cancelled:
            self.filling.remove(request)
            self.free.append(request.slot)
        elif request.done == request.prompt:
            self.filling.remove(request)
            self.keep(request)
            self.decoding.append(request)
            self.give(request, token)

    def keep(self, request):
        tokens = request.tokens[:request.done]
        self.cache.store(self.cache.chain(tokens), tokens, self.keys[request.slot],
                         self.values[request.slot])

    def give(self, request, token):
        request.tokens.append(token)
        request.left -= 1
        over = request.left == 0 or request.cancelled or request.done + 1 >= self.keys.shape[3]
        request.emit(token, over)
        if over:
            self.keep(request)
            self.decoding.remove(request)
            self.free.append(request.slot)

    def decode(self):
        batch = list(self.decoding)
        tokens = self.model.decode([each.tokens[-1] for each in batch], self.keys, self.values,
                                   [each.slot for each in batch], [each.done for each in batch])
        self.steps += 1
        for request, token in zip(batch, tokens):
            request.done += 1
            self.give(request, token)


# ---- the API ------------------------------------------------------------------------------------


def tokenize(text, vocabulary):
    """A word, with what stands before it, is a token; so the tokens of a beginning are the
    beginning of the tokens."""
    return [zlib.crc32(word.encode()) % vocabulary for word in re.findall(r"\s*\S+", text)]


def word_of(token):
    return " " + WORDS[token % len(WORDS)]


class Api:
    def __init__(self, options, engine):
        self.options, self.engine = options, engine
        self.ids = itertools.count()

    def prompt(self, body, chat):
        if chat:
            text = "".join(f"<|{each['role']}|>\n{each['content']}\n" for each in body["messages"])
            return tokenize(text + "<|assistant|>", self.options.vocabulary)
        if isinstance(body["prompt"], str):
            return tokenize(body["prompt"], self.options.vocabulary)
        return [token % self.options.vocabulary for token in body["prompt"]]

    async def complete(self, request):
        chat = request.path.endswith("/chat/completions")
        try:
            body = await request.json()
            tokens = self.prompt(body, chat)
            output = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        except (ValueError, KeyError, TypeError) as error:
            return self.refuse(400, f"the request can't be read: {error!r}")
        if not tokens or output < 1 or len(tokens) + output > self.options.length:
            return self.refuse(400, f"1 to {self.options.length} tokens fit, prompt and answer")
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        work = Request(tokens, output, lambda *token: loop.call_soon_threadsafe(
            queue.put_nowait, token))
        self.engine.submit(work)
        try:
            answer = self.stream if body.get("stream") else self.whole
            return await answer(request, body, chat, work, queue)
        finally:
            work.cancelled = True

    def refuse(self, status, message):
        return web.json_response({"error": {"message": message, "type": "invalid_request_error"}},
                                 status=status)

    def frame(self, chat, choices, usage=None):
        kind = "chat.completion" if chat else "text_completion"
        frame = {"id": f"cmpl-{next(self.ids)}", "object": kind, "created": int(time.time()),
                 "model": self.options.model, "choices": choices}
        return frame if usage is None else frame | {"usage": usage}

    def usage(self, work, count):
        return {"prompt_tokens": work.prompt, "completion_tokens": count,
                "total_tokens": work.prompt + count,
                "prompt_tokens_details": {"cached_tokens": work.cached}}

    async def whole(self, _, __, chat, work, queue):
        text, count, over = "", 0, False
        while not over:
            token, over = await queue.get()
            text, count = text + word_of(token), count + 1
        choice = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return web.json_response(self.frame(chat, [choice], self.usage(work, count)))

    async def stream(self, request, body, chat, work, queue):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(frame):
            frame["object"] += ".chunk" if chat else ""
            await response.write(b"data: " + json.dumps(frame).encode() + b"\n\n")

        count, over = 0, False
        while not over:
            token, over = await queue.get()
            count += 1
            choice = {"index": 0, "finish_reason": "length" if over else None}
            choice |= ({"delta": {"content": word_of(token)}} if chat else
                       {"text": word_of(token)})
            await send(self.frame(chat, [choice]))
        if (body.get("stream_options") or {}).get("include_usage"):
            await send(self.frame(chat, [], self.usage(work, count)))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, _):
        return web.json_response({"object": "list", "data": [
            {"id": self.options.model, "object": "model", "created": 0, "owned_by": "example"}]})

    async def health(self, _):
        return web.json_response({})

    async def reset(self, _):
        self.engine.forget()
        return web.json_response({})

    async def metrics(self, _):
        engine, options = self.engine, self.options
        name = f'model_name="{options.model}"'
        lines = {
            f"vllm:num_requests_running{{{name}}}": len(engine.filling) + len(engine.decoding),
            f"vllm:num_requests_waiting{{{name}}}": len(engine.waiting),
            f"vllm:kv_cache_usage_perc{{{name}}}":
                (options.slots - len(engine.free)) / options.slots,
            f'vllm:cache_config_info{{block_size="{options.block_tokens}",'
            f'num_gpu_blocks="{options.blocks}"}}': 1,
            f"vllm:prefix_cache_queries_total{{{name}}}": engine.asked,
            f"vllm:prefix_cache_hits_total{{{name}}}": engine.found,
            f"example:prefill_tokens_total{{{name}}}": engine.chunks,
            f"example:prefill_seconds_total{{{name}}}": round(engine.chunk_seconds, 6),
            f"example:decode_steps_total{{{name}}}": engine.steps}
        return web.Response(text="".join(f"{key} {value}\n" for key, value in lines.items()))

    def app(self):
        app = web.Application(client_max_size=64 << 20)
        app.add_routes([
            web.post("/v1/chat/completions", self.complete), web.post("/v1/completions",
                                                                      self.complete),
            web.get("/v1/models", self.models), web.get("/health", self.health),
            web.get("/metrics", self.metrics), web.post("/reset_prefix_cache", self.reset)])
        return app


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--port", type=int, default=int(os.environ.get("PORT", "8301")),
        help="(default: the variable PORT, else 8301)")
    add("--model", default="small-decoder", help="the name it goes by")
    add("--kv-events", default="", help="where to publish, tcp://127.0.0.1:5557")
    add("--replay", default="", help="where to repeat, tcp://127.0.0.1:5558")
    add("--blocks", type=int, default=1024, help="of the prefix cache")
    add("--block-tokens", type=int, default=64)
    add("--slots", type=int, default=8, help="sequences at a time")
    add("--length", type=int, default=16384, help="tokens of the longest sequence")
    add("--chunk", type=int, default=2048, help="tokens of a prompt between two decode steps")
    add("--layers", type=int, default=16)
    add("--heads", type=int, default=32)
    add("--kv-heads", type=int, default=8)
    add("--head", type=int, default=128, help="dimension of a head")
    add("--inner", type=int, default=11008, help="dimension of the feed-forward part")
    add("--vocabulary", type=int, default=32000)
    add("--device", default="cuda")
    return parser.parse_args()


def main():
    options = parse()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    publisher = None
    if options.kv_events:
        publisher = kv_events.Publisher(options.kv_events, options.replay)
    engine = Engine(options, device, dtype, publisher)
    # The first kernels of a process are compiled and loaded when they are first needed.
    engine.start()
    warm = threading.Event()
    engine.submit(Request(list(range(min(options.length - 4, options.chunk + 64))), 3,
                          lambda _, over: over and warm.set()))
    warm.wait()
    engine.forget()
    engine.asked = engine.found = engine.chunks = engine.chunk_seconds = 0
    print(f"serves port {options.port}", flush=True)
    web.run_app(Api(options, engine).app(), host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()

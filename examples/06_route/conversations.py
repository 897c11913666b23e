"""Conversations with a model behind OpenAI's API, many at a time, and how long each turn waited for
its first token.

    turns = asyncio.run(talk("http://127.0.0.1:8080", "small-decoder", Talk(seconds=45)))
    print(summary(turns, after_s=10))

Each conversation begins with a context of its own, and each turn sends all that was said before,
as chat clients do. A conversation that has had its turns is followed by a new one. What is said
depends on the seed alone, so two runs ask the same questions; when they are asked depends on how
soon the answers come, as it does with people.
"""

import asyncio
import dataclasses
import json
import random
import statistics
import time

import aiohttp

VOCABULARY = [a + b for a in "ba ce di fo gu ha je ki lo mu".split()
              for b in "n rt sk lm ndo ste vra tch ple".split()]


@dataclasses.dataclass
class Talk:
    seconds: float = 45
    conversations: int = 36  # At a time.
    turns: int = 12
    context_words: int = 4000
    turn_words: int = 400
    answer_tokens: int = 32
    think_s: float = 2.5  # On average, between an answer and the next question.
    seed: int = 1


@dataclasses.dataclass
class Turn:
    at_s: float  # Since the start, when it was asked.
    first_turn: bool
    ttft_ms: float = 0
    total_ms: float = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    replica: str = ""
    error: str = ""


def words(random_source, count):
    return " ".join(random_source.choices(VOCABULARY, k=count))


async def ask(session, url, model, messages, talk, turn):
    """One turn; returns what was answered."""
    body = {"model": model, "messages": messages, "stream": True,
            "max_tokens": talk.answer_tokens, "stream_options": {"include_usage": True}}
    began, answer = time.monotonic(), ""
    async with session.post(url + "/v1/chat/completions", json=body) as response:
        turn.replica = response.headers.get("x-sublet-replica", "")
        if response.status != 200:
            turn.error = f"{response.status}: {(await response.text())[:200]}"
            return answer
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            frame = json.loads(line[6:])
            if "error" in frame:
                turn.error = str(frame["error"])[:200]
                return answer
            for choice in frame["choices"]:
                turn.tokens += 1
                answer += choice["delta"].get("content", "")
                turn.ttft_ms = turn.ttft_ms or (time.monotonic() - began) * 1e3
            if usage := frame.get("usage"):
                turn.prompt_tokens = usage["prompt_tokens"]
                turn.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]
    turn.total_ms = (time.monotonic() - began) * 1e3
    return answer


async def one_after_the_other(session, url, model, talk, place, start, turns):
    """Conversations in one place, until the time is over."""
    for number in range(1000):
        source = random.Random(f"{talk.seed}/{place}/{number}")
        messages = [{"role": "system", "content": words(source, talk.context_words)}]
        # The first ones are met in the midst, so that not all end together.
        left = 1 + place * talk.turns // talk.conversations if number == 0 else talk.turns
        for index in range(left):
            await asyncio.sleep(source.expovariate(1 / talk.think_s))
            if time.monotonic() - start > talk.seconds:
                return
            messages.append({"role": "user", "content": words(source, talk.turn_words)})
            turn = Turn(time.monotonic() - start, index == 0)
            try:
                answer = await ask(session, url, model, messages, talk, turn)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                turn.error, answer = repr(error)[:200], ""
            turns.append(turn)
            messages.append({"role": "assistant", "content": answer})


async def talk_for(url, model, talk):
    turns, start = [], time.monotonic()
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(
            one_after_the_other(session, url, model, talk, place, start, turns)
            for place in range(talk.conversations)))
    return sorted(turns, key=lambda turn: turn.at_s)


def talk(url, model, options):
    return asyncio.run(talk_for(url, model, options))


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else None


def summary(turns, after_s):
    """Of the turns asked later than `after_s`."""
    counted = [turn for turn in turns if turn.at_s >= after_s]
    well = [turn for turn in counted if not turn.error]
    waits = [turn.ttft_ms for turn in well]
    gaps = [(turn.total_ms - turn.ttft_ms) / (turn.tokens - 1) for turn in well if turn.tokens > 1]
    prompt, cached = (sum(getattr(turn, name) for turn in well)
                      for name in ("prompt_tokens", "cached_tokens"))
    last = max((turn.at_s for turn in counted), default=after_s)
    return {"turns": len(counted), "errors": len(counted) - len(well),
            "turns_per_s": len(well) / max(1e-9, last - after_s),
            "first_turns": sum(turn.first_turn for turn in well),
            "ttft_ms_p50": quantile(waits, 0.5), "ttft_ms_p90": quantile(waits, 0.9),
            "ttft_ms_p99": quantile(waits, 0.99),
            "ttft_ms_mean": statistics.fmean(waits) if waits else None,
            "ms_a_token_p50": quantile(gaps, 0.5), "prompt_tokens": prompt,
            "cached_tokens": cached, "hit_ratio": cached / prompt if prompt else None,
            "by_replica": {name: sum(turn.replica == name for turn in well)
                           for name in sorted({turn.replica for turn in well})}}

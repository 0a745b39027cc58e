"""What callers of one engine wait for beside long prompts: their own, cancelled ones, and prompts that begin alike."""

import time
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any

from ...engine.engine import Engine
from ...engine.request import FinishReason, Request, Row, Stopping
from ...engine.sampling import Sampling

_GREEDY = Sampling(temperature=0.0)
_STREAMS, _CANCELLED, _AT_A_TIME = 16, 120, 8


def asked(key: int, prompt: int, new: int, first: int = 5) -> Request:
    """A prompt of so many tokens that begins like no other with another `first`."""
    ids = tuple((first * 7919 + i * 31) % 4000 + 100 for i in range(prompt))
    return Request(key, ids, _GREEDY, Stopping(new, ignore_eos=True))


def cancelled_prompts(engine: Engine, prompt: int) -> dict[str, float]:
    """Seconds that a request for 4 tokens takes alone, and right after 120 long prompts were given 0.1 s each eight."""
    alone = _whole(engine, asked(1, 8, 4, first=1))
    for key in range(0, _CANCELLED, _AT_A_TIME):
        keys = range(1000 + key, 1000 + key + _AT_A_TIME)
        for each in keys:
            engine.add(asked(each, prompt, 4, first=each))
        until = time.perf_counter() + 0.1
        while time.perf_counter() < until:
            engine.step()
        for each in keys:
            engine.abort(each)
    after = _whole(engine, asked(2, 8, 4, first=2))
    return {"prompts": _CANCELLED, "prompt_tokens": prompt, "alone_seconds": alone, "after_seconds": after}


def beside_a_long_prompt(engine: Engine, prompt: int, new: int = 400) -> dict[str, float]:
    """Milliseconds between the tokens of 16 streams, by themselves and with a prompt of this length read beside them.

    Both times the streams go through the same positions; a step is counted while the prompt is being read.
    """
    normal, _ = _streams(engine, new, None)
    beside, read = _streams(engine, new, asked(99, prompt, 1, first=99))
    p99, beside_p99 = quantiles(normal[: len(beside)], n=100)[98], quantiles(beside, n=100)[98]
    return {
        "streams": _STREAMS, "prompt_tokens": prompt, "normal_ms_p99": p99, "beside_ms_p99": beside_p99,
        "ratio": beside_p99 / p99, "normal_ms_p50": median(normal[: len(beside)]), "beside_ms_p50": median(beside),
        "long_prompt_first_token_seconds": sum(beside) / 1e3, "steps_beside": len(beside), "read_whole": read,
    }  # fmt: skip


def _streams(engine: Engine, new: int, long_prompt: Request | None) -> tuple[list[float], bool]:
    """Milliseconds of each step once all streams have begun, up to the long prompt's first token; whether it came."""
    for key in range(_STREAMS):
        engine.add(asked(key, 16, new, first=key))
    while any(sequence.num_new < 5 for sequence in engine.scheduler.running) or len(engine.scheduler.waiting):
        engine.step()
    if long_prompt is not None:
        engine.add(long_prompt)
    taken: list[float] = []
    read = False
    while not read and sum(sequence.decodes for sequence in engine.scheduler.running) == _STREAMS:
        began = time.perf_counter()
        read = any(long_prompt is not None and row.key == long_prompt.key for row in engine.step())
        taken.append((time.perf_counter() - began) * 1e3)
    for key in (*range(_STREAMS), 99):
        engine.abort(key)
    return taken, read


def shared_prompt(engine: Engine, system: int = 1000, own: int = 20) -> dict[str, float]:
    """Seconds to the first token of two requests that begin with the same tokens."""
    common = asked(0, system, 1, first=7).prompt_ids
    found = []
    for key in range(2):
        ids = (*common, *asked(0, own, 1, first=50 + key).prompt_ids)
        found.append(_whole(engine, Request(key, ids, _GREEDY, Stopping(1, ignore_eos=True))))
    return {
        "shared_tokens": system,
        "first_seconds": found[0],
        "second_seconds": found[1],
        "ratio": found[1] / found[0],
    }


def _whole(engine: Engine, request: Request) -> float:
    began = time.perf_counter()
    engine.add(request)
    for row in _rows(engine):
        if row.finish is FinishReason.FAILED:
            raise RuntimeError(row.error)
    return time.perf_counter() - began


def _rows(engine: Engine) -> Iterator[Row]:
    while engine.has_work:
        yield from engine.step()


def all_of(engine: Engine, prompt: int) -> dict[str, Any]:
    """The three, on an engine with 17 slots and more."""
    return {
        "cancelled": cancelled_prompts(engine, prompt),
        "beside_a_long_prompt": beside_a_long_prompt(engine, prompt),
        "shared_prompt": shared_prompt(engine),
    }

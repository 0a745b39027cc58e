"""Continuous batching over slots: requests join and leave between steps. Token ids only.

A step gives every decoding request its next token, or prefills a chunk of one prompt. The slots of running requests
are always 0 .. n-1, the one that prefills last; every slot has one owner, and at idle all are free.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .request import FinishReason, Load, Request, Row, Timing
from .runner import Runner
from .sampler import draw

PREFILL_CHUNK = 512


@dataclass(slots=True)
class _Running:
    """A request in a slot. The ids still to be prefilled, then the last sampled id, are its input."""

    request: Request
    generator: torch.Generator
    arrived: float
    admitted: float
    num_cached: int = 0  # tokens whose keys and values the slot holds
    decoding_since: float | None = None
    last_token: int = -1
    num_new: int = 0
    spent: tuple[float, float] = (0.0, 0.0)  # sums over tokens of the shares of FFN bytes and neurons

    def spend(self, shares: tuple[float, float], tokens: int) -> None:
        self.spent = (self.spent[0] + shares[0] * tokens, self.spent[1] + shares[1] * tokens)

    @property
    def shares(self) -> tuple[float, float] | None:
        """The means so far; None where nothing was told."""
        return (self.spent[0] / self.num_cached, self.spent[1] / self.num_cached) if any(self.spent) else None


@dataclass(slots=True)
class _Waiting:
    request: Request
    arrived: float


class Engine:
    """Turns requests into rows of new tokens, step by step. One bad request never harms another."""

    def __init__(
        self,
        runner: Runner,
        eos_ids: tuple[int, ...] = (),
        seed: int = 0,
        prefill_chunk: int = PREFILL_CHUNK,
        now: Callable[[], float] = time.monotonic,
        watched: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """watched: entered around each forward pass, by whoever wants to know how long it takes."""
        self._runner, self._watched = runner, watched
        self._eos_ids = frozenset(eos_ids)
        self._seed = seed
        self._prefill_chunk = prefill_chunk
        self._now = now
        self._waiting: deque[_Waiting] = deque()
        self._slots: list[_Running] = []  # index = slot
        self._decoded = False  # whether the last step was a decode

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._slots)

    @property
    def load(self) -> Load:
        running = len(self._slots)
        return Load(self._runner.num_slots, self._runner.num_slots - running, running, len(self._waiting))

    def add(self, request: Request) -> None:
        """Puts a request behind the waiting ones."""
        arrived = self._now() if request.arrived_seconds is None else request.arrived_seconds
        self._waiting.append(_Waiting(request, arrived))

    def abort(self, key: int) -> None:
        """Forgets a request and frees its slot; an unknown key is nothing to do."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.request.key != key)
        slot = next((i for i, running in enumerate(self._slots) if running.request.key == key), None)
        if slot is not None:
            self._free(slot)

    def step(self) -> list[Row]:
        """One token for every request that decodes, or a chunk of the prompt that prefills: in turn when both wait.

        They are steps of their own, so that tokens go out before the next prompt is read.
        """
        self._admit()
        prefilling = bool(self._slots) and self._slots[-1].decoding_since is None
        decoding = len(self._slots) - prefilling
        self._decoded = bool(decoding) and not (prefilling and self._decoded)
        return self._decode(decoding) if self._decoded or not prefilling else self._prefill(decoding)

    def _admit(self) -> None:
        """At most one request prefills at a time, in the last slot."""
        busy = any(slot.decoding_since is None for slot in self._slots)
        if busy or not self._waiting or len(self._slots) == self._runner.num_slots:
            return
        waiting = self._waiting.popleft()
        request = waiting.request
        generator = torch.Generator()
        seed = request.sampling.seed
        generator.manual_seed(hash((self._seed, request.key)) & (2**63 - 1) if seed is None else seed & (2**63 - 1))
        self._slots.append(_Running(request, generator, waiting.arrived, self._now()))

    def _prefill(self, slot: int) -> list[Row]:
        running = self._slots[slot]
        prompt, start = running.request.prompt_ids, running.num_cached
        chunk = prompt[start : start + self._prefill_chunk]
        try:
            with self._watched():
                done = self._runner.prefill(slot, chunk, start, running.request.operating_point)
        except Exception as error:  # a fault of this request's forward pass must not end the others
            return [self._failed(slot, error)]
        running.num_cached += len(chunk)
        if done.shares:
            running.spend(done.shares[0], len(chunk))
        if running.num_cached < len(prompt):
            return []
        running.decoding_since = self._now()
        return [self._advance(slot, done.logits)]

    def _decode(self, count: int) -> list[Row]:
        """The next token of slots 0 .. count-1. Finished ones leave last to first, so that moves stay valid."""
        if not count:
            return []
        rows = self._slots[:count]
        try:
            with self._watched():
                done = self._runner.decode(
                    [row.last_token for row in rows],
                    [row.num_cached for row in rows],
                    [row.request.operating_point for row in rows],
                )
        except Exception as error:
            return [self._failed(slot, error) for slot in reversed(range(count))]
        for row in rows:
            row.num_cached += 1
        for row, shares in zip(rows, done.shares, strict=False):
            row.spend(shares, 1)
        logits = done.logits
        greedy = logits.argmax(-1).tolist()
        finite = torch.isfinite(logits).all(-1).tolist()
        return [self._advance(slot, logits[slot], greedy[slot], finite[slot]) for slot in reversed(range(count))]

    def _advance(self, slot: int, logits: Tensor, greedy: int | None = None, finite: bool | None = None) -> Row:
        """Samples the next token of a slot and ends the request where it must end."""
        running = self._slots[slot]
        request = running.request
        if not (bool(torch.isfinite(logits).all()) if finite is None else finite):
            return self._failed(slot, ValueError("the model's logits are not finite"))
        if request.sampling.temperature == 0:
            token = int(logits.argmax()) if greedy is None else greedy
        else:
            token = draw(logits, request.sampling, running.generator)
        if token in request.stopping.stop_token_ids or (token in self._eos_ids and not request.stopping.ignore_eos):
            return self._finished(slot, (), FinishReason.STOP_TOKEN, token)
        running.last_token = token
        running.num_new += 1
        if running.num_new >= request.stopping.max_new_tokens:
            return self._finished(slot, (token,), FinishReason.LENGTH)
        if running.num_cached >= self._runner.max_context:
            return self._finished(slot, (token,), FinishReason.CONTEXT_FULL)
        timing = self._timing(running) if running.num_new == 1 else None
        return Row(request.key, (token,), timing=timing, shares=running.shares)

    def _timing(self, running: _Running) -> Timing:
        """Told with the first token, for those who end a request themselves, and with the last."""
        now = self._now()
        since = now if running.decoding_since is None else running.decoding_since
        return Timing(running.admitted - running.arrived, since - running.admitted, now - since)

    def _finished(self, slot: int, tokens: tuple[int, ...], why: FinishReason, stop_token: int | None = None) -> Row:
        running = self._slots[slot]
        timing = self._timing(running)
        self._free(slot)
        return Row(running.request.key, tokens, why, stop_token, timing=timing, shares=running.shares)

    def _failed(self, slot: int, error: Exception) -> Row:
        key = self._slots[slot].request.key
        self._free(slot)
        return Row(key, finish=FinishReason.FAILED, error=f"{type(error).__name__}: {error}")

    def _free(self, slot: int) -> None:
        """Later requests move down so that slots stay dense, and the one that prefills stays last."""
        last = len(self._slots) - 1
        prefilling = self._slots[last].decoding_since is None
        for source in (last - 1, last) if prefilling else (last,):
            if source > slot:
                self._runner.move(source, slot, self._slots[source].num_cached)
                self._slots[slot], slot = self._slots[source], source
        self._slots.pop()

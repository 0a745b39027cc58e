"""An engine that makes tokens at a given pace, in a real engine process, with a real ledger of blocks. No torch.

python -m moesaic.bench.server.timed_engine PACE_JSON FD PATH OPTIONS_JSON, as moesaic.server.worker.

Its steps end on a grid of the monotonic clock, which all processes of a machine share, and its tokens are the numbers
of those steps: who reads one knows for how long it was on its way.
"""

import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ...engine.blocks import BlockLedger
from ...engine.options import EngineOptions, ModelDescription
from ...engine.queue import FairQueue
from ...engine.request import FinishReason, Limits, Load, Request, Row, Timing
from ...models.dial import Dial
from ...server import worker

VOCABULARY, CONTEXT = 512, 1 << 16
BLOCK_TOKENS = 16
FIRST_TOKEN, NUM_TOKENS = 259, 253  # below are single bytes, of which a text shows nothing until they are whole


@dataclass(frozen=True, slots=True)
class Pace:
    """step, load: seconds. tokens: of an answer in a step. prompt: tokens of all prompts in a step, in equal parts."""

    step: float = 0.01
    tokens: int = 1
    prompt: int = 512
    blocks: int = 1 << 15
    load: float = 0.0


@dataclass(slots=True)
class Answer:
    """A request that waits or runs. blocks: of all that it may come to."""

    request: Request
    left_of_prompt: int
    left: int
    arrived: float
    began: float = 0.0
    blocks: list[int] | None = None

    @property
    def num_prompt(self) -> int:
        """How much of a turn it costs."""
        return len(self.request.prompt_ids)


def step_of(token: int, now: float, step: float) -> float:
    """When the step ended that made this token, by the monotonic clock: the last one of its number."""
    latest = int(now / step)
    return (latest - (latest - (token - FIRST_TOKEN)) % NUM_TOKENS) * step


class TimedEngine:
    """`num_slots` answers at a time; a request holds blocks for all its tokens from its slot to its end."""

    def __init__(self, pace: Pace, num_slots: int) -> None:
        self.pace, self.num_slots = pace, num_slots
        self.ledger = BlockLedger(pace.blocks)
        self.waiting, self.running = FairQueue[Answer](), dict[int, Answer]()
        self.grid = 0  # the number of the last step

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    @property
    def load(self) -> Load:
        running = len(self.running)
        free = self.num_slots - running
        return Load(self.num_slots, free, running, len(self.waiting), self.ledger.total, self.ledger.free)

    def add(self, request: Request) -> None:
        """Puts a request behind those of its caller."""
        arrived = time.monotonic() if request.arrived_seconds is None else request.arrived_seconds
        self.waiting.push(Answer(request, len(request.prompt_ids), request.stopping.max_new_tokens, arrived))

    def abort(self, key: int, choice: int | None = None) -> None:
        """Forgets a request and frees its blocks; an unknown one is nothing to do."""
        self.waiting.remove(lambda answer: answer.request.key == key)
        if key in self.running:
            self._leave(self.running[key])

    def step(self) -> list[Row]:
        """Waits for the end of the step on the grid, and gives each answer whose prompt is read its tokens."""
        self._admit()
        self.grid = max(self.grid + 1, int(time.monotonic() / self.pace.step) + 1)
        time.sleep(max(0.0, self.grid * self.pace.step - time.monotonic()))
        num_reading = sum(answer.left_of_prompt > 0 for answer in self.running.values())
        part = max(1, self.pace.prompt // max(1, num_reading))
        rows = []
        for answer in [*self.running.values()]:
            answer.left_of_prompt = max(0, answer.left_of_prompt - part)
            if not answer.left_of_prompt:
                rows.append(self._advanced(answer))
        return rows

    def _admit(self) -> None:
        while len(self.running) < self.num_slots and (answer := self.waiting.pop()):
            needed = -(-(answer.num_prompt + answer.left) // BLOCK_TOKENS)
            if needed > self.ledger.free:
                self.waiting.push_front(answer)
                return
            answer.blocks, answer.began = self.ledger.take(needed), time.monotonic()
            self.running[answer.request.key] = answer

    def _advanced(self, answer: Answer) -> Row:
        count = min(self.pace.tokens, answer.left)
        tokens = (FIRST_TOKEN + self.grid % NUM_TOKENS,) * count
        answer.left -= count
        if answer.left:
            return Row(answer.request.key, tokens)
        self._leave(answer)
        timing = Timing(answer.began - answer.arrived, 0.0, time.monotonic() - answer.began)
        return Row(answer.request.key, tokens, FinishReason.LENGTH, timing=timing)

    def _leave(self, answer: Answer) -> None:
        del self.running[answer.request.key]
        self.ledger.give(answer.blocks or [])


def build(pace: Pace, options: EngineOptions) -> Any:
    """What worker.run needs of a BuiltEngine; the description's device tells the process."""
    time.sleep(pace.load)
    engine = TimedEngine(pace, options.num_slots)
    description = ModelDescription(
        "timed", 1000, 2000, VOCABULARY, CONTEXT, (), Dial(), f"{os.getpid()}", "float32", 1, options.num_slots
    )
    limits = Limits(VOCABULARY, CONTEXT, options.num_slots, pace.blocks * BLOCK_TOKENS, BLOCK_TOKENS)
    return SimpleNamespace(engine=engine, limits=limits, description=description)


def main() -> int:
    """The entry of the process."""
    pace, descriptor, _, options = sys.argv[1:]
    arguments, connection = EngineOptions(**json.loads(options)), socket.socket(fileno=int(descriptor))
    return worker.run(connection, lambda: build(Pace(**json.loads(pace)), arguments))


if __name__ == "__main__":
    sys.exit(main())

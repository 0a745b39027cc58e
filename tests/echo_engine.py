"""An engine that answers with the prompt, over and over, in a real engine process. No torch.

python tests/echo_engine.py FD PATH OPTIONS_JSON, as moesaic.server.worker. Some first tokens make it misbehave.
"""

import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

from patience import eventually

from moesaic.engine.options import EngineOptions, ModelDescription
from moesaic.engine.request import FinishReason, Limits, Load, Request, Row, Timing, TokenLogprobs
from moesaic.models.dial import Dial
from moesaic.models.errors import CheckpointError
from moesaic.server import worker

CRASH, FAIL = 501, 502  # the process ends; this request fails
HOLD, STALL = 503, 504  # while the file HELD is there, this request makes no more tokens; its step does not end
SPIN, PRINT = 505, 506  # its step does not end and computes, while HELD is there; it prints what passes for a record
FORGED = "2026-01-01 00:00:00,000 ERROR moesaic: forged \x1b[2J"
SECRET = "the weather in Reykjavik"  # what FAIL says, and no client may hear
VOCABULARY, CONTEXT = 512, 512
HELD = "ECHO_HELD"  # environment variable, the file's name; no engine starts while it is there
STEP_SECONDS = 0.001


@dataclass
class Echo:
    """`num_slots` answers at a time, one token each per step; those after a request's first begin further on."""

    num_slots: int
    gate: Path
    tame: bool = False  # whether it never misbehaves

    def __post_init__(self) -> None:
        self.requests: dict[tuple[int, int], tuple[Request, int]] = {}  # by key and choice
        self.num_submitted = 0  # told as the blocks of its load

    @property
    def has_work(self) -> bool:
        return bool(self.requests)

    @property
    def load(self) -> Load:
        running = min(len(self.requests), self.num_slots)
        waiting = len(self.requests) - running
        return Load(self.num_slots, self.num_slots - running, running, waiting, num_blocks=self.num_submitted)

    def add(self, request: Request) -> None:
        self.num_submitted += 1
        self.requests |= {(request.key, choice): (request, 0) for choice in range(request.sampling.n)}

    def abort(self, key: int, choice: int | None = None) -> None:
        gone = {place for place in self.requests if place[0] == key and choice in (None, place[1])}
        self.requests = {place: each for place, each in self.requests.items() if place not in gone}

    def step(self) -> list[Row]:
        time.sleep(STEP_SECONDS)
        running = list(self.requests)[: self.num_slots]
        return [self.advance(*place) for place in running if not self.is_held(place)]

    def is_held(self, place: tuple[int, int]) -> bool:
        request, made = self.requests[place]
        return request.prompt_ids[0] == HOLD and made == 3 and not self.tame and self.gate.exists()

    def advance(self, key: int, choice: int) -> Row:
        request, made = self.requests[key, choice]
        misbehave = request.prompt_ids[0] if request.prompt_ids[0] >= CRASH and made == 3 and not self.tame else 0
        token = request.prompt_ids[(made + choice) % len(request.prompt_ids)]
        self.requests[key, choice] = (request, made + 1)
        if misbehave == CRASH:
            os._exit(3)
        if misbehave == STALL:
            eventually(lambda: not self.gate.exists())
        while misbehave == SPIN and self.gate.exists():
            pass
        if misbehave == PRINT:
            os.write(1, FORGED.encode() + b"\n")
        if misbehave == FAIL:
            return self.finished(key, choice, FinishReason.FAILED, error=SECRET)
        if token in request.stopping.stop_token_ids:
            return self.finished(key, choice, FinishReason.STOP_TOKEN, stop_token_id=token)
        told = told_of(token, request.sampling.logprobs)
        prompt = told_of_prompt(request) if choice == made == 0 else ()
        if made + 1 == request.stopping.max_new_tokens:
            whole = (bytes(4 * VOCABULARY),) * len(request.distributions_at)
            last = {"token_ids": (token,), "logprobs": told, "prompt_logprobs": prompt, "distributions": whole}
            return self.finished(key, choice, FinishReason.LENGTH, **last)
        return Row(key, (token,), choice=choice, logprobs=told, prompt_logprobs=prompt)

    def finished(self, key: int, choice: int, why: FinishReason, **more: Any) -> Row:
        del self.requests[key, choice]
        return Row(key, finish=why, timing=Timing(0.25, 0.5, 0.75), choice=choice, **more)


def told_of(token: int, count: int | None) -> tuple[TokenLogprobs, ...]:
    """Log probabilities that are made up."""
    top = ((token, -0.5), (9, -1.5), (8, -2.5))
    return () if count is None else (TokenLogprobs(token, -0.5, top[:count]),)


def told_of_prompt(request: Request) -> tuple[TokenLogprobs, ...]:
    count = request.sampling.prompt_logprobs
    return tuple(told for token in request.prompt_ids[1:] for told in told_of(token, count))


def build(path: str, options: EngineOptions) -> Any:
    """What worker.run needs of a BuiltEngine. `device` picks how it goes wrong; the description's tells the process."""
    if options.device == "broken":
        raise CheckpointError("config.json names 6 layers and the weights hold 5")
    if options.device == "endless":
        Event().wait()
    if options.device == "gated":
        eventually(Path(options.dtype or "").exists)
    if options.device == "dead":
        raise MemoryError
    if options.device == "once":
        Path(options.dtype or "").touch(exist_ok=False)
    gate = Path(os.environ.get(HELD, "/nowhere"))
    eventually(lambda: not gate.exists())
    engine = Echo(options.num_slots, gate, options.device == "tame")
    description = ModelDescription(
        "echo", 1000, 2000, VOCABULARY, CONTEXT, ("quantize",), Dial(), f"{os.getpid()}", "float32", 1, 8
    )
    return SimpleNamespace(engine=engine, limits=Limits(VOCABULARY, CONTEXT), description=description)


if __name__ == "__main__":
    descriptor, path, options = sys.argv[1:]
    arguments, connection = EngineOptions(**json.loads(options)), socket.socket(fileno=int(descriptor))
    sys.exit(worker.run(connection, lambda: build(path, arguments)))

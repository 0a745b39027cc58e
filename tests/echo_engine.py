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
from types import SimpleNamespace
from typing import Any

from moesaic.engine.options import EngineOptions, ModelDescription
from moesaic.engine.request import FinishReason, Limits, Load, Request, Row, Timing
from moesaic.models.dial import Dial
from moesaic.models.errors import CheckpointError
from moesaic.server import worker

CRASH, FAIL, HANG = 501, 502, 503  # the process ends; this request fails; a step takes a second
SECRET = "the weather in Reykjavik"  # what FAIL says, and no client may hear
VOCABULARY, CONTEXT = 512, 512
STEP_SECONDS = "ECHO_STEP_SECONDS"  # environment variable


@dataclass
class Echo:
    """`num_slots` requests at a time, one token each per step."""

    num_slots: int
    step_seconds: float

    def __post_init__(self) -> None:
        self.requests: dict[int, tuple[Request, int]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.requests)

    @property
    def load(self) -> Load:
        running = min(len(self.requests), self.num_slots)
        return Load(self.num_slots, self.num_slots - running, running, len(self.requests) - running)

    def add(self, request: Request) -> None:
        self.requests[request.key] = (request, 0)

    def abort(self, key: int) -> None:
        self.requests.pop(key, None)

    def step(self) -> list[Row]:
        time.sleep(self.step_seconds)
        return [self.advance(key) for key in list(self.requests)[: self.num_slots]]

    def advance(self, key: int) -> Row:
        request, made = self.requests[key]
        misbehave = request.prompt_ids[0] if request.prompt_ids[0] >= CRASH and made == 3 else 0
        token = request.prompt_ids[made % len(request.prompt_ids)]
        self.requests[key] = (request, made + 1)
        if misbehave == CRASH:
            os._exit(3)
        if misbehave == HANG:
            time.sleep(1.0)
        if misbehave == FAIL:
            return self.finished(key, (), FinishReason.FAILED, error=SECRET)
        if token in request.stopping.stop_token_ids:
            return self.finished(key, (), FinishReason.STOP_TOKEN, token)
        if made + 1 == request.stopping.max_new_tokens:
            return self.finished(key, (token,), FinishReason.LENGTH)
        return Row(key, (token,))

    def finished(
        self, key: int, tokens: tuple[int, ...], why: FinishReason, stop: int | None = None, error: str = ""
    ) -> Row:
        del self.requests[key]
        return Row(key, tokens, why, stop, error, Timing(0.25, 0.5, 0.75))


def build(path: str, options: EngineOptions) -> Any:
    """What worker.run needs of a BuiltEngine. `device` picks how it goes wrong; the description's tells the process."""
    if options.device == "broken":
        raise CheckpointError("config.json names 6 layers and the weights hold 5")
    if options.device == "slow":
        time.sleep(60)
    while options.device == "gated" and not Path(options.dtype or "").exists():
        time.sleep(0.01)
    if options.device == "dead":
        raise MemoryError
    if options.device == "once":
        Path(options.dtype or "").touch(exist_ok=False)
    engine = Echo(options.num_slots, float(os.environ.get(STEP_SECONDS, "0.001")))
    description = ModelDescription(
        "echo", 1000, 2000, VOCABULARY, CONTEXT, ("quantize",), Dial(), f"{os.getpid()}", "float32", 1, 8
    )
    return SimpleNamespace(engine=engine, limits=Limits(VOCABULARY, CONTEXT), description=description)


if __name__ == "__main__":
    descriptor, path, options = sys.argv[1:]
    arguments = EngineOptions(**json.loads(options))
    sys.exit(worker.run(socket.socket(fileno=int(descriptor)), lambda: build(path, arguments)))

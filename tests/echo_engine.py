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

from patience import PATIENCE_SECONDS, eventually

from moesaic.engine.options import EngineOptions, ModelDescription
from moesaic.engine.request import FinishReason, Limits, Load, Request, Row, Timing
from moesaic.models.dial import Dial
from moesaic.models.errors import CheckpointError
from moesaic.server import worker

CRASH, FAIL = 501, 502  # the process ends; this request fails
HOLD, STALL = 503, 504  # while the file HELD is there, this request makes no more tokens; its step does not end
SECRET = "the weather in Reykjavik"  # what FAIL says, and no client may hear
VOCABULARY, CONTEXT = 512, 512
HELD = "ECHO_HELD"  # environment variable, the file's name; no engine starts while it is there
STEP_SECONDS = 0.001


@dataclass
class Echo:
    """`num_slots` requests at a time, one token each per step."""

    num_slots: int
    gate: Path

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
        time.sleep(STEP_SECONDS)
        running = list(self.requests)[: self.num_slots]
        return [self.advance(key) for key in running if not self.is_held(key)]

    def is_held(self, key: int) -> bool:
        request, made = self.requests[key]
        return request.prompt_ids[0] == HOLD and made == 3 and self.gate.exists()

    def advance(self, key: int) -> Row:
        request, made = self.requests[key]
        misbehave = request.prompt_ids[0] if request.prompt_ids[0] >= CRASH and made == 3 else 0
        token = request.prompt_ids[made % len(request.prompt_ids)]
        self.requests[key] = (request, made + 1)
        if misbehave == CRASH:
            os._exit(3)
        if misbehave == STALL:
            eventually(lambda: not self.gate.exists())
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
    if options.device == "endless":
        Event().wait(PATIENCE_SECONDS)
    while options.device == "gated" and not Path(options.dtype or "").exists():
        time.sleep(0.01)
    if options.device == "dead":
        raise MemoryError
    if options.device == "once":
        Path(options.dtype or "").touch(exist_ok=False)
    gate = Path(os.environ.get(HELD, "/nowhere"))
    eventually(lambda: not gate.exists())
    engine = Echo(options.num_slots, gate)
    description = ModelDescription(
        "echo", 1000, 2000, VOCABULARY, CONTEXT, ("quantize",), Dial(), f"{os.getpid()}", "float32", 1, 8
    )
    return SimpleNamespace(engine=engine, limits=Limits(VOCABULARY, CONTEXT), description=description)


if __name__ == "__main__":
    descriptor, path, options = sys.argv[1:]
    arguments = EngineOptions(**json.loads(options))
    sys.exit(worker.run(socket.socket(fileno=int(descriptor)), lambda: build(path, arguments)))

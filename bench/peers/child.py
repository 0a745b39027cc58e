"""A contestant in a process of its own: no other's threads are in it, and it sleeps while others are measured."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from .ctranslate2 import CTranslate2
from .ctranslate2_answers import CTranslate2Answers
from .llama_cpp import LlamaCpp
from .onnx_runtime import OnnxVectors
from .openvino import OpenVino
from .ours import Ours
from .peer import Answer, Peer, Prompts
from .served import OurServed
from .transformers import Transformers
from .transformers_whole import TransformersAnswers, TransformersVectors
from .whole import OurAnswers, OurVectors

OURS, LLAMA_CPP, OPENVINO, CTRANSLATE2, TRANSFORMERS = (
    "moesaic", "llama.cpp", "OpenVINO GenAI", "CTranslate2", "transformers",
)  # fmt: skip
_END_SECONDS = 150.0  # a server of its own has 30 to end, and there is one for each number of threads
_MAKES: dict[str, Any] = {
    OURS: Ours, LLAMA_CPP: LlamaCpp, OPENVINO: OpenVino, CTRANSLATE2: CTranslate2, TRANSFORMERS: Transformers,
    f"{OURS} answers": OurAnswers, f"{OURS} served": OurServed, f"{OURS} vectors": OurVectors,
    f"{CTRANSLATE2} answers": CTranslate2Answers, "ONNX Runtime vectors": OnnxVectors,
    f"{TRANSFORMERS} answers": TransformersAnswers, f"{TRANSFORMERS} vectors": TransformersVectors,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """Who takes part: a model of ours at a tier, or a peer's file in a quantization, over so many rows."""

    name: str
    maker: str
    path: str
    variant: str
    rows: int = 1
    context: int = 512

    def open(self) -> Peer:
        made: Peer = _MAKES[self.maker](self.path, self.variant, self.rows, self.context)
        return made

    def over(self, rows: int, context: int) -> "Entry":
        return replace(self, rows=rows, context=context)


class Child:
    """An entry that was opened elsewhere; it is asked one measurement at a time."""

    def __init__(self, entry: Entry) -> None:
        command = [sys.executable, "-m", __name__, json.dumps(asdict(entry))]
        self.entry = entry
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts: dict[str, Any] = self._line()

    def ask(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        """Decodes num_new tokens after each prompt; with none to decode, the first token of one is what is timed."""
        if self._process.stdin is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(json.dumps([prompts, num_new, threads]) + "\n")
        self._process.stdin.flush()
        return Answer(**self._line())

    def end(self) -> None:
        """With the end of its questions it ends what it has begun."""
        try:
            self._process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _line(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.entry.name} ended; what it said stands above")
        found: dict[str, Any] = json.loads(line)
        return found


def main() -> int:
    """Opens the entry that the command line gives as JSON, tells its facts, and answers line by line."""
    peer = Entry(**json.loads(sys.argv[1])).open()
    with ExitStack() as ending:
        if isinstance(peer, AbstractContextManager):
            ending.enter_context(peer)
        _tell({"version": peer.version, "build": peer.build, "token_bytes": peer.token_bytes})
        for line in sys.stdin:
            prompts, num_new, threads = json.loads(line)
            _tell(asdict(peer.decoded(prompts, num_new, threads) if num_new else peer.first_token(prompts[0], threads)))
    return 0


def _tell(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

"""Ours and peers whose whole calls are timed: what a source is answered with, and what vectors texts have.

Token ids go in, so that nobody's tokenizer is timed.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...engine.build import BuiltEngine, build_engine
from ...engine.options import EngineOptions
from ...engine.request import FinishReason, Request, Stopping
from ...engine.sampling import Sampling
from ...models.checkpoint import open_checkpoint
from ...models.sentences import Pooling
from ...models.version import VERSION
from .peer import Answer, Prompts


class Made(NamedTuple):
    """tokens: of the first answer. vectors: [texts, hidden]."""

    tokens: list[int]
    vectors: list[list[float]]


class Whole(ABC):
    """A model, opened anew for each number of threads. token_bytes: of all of its weights."""

    version: str
    build: str
    token_bytes: int

    def __init__(self) -> None:
        self._by_threads = dict[int, Any]()

    def decoded(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        """Times the whole call; tokens: the first row's new ones, none where the model makes vectors."""
        if threads not in self._by_threads:
            self._by_threads[threads] = self.opened(threads)
        began = time.perf_counter()
        made = self.called(self._by_threads[threads], prompts, num_new)
        return Answer(time.perf_counter() - began, made.tokens, made.vectors)

    def first_token(self, prompt: Sequence[int], threads: int) -> Answer:
        return self.decoded([prompt], 1, threads)

    @abstractmethod
    def opened(self, threads: int) -> Any: ...

    @abstractmethod
    def called(self, opened: Any, prompts: Prompts, num_new: int) -> Made:
        """num_new: tokens of each answer, exactly, chosen greedily; nothing to a model that makes vectors."""


class OurWhole(Whole):
    """The engine that serves, without the network."""

    def __init__(self, path: str, kind: str, rows: int, context: int) -> None:
        super().__init__()
        self._path, self._rows = path, rows
        self.version, self.token_bytes = VERSION, open_checkpoint(path).weight_bytes
        how = self.opened(1).description.without_program
        self.build = f"module by module, since {how}" if how else "a step is one call"

    def opened(self, threads: int) -> BuiltEngine:
        return build_engine(self._path, EngineOptions(threads=threads, num_slots=self._rows))

    def called(self, opened: BuiltEngine, prompts: Prompts, num_new: int) -> Made:
        for key, ids in enumerate(prompts):
            opened.engine.add(self._request(key, ids, num_new))
        tokens, vectors, ended = list[int](), dict[int, list[float]](), 0
        while opened.engine.has_work:
            for row in opened.engine.step():
                tokens += row.token_ids if row.key == 0 else ()
                ended += row.finish in (FinishReason.LENGTH, FinishReason.EMBEDDED)
                if row.embedding:
                    vectors[row.key] = [*row.embedding]
        if ended != len(prompts):
            raise RuntimeError(f"{len(prompts) - ended} of {len(prompts)} texts were not answered in full")
        return Made(tokens, [vectors[key] for key in sorted(vectors)])

    @abstractmethod
    def _request(self, key: int, ids: Sequence[int], num_new: int) -> Request: ...


class OurAnswers(OurWhole):
    def _request(self, key: int, ids: Sequence[int], num_new: int) -> Request:
        return Request(key, tuple(ids), Sampling(temperature=0), Stopping(num_new, ignore_eos=True))


class OurVectors(OurWhole):
    def _request(self, key: int, ids: Sequence[int], num_new: int) -> Request:
        return Request(key, tuple(ids), pooling=Pooling())

"""Scores between stages: each model on the recipe's evaluation text beside the original, kept by content hash.

What is kept is whole, the sums of each document included, so that intervals need no second scoring.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

from ..evaluate.compare import verdict
from ..evaluate.measure import compare_answers, score_task
from ..evaluate.plan import ORIGINAL, Opened, Plan
from ..evaluate.results import as_json, comparison_json
from ..evaluate.score import Memory, Score, score_documents
from ..evaluate.tasks.files import read_task
from ..evaluate.tasks.items import TaskScore
from ..evaluate.texts import embedded_text, encode_documents, read_documents
from ..kernels.cache import cache_folder
from ..models.checkpoint import Checkpoint
from ..models.devices import choose_device, memory_named
from ..models.errors import CheckpointError
from ..models.files import write_files
from ..models.progress import Progress
from ..models.spec import FULL
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .identity import code_sha256, content_sha256, dense_sha256
from .material import load_exact
from .recipe import DEVICE_WAY_OUT, EvaluationSettings
from .stage_cache import on_other

_FP32_BYTES, _MEMORY_BYTES = 4, 256 << 20  # 116,000 tokens of 576 numbers
_SOURCES = ("evaluate", "engine", "models", "kernels")


class Judge:
    """Scores of models that came from one original. Raises TextError for text that cannot be scored.

    encoded: the token ids of the documents, cut as they are scored; documents: what those spell. device: where models
    are scored, by default a GPU where there is one.
    """

    def __init__(
        self, original: Checkpoint, wanted: EvaluationSettings, progress: Progress, device: torch.device | None = None
    ) -> None:
        self._original, self._progress, self.device = original, progress, device or choose_device(None)
        files: Sequence[str | Path] = wanted.text or [embedded_text()]
        documents = [each for file in files for each in read_documents([file], wanted.documents)]
        self._tokenizer = Tokenizer.open(original.path)
        self.encoded = encode_documents(documents, self._tokenizer, wanted.truncate, original.spec.vocab_size)
        folder = wanted.tasks_dir
        self._tasks = [read_task(name, folder, wanted.limit) for name in wanted.tasks]

    @property
    def documents(self) -> list[str]:
        return [self._tokenizer.decode(ids) for ids in self.encoded]

    def original_score(self) -> Score:
        """The original's own score."""
        identity = [dense_sha256(self._original), FULL, None]
        return self.score("the original", identity, self.load_original, compared=False)

    def scores(self, what: str, checkpoint: Checkpoint, tiers: Sequence[str]) -> dict[str, Score]:
        """The score at each of these tiers, compared with the original."""
        loaded = cache(lambda: load_exact(checkpoint, self.device))

        def at(tier: str) -> Transformer:
            model = loaded()
            model.operating_point = checkpoint.operating_point(tier)
            return model

        found = {}
        for tier in tiers:
            model_sha256 = dense_sha256(checkpoint) if tier == FULL else content_sha256(checkpoint)
            name = what if tier == FULL else f"{what}, {tier}"
            identity = [model_sha256, tier, content_sha256(self._original)]
            found[tier] = self.score(name, identity, partial(at, tier))
        return found

    def score_at(self, what: str, checkpoint: Checkpoint, operating_point: float) -> Score:
        """The score anywhere on the dial, compared with the original."""

        def make() -> Transformer:
            model = load_exact(checkpoint, self.device)
            model.operating_point = operating_point
            return model

        if not operating_point:
            return self.scores(what, checkpoint, [FULL])[FULL]
        return self.score(what, [content_sha256(checkpoint), operating_point, content_sha256(self._original)], make)

    def tasks(self, finished: Checkpoint, seed: int = 0) -> dict[str, dict[str, Any]]:
        """Of each task the figures of the original, and of each tier with its difference from that."""
        identity = [content_sha256(finished), content_sha256(self._original), repr(self._tasks), seed]
        return self._kept(identity, lambda: self._answered(finished, seed)) if self._tasks else {}

    def _answered(self, finished: Checkpoint, seed: int) -> dict[str, dict[str, Any]]:
        opened = Opened(Plan(finished.path, self._original.path))
        models = {ORIGINAL: self._against}
        loaded = load_exact(finished, self.device)
        for tier in finished.tiers:
            models[tier] = copy(loaded)  # over the same weights
            models[tier].operating_point = finished.operating_point(tier)
        with memory_named("answering tasks", DEVICE_WAY_OUT):
            return {task.name: _figures(score_task(task, models, opened, self._progress), seed) for task in self._tasks}

    def score(
        self, what: str, identity: Sequence[Any], make: Callable[[], Transformer], compared: bool = True
    ) -> Score:
        """The score of the model that `make` gives, at the tier that it is set to; from an earlier run where one made
        it of an equal identity: plain values that tell this model from every other."""

        def scored() -> dict[str, Any]:
            against, memory = (self._against, self._memory) if compared else (None, None)
            say = partial(self._progress, f"scoring {what}")
            try:
                with memory_named(f"scoring {what}", DEVICE_WAY_OUT):
                    return score_documents(make(), self.encoded, against, say, memory=memory).to_json()
            except CheckpointError as error:
                raise CheckpointError(f"scoring {what}: {error}") from None

        return Score.from_json(self._kept([*identity, self.text_sha256], scored))

    def _kept(self, identity: Sequence[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, or gave in an earlier run."""
        parts = [*identity, code_sha256(*_SOURCES), *on_other(self.device).values()]
        file = cache_folder() / "scores" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.json"
        if not file.exists():
            write_files(file.parent, {file.name: json.dumps(make()).encode()})
        found: dict[str, Any] = json.loads(file.read_bytes())
        return found

    def load_original(self) -> Transformer:
        """The original, where models are scored."""
        return load_exact(self._original, self.device)

    @cached_property
    def _against(self) -> Transformer:
        return self.load_original()

    @cached_property
    def _memory(self) -> Memory | None:
        """What the original makes of the text, where it is not too much to keep."""
        states = sum(map(len, self.encoded)) * self._original.spec.hidden_size
        return {} if states * _FP32_BYTES <= _MEMORY_BYTES else None

    @cached_property
    def text_sha256(self) -> str:
        """Equal for equal token ids."""
        return hashlib.sha256(json.dumps(self.encoded).encode()).hexdigest()


def _figures(scores: Mapping[str, TaskScore], seed: int) -> dict[str, Any]:
    """Plain values, by whose they are."""
    original, found = scores[ORIGINAL], {name: dict[str, Any](score.summary()) for name, score in scores.items()}
    for name, score in scores.items():
        held = compare_answers(score, original, seed) if name != ORIGINAL else None
        if held:
            found[name] |= {**comparison_json(held), "verdict": verdict("score", held)}
    plain: dict[str, Any] = as_json(found)
    return plain

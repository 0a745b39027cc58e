"""Scores between stages: each model on the recipe's evaluation text beside the original, kept by content hash."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from ..evaluate.score import encode_documents, score_documents
from ..evaluate.texts import embedded_text, read_documents
from ..kernels.native import cache_folder
from ..models.checkpoint import Checkpoint, load_transformer
from ..models.spec import FULL
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .identity import code_sha256, content_sha256, dense_sha256
from .material import Progress
from .recipe import Evaluation

Figures = Mapping[str, float | int]
_SOURCES = ("evaluate", "engine", "models", "kernels")


class Judge:
    """Scores of models that came from one original. Raises TextError for text that cannot be scored."""

    def __init__(self, original: Checkpoint, wanted: Evaluation, progress: Progress) -> None:
        self._original, self._progress = original, progress
        documents = read_documents(wanted.text or [embedded_text()], wanted.documents)
        tokenizer = Tokenizer.open(original.path)
        self._encoded = encode_documents(documents, tokenizer, wanted.truncate, original.spec.vocab_size)

    def original(self) -> Figures:
        """The original's own score."""
        return self._scored("the original", self._original, [FULL], None)[FULL]

    def tiers(self, what: str, checkpoint: Checkpoint, tiers: Sequence[str]) -> dict[str, Figures]:
        """The score at each of these tiers, compared with the original."""
        return self._scored(what, checkpoint, tiers, self._original)

    def _scored(
        self, what: str, checkpoint: Checkpoint, tiers: Sequence[str], original: Checkpoint | None
    ) -> dict[str, Figures]:
        files = {tier: self._file(checkpoint, tier, original) for tier in tiers}
        missing = [tier for tier, file in files.items() if not file.exists()]
        model = load_transformer(checkpoint, torch.device("cpu")) if missing else None
        for tier in missing:
            self._write(files[tier], self._score(what, model, checkpoint.tier_index(tier), tier, original is not None))
        return {tier: json.loads(file.read_bytes()) for tier, file in files.items()}

    def _score(self, what: str, model: Transformer | None, index: int, tier: str, compared: bool) -> Figures:
        if model is None:
            raise RuntimeError("a model that is scored is loaded")
        model.tier = index
        name = f"scoring {what}" if tier == FULL else f"scoring {what}, {tier}"
        against = self._against if compared else None
        return score_documents(model, self._encoded, against, lambda n, of: self._progress(name, n, of)).summary()

    @cached_property
    def _against(self) -> Transformer:
        return load_transformer(self._original, torch.device("cpu"))

    def _file(self, checkpoint: Checkpoint, tier: str, original: Checkpoint | None) -> Path:
        model = dense_sha256(checkpoint) if tier == FULL else content_sha256(checkpoint)
        parts = [model, tier, original and content_sha256(original), self._text_sha256]
        name = hashlib.sha256(json.dumps([*parts, code_sha256(*_SOURCES)]).encode()).hexdigest()
        return cache_folder() / "scores" / f"{name}.json"

    @cached_property
    def _text_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self._encoded).encode()).hexdigest()

    def _write(self, file: Path, figures: Figures) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:
            json.dump(figures, temporary)
        os.replace(temporary.name, file)

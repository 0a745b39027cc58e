"""The text that stages look at: windows of token ids, drawn once for a recipe, and what is answered to them."""

import hashlib
from functools import cached_property
from importlib import resources
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from ..evaluate.texts import encode_documents, read_documents
from ..models.checkpoint import Checkpoint
from ..models.errors import TextError
from ..models.seeds import SEED_LIMIT
from ..models.tokenizer import Tokenizer
from .answers import SourceAnswers
from .strict import Strict
from .windows import Windows

EMBEDDED_TEXT = "calibration.txt"


class CalibrationSettings(Strict):
    """text: files, or the text that ships when none is named; `sequences` windows of `length` tokens are drawn."""

    text: list[str] = []
    sequences: int = Field(default=64, ge=1)
    length: int = Field(default=256, ge=2)
    seed: int = Field(default=0, ge=0, lt=SEED_LIMIT)


def embedded_text() -> Path:
    """Passages of old books and Python enhancement proposals, public domain, that ship; see data/README.md."""
    return Path(str(resources.files(__package__) / "data" / EMBEDDED_TEXT))


class Calibration:
    """The windows of a recipe for a model: whole ones of its documents, in a drawn order. Raises TextError.

    Those that an encoder reads begin and end as its texts do, by the tokens that its tokenizer adds to a text.
    """

    def __init__(self, settings: CalibrationSettings, source: Checkpoint) -> None:
        self.settings, self._source = settings, source
        self.length = min(settings.length, (source.spec.encoder or source.spec).max_context)

    @property
    def names(self) -> str:
        """The files, for people."""
        return ", ".join(Path(file).name for file in self.settings.text or [EMBEDDED_TEXT])

    @cached_property
    def windows(self) -> Tensor:
        """int64 [sequences, length], fewer where the text has no more."""
        pool = self._pool
        return pool[: self.settings.sequences]

    def looked_at(self, device: torch.device) -> Windows:
        """What goes through a model: the windows, or where an encoder reads them, what the model answers to each."""
        return self.answers.to_all(self.windows, device) if self._source.spec.reads_sources else self.windows

    @cached_property
    def answers(self) -> SourceAnswers:
        """What the model as it came answers to windows that its encoder reads."""
        return SourceAnswers(self._source)

    def stream(self, tokens: int) -> Tensor:
        """Windows [n, length] of at least so many tokens, for training: those of `windows` and on, then again."""
        needed = -(-tokens // self.length)
        pool = self._pool
        return torch.cat([pool] * -(-needed // len(pool)))[:needed]

    @cached_property
    def sha256(self) -> str:
        """Equal for equal windows in the same order, and as many of them for those who do not train."""
        return hashlib.sha256(self._pool.numpy().tobytes() + str(len(self.windows)).encode()).hexdigest()

    @cached_property
    def _pool(self) -> Tensor:
        documents = read_documents(self.settings.text or [embedded_text()])
        tokenizer = Tokenizer.open(self._source.path)
        encoded = encode_documents(documents, tokenizer, None, self._source.spec.vocab_size)
        by_encoder = not self._source.spec.causal or self._source.spec.reads_sources
        before, behind = tokenizer.around if by_encoder else ((), ())
        length = self.length - len(before) - len(behind)
        bodies = [ids[len(before) : len(ids) - len(behind)] for ids in encoded]
        whole = [
            [*before, *ids[begin : begin + length], *behind]
            for ids in (bodies if length > 0 else ())
            for begin in range(0, len(ids) - length + 1, length)
        ]
        if not whole:
            longest = max(map(len, encoded))
            raise TextError(
                f"calibration: no document of {self.names} has {self.length} tokens, the longest has {longest}; "
                "give longer text or lower calibration.length"
            )
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.settings.seed))
        return torch.tensor(whole)[order]

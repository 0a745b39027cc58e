"""Text that a model is read on: runs of consecutive tokens, in batches of equal length, as many as were asked for."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...evaluate.texts import encode_documents, read_documents
from ...models.checkpoint import Checkpoint
from ...models.errors import SetupError
from ...models.tokenizer import Tokenizer
from ..calibration import EMBEDDED_TEXT, embedded_text
from ..walk import BATCH_TOKENS
from ..windows import batched

LENGTH = 256  # of a passage, where the context and the text hold as much


@dataclass(frozen=True, slots=True)
class Passages:
    """pieces: token ids of each passage, in the order of the text; available: the tokens of the whole text."""

    names: str
    pieces: tuple[tuple[int, ...], ...]
    available: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pieces))

    def batches(self) -> Iterator[Tensor]:
        """int64 [passages, length], one forward pass each; those of equal length together, the longest first."""
        by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for piece in self.pieces:
            by_length[len(piece)].append(piece)
        for length in sorted(by_length, reverse=True):
            yield from (batch.ids for batch in batched(torch.tensor(by_length[length]), BATCH_TOKENS))


def read_passages(checkpoint: Checkpoint, files: Sequence[str | Path], tokens: int) -> Passages:
    """Reads at most `tokens` tokens of some files, or of the calibration text that ships where none is named.

    Where the text has more, its passages are taken at even distances, so that all of it is seen. Raises TextError
    for text that is missing or empty, CheckpointError without a tokenizer, SetupError for fewer than 2 tokens.
    """
    if tokens < 2:
        raise SetupError(f"tokens is {tokens}, it must be at least 2: one to read and one before it")
    documents = read_documents(files or [embedded_text()])
    encoded = encode_documents(documents, Tokenizer.open(checkpoint.path), None, checkpoint.spec.vocab_size)
    length = min(LENGTH, checkpoint.spec.max_context, tokens)
    pieces = [tuple(ids[begin : begin + length]) for ids in encoded for begin in range(0, len(ids), length)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    names = ", ".join(Path(file).name for file in files or [EMBEDDED_TEXT])
    return Passages(names, tuple(_spread(pieces, max(1, tokens // length), tokens)), sum(map(len, encoded)))


def _spread(pieces: Sequence[tuple[int, ...]], count: int, tokens: int) -> Sequence[tuple[int, ...]]:
    """All pieces where they fit, else `count` of them at even distances: no piece is longer than tokens / count."""
    if sum(map(len, pieces)) <= tokens:
        return pieces
    return [pieces[i * len(pieces) // count] for i in range(min(count, len(pieces)))]

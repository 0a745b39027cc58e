"""The training text as token ids in one file, made once; and which windows of it a step reads. No torch.

A folder `corpus` holds train.bin and valid.bin (uint16, each document begun by <|endoftext|>), the tokenizer, and
corpus.json with what it was made from.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import yaml

from ...evaluate.texts import read_documents
from ...models.errors import SetupError, TextError
from ...models.files import new_directory
from .description import Description
from .vocabulary import END_ID, save_tokenizer, train_tokenizer

Say = Callable[[str], None]
Ids = np.ndarray[Any, np.dtype[np.uint16]]
Windows = np.ndarray[Any, np.dtype[np.int64]]

_PIECE_CHARACTERS = 200_000
_PIECES = 32  # encoded at once: some MB of text, some hundred MB of the library's objects
_UNSTATED = "licence not stated"


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What a text file gave: its tokens are those that were packed of it."""

    name: str
    num_bytes: int
    tokens: int
    licence: str


class Corpus:
    """Packed text, opened. train and valid: memory-mapped uint16 [tokens]."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "corpus.json").read_text())
        self.folder = folder
        self.vocabulary: int = facts["vocabulary"]
        self.texts = tuple(TextFacts(**text) for text in facts["train"])
        self.valid_texts = tuple(TextFacts(**text) for text in facts["valid"])
        self.train = _mapped(folder / "train.bin")
        self.valid = _mapped(folder / "valid.bin")

    def names(self) -> list[tuple[str, int]]:
        """The training files, as they can be compared with others."""
        return sorted((text.name, text.num_bytes) for text in self.texts)

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that packed it."""
        return tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))


def names_of(files: Sequence[Path]) -> list[tuple[str, int]]:
    """What `Corpus.names` says of the text made from these files. A missing file is a TextError."""
    try:
        return sorted((file.name, file.stat().st_size) for file in files)
    except OSError as error:
        raise TextError(f"there is no text file {str(error.filename)!r}") from None


def pack(
    folder: Path,
    description: Description,
    files: Sequence[Path],
    valid_files: Sequence[Path],
    max_bytes: int | None,
    say: Say,
) -> Corpus:
    """Trains the tokenizer, encodes all text and leaves it in `folder`, whole or not at all.

    With `max_bytes`, train.bin takes whole documents in an order drawn by the seed until it is that large. Raises
    TextError for text that is missing, empty, not UTF-8, or too little for one window.
    """
    texts = [(file, document) for file in files for document in read_documents([file])]
    valid = [(file, document) for file in valid_files for document in read_documents([file])]
    random.Random(description.seed).shuffle(texts)
    say(f"{len(texts):,} documents, {sum(len(text) for _, text in texts):,} characters; training the tokenizer")
    tokenizer = train_tokenizer([text for _, text in texts], description.vocabulary)
    with new_directory(folder) as partial:
        limit = None if max_bytes is None else max_bytes // 2
        counts = _write_ids(partial / "train.bin", tokenizer, texts, limit, say)
        if sum(counts.values()) < description.context + 1:
            raise TextError(
                f"the text has {sum(counts.values()):,} tokens, fewer than a window of "
                f"{description.context + 1:,}; give more text or a smaller context"
            )
        valid_counts = _write_ids(partial / "valid.bin", tokenizer, valid, None, say)
        facts = {
            "vocabulary": description.vocabulary,
            "train": _facts(files, counts),
            "valid": _facts(valid_files, valid_counts),
        }
        (partial / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n")
        save_tokenizer(tokenizer, partial, description.context)
    return Corpus(folder)


def _write_ids(
    out: Path, tokenizer: tokenizers.Tokenizer, texts: Sequence[tuple[Path, str]], limit: int | None, say: Say
) -> dict[Path, int]:
    """Appends <|endoftext|> and the ids of each document; tokens by file. Stops at `limit` tokens."""
    counts: dict[Path, int] = {}
    total = 0
    pieces = [(file, piece, i == 0) for file, text in texts for i, piece in enumerate(_pieces(text))]
    with out.open("wb") as stream:
        for begin in range(0, len(pieces), _PIECES):
            batch = pieces[begin : begin + _PIECES]
            encoded = tokenizer.encode_batch_fast([piece for _, piece, _ in batch], add_special_tokens=False)
            for (file, _, is_first), encoding in zip(batch, encoded, strict=True):
                ids = ([END_ID] if is_first else []) + encoding.ids
                ids = ids if limit is None else ids[: limit - total]
                stream.write(np.array(ids, dtype="<u2").tobytes())
                counts[file] = counts.get(file, 0) + len(ids)
                total += len(ids)
            if total == limit:
                break
            if begin // _PIECES % 20 == 19:
                say(f"packed {total:,} tokens, {(begin + len(batch)) / len(pieces):.0%} of {out.stem}")
    return counts


def _pieces(text: str) -> list[str]:
    """A long text cut at line ends, so that one file without documents does not fill the memory."""
    pieces = []
    while len(text) > _PIECE_CHARACTERS:
        cut = text.rfind("\n", 1, _PIECE_CHARACTERS)
        cut = _PIECE_CHARACTERS if cut < 0 else cut
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


def _facts(files: Sequence[Path], counts: dict[Path, int]) -> list[dict[str, Any]]:
    licences: dict[str, str] = yaml.safe_load((resources.files(__package__) / "licences.yaml").read_text())
    facts = []
    for file in files:
        licence = next((text for pattern, text in licences.items() if fnmatch(file.name, pattern)), _UNSTATED)
        facts.append(asdict(TextFacts(file.name, file.stat().st_size, counts.get(file, 0), licence)))
    return facts


def _mapped(file: Path) -> Ids:
    if file.stat().st_size == 0:
        return np.empty(0, dtype="<u2")
    return np.memmap(file, dtype="<u2", mode="r")


class WindowOrder:
    """Which windows a step reads: every epoch reads each once, in an order and with a shift drawn by seed and epoch.

    A pure function of the step, so that a run that resumes reads on where it was.
    """

    def __init__(self, ids: Ids, context: int, batch: int, seed: int) -> None:
        self._ids, self._context, self._batch, self._seed = ids, context, batch, seed
        self._num_windows = max((len(ids) - 1) // context - 1, 1)  # one less: room for the shift
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)
        if len(ids) <= context:
            raise SetupError(f"the packed text has {len(ids):,} tokens, fewer than a window of {context + 1:,}")

    def rows(self, step: int) -> Windows:
        """The batch of a step: [batch, context + 1], the last column being the last target."""
        first = step * self._batch
        starts = [self._start(number) for number in range(first, first + self._batch)]
        return np.stack([self._ids[start : start + self._context + 1] for start in starts]).astype(np.int64)

    def _start(self, number: int) -> int:
        epoch, place = divmod(number, self._num_windows)
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed, epoch])
            room = min(self._context, len(self._ids) - 1 - self._num_windows * self._context)
            shift = int(generator.integers(0, room + 1))
            self._starts = generator.permutation(self._num_windows) * self._context + shift
            self._epoch = epoch
        return int(self._starts[place])


def even_windows(ids: Ids, context: int, count: int) -> Windows:
    """Up to `count` windows spread evenly over a text: [windows, context + 1]; none where it is too short."""
    available = (len(ids) - 1) // context
    numbers = [i * available // count for i in range(count)] if available > count else range(max(available, 0))
    rows = [ids[number * context : number * context + context + 1] for number in numbers]
    return np.stack(rows).astype(np.int64) if rows else np.empty((0, context + 1), dtype=np.int64)

"""Texts to score: UTF-8 files, plain or compressed, cut into documents."""

import gzip
import json
import lzma
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ..models.errors import CheckpointError, TextError
from ..models.tokenizer import Tokenizer, is_unicode

SEPARATOR = "<|endoftext|>"
EMBEDDED_TEXT = "black_beauty.txt"


def embedded_text() -> Path:
    """A public-domain text that ships: chapters of Black Beauty (Anna Sewell, 1877)."""
    return Path(str(resources.files(__package__) / "data" / EMBEDDED_TEXT))


def read_documents(files: Sequence[str | Path], limit: int | None = None) -> list[str]:
    """The documents of text files, in order, at most `limit`; those without a word are left out.

    A line `<|endoftext|>` ends a document; in `.jsonl` each line is one, in its field `text`. Raises TextError.
    """
    documents: list[str] = []
    for name in files:
        documents += [text for text in _documents(Path(name)) if text.strip()]
        if limit is not None and len(documents) >= limit:
            return documents[:limit]
    if not documents:
        raise TextError(f"there is no text in {', '.join(map(str, files))}; give a file with at least one document")
    return documents


def encode_documents(
    documents: Sequence[str], tokenizer: Tokenizer, truncate: int | None = None, vocab_size: int | None = None
) -> list[list[int]]:
    """Token ids of each document, with the begin token where there is one, cut at `truncate` tokens.

    Raises TextError where no document leaves a token to predict, CheckpointError for an id from `vocab_size` on.
    """
    encoded = [tokenizer.encode(document)[:truncate] for document in documents]
    check_ids(encoded, vocab_size)
    return encoded


def check_ids(encoded: Sequence[Sequence[int]], vocab_size: int | None) -> None:
    """Raises TextError where nothing can be predicted, CheckpointError for an id from `vocab_size` on."""
    if not any(len(ids) > 1 for ids in encoded):
        raise TextError(f"none of the {len(encoded)} documents has two tokens; give longer text or a larger truncate")
    largest = max(max(ids, default=0) for ids in encoded)
    if vocab_size is not None and largest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer gives the id {largest}, the model's vocabulary has {vocab_size}; "
            "tokenizer.json is of another model"
        )


def _documents(file: Path) -> list[str]:
    text = read_text(file)
    if ".jsonl" in file.suffixes:
        return [_field(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    documents: list[str] = []
    current: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.strip() == SEPARATOR:
            documents.append("".join(current).strip())
            current = []
        else:
            current.append(line)
    return [*documents, "".join(current).strip()]


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, unpacked by its suffix. Raises TextError."""
    try:
        raw = file.read_bytes()
        unpack = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(file.suffix)
        return (unpack(raw) if unpack else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise TextError(f"there is no text file {str(file)!r}") from None
    except UnicodeDecodeError as error:
        raise TextError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from None
    except (OSError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise TextError(f"{file} cannot be read: {error}") from None


def _field(file: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TextError(f"{file}, line {number}: not a JSON object with a field 'text'") from None
    if not isinstance(text, str):
        raise TextError(f"{file}, line {number}: 'text' is {type(text).__name__}, it must be a string")
    if not is_unicode(text):
        raise TextError(f"{file}, line {number}: 'text' holds half of a surrogate pair, which is no character")
    return text

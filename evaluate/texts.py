"""Texts to score: UTF-8 files, plain or compressed, cut into documents."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..models.errors import CheckpointError, TextError
from ..models.tokenizer import Tokenizer, is_unicode

SEPARATOR = "<|endoftext|>"
EMBEDDED_TEXT = "black_beauty.txt"
_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {".xz": lzma.decompress, ".gz": gzip.decompress}
_NOT_UNPACKED = (".zst", ".zstd", ".bz2", ".zip", ".7z", ".lz4", ".lzma", ".br", ".tar", ".tgz", ".txz", ".rar", ".z")
JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx")


def shipped_texts() -> dict[str, Path]:
    """The texts that come with the package, by the names under which they may be asked for."""
    root = Path(str(resources.files("moesaic")))
    files = [file for folder in ("evaluate", "compress") for file in sorted((root / folder / "data").glob("*.txt"))]
    return {file.stem: file for file in files}


def embedded_text() -> Path:
    """A public-domain text that ships: chapters of Black Beauty (Anna Sewell, 1877)."""
    return Path(str(resources.files(__package__) / "data" / EMBEDDED_TEXT))


def read_documents(files: Sequence[str | Path], limit: int | None = None) -> list[str]:
    """The documents of text files, in order, at most `limit`; those without a word are left out.

    A line `<|endoftext|>` ends a document; in `.jsonl` and `.ndjson` each line is one, in its field `text`; `.json`
    holds such lines or a list. What a file holds is said by its suffix, in capitals too. Where there is no such file,
    the name of a text that ships will do: `shipped_texts`. Raises TextError.
    """
    documents: list[str] = []
    for name in files:
        documents += [text for text in _documents(_found(name)) if text.strip()]
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


def kind_of(file: Path) -> str:
    """The suffix that says what a file holds, in small letters; that of its compression does not."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _UNPACK:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, unpacked by its suffix. Raises TextError."""
    packed = file.suffix.lower()
    if packed in _NOT_UNPACKED:
        raise TextError(f"{file} is packed as {packed}, which is not read; unpack it, or pack it as .xz or .gz")
    try:
        raw = file.read_bytes()
        unpack = _UNPACK.get(packed)
        return (unpack(raw) if unpack else raw).decode("utf-8-sig")
    except FileNotFoundError:
        known = ", ".join(shipped_texts())
        raise TextError(
            f"there is no text file {str(file)!r}; give a path, or the name of one that ships: {known}"
        ) from None
    except UnicodeDecodeError as error:
        raise TextError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from None
    except (OSError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise TextError(f"{file} cannot be read: {error}") from None


def _found(name: str | Path) -> Path:
    return Path(name) if Path(name).exists() else shipped_texts().get(str(name), Path(name))


def _documents(file: Path) -> list[str]:
    kind = kind_of(file)
    if kind in _TABLES:
        raise TextError(f"{file} is a table, which has no documents; write its texts as .jsonl, or as prose in a .txt")
    text = read_text(file)
    if kind in JSON_LINES:
        return _of_lines(file, text)
    if kind == ".json":
        return _of_json(file, text)
    documents: list[str] = []
    current: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.strip() == SEPARATOR:
            documents.append("".join(current).strip())
            current = []
        else:
            current.append(line)
    return [*documents, "".join(current).strip()]


def _of_lines(file: Path, text: str) -> list[str]:
    """Reads lines, each an object with a text."""
    lines = ((f"{file}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return [_field(where, _parsed(line)) for where, line in lines]


def _of_json(file: Path, text: str) -> list[str]:
    """A list of texts or of objects with one, or one such object; else lines of JSON."""
    value = _parsed(text)
    try:
        if isinstance(value, list):
            return [
                _field(f"{file}, item {number}", {"text": item} if isinstance(item, str) else item)
                for number, item in enumerate(value, 1)
            ]
        return _of_lines(file, text) if value is None else [_field(str(file), value)]
    except TextError as error:
        raise TextError(f"{error}; name it .txt to have it read as prose, as it is written") from None


def _parsed(text: str) -> Any:
    """The JSON value, or None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _field(where: str, value: Any) -> str:
    if not isinstance(value, dict) or "text" not in value:
        raise TextError(f"{where}: not a JSON object with a field 'text'")
    text = value["text"]
    if not isinstance(text, str):
        raise TextError(f"{where}: 'text' is {type(text).__name__}, it must be a string")
    if not is_unicode(text):
        raise TextError(f"{where}: 'text' holds half of a surrogate pair, which is no character")
    return text

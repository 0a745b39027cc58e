"""Text to token ids and back, by the `tokenizers` library; no torch."""

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from .bpe_files import of_bpe_files
from .errors import CheckpointError
from .marian_files import of_marian_files
from .optional_json import BPE_FILES, FORMS, MARIAN_FILES, TOKENIZER_FILE, read_optional_json
from .panics import panics_refused
from .side import Side, TwoSided
from .spm_files import of_spm_file
from .suggestion import resaved
from .text_bound import most_bytes_per_token

_KEPT_TEXTS = 1 << 13  # of single tokens, each of which a stream asks for twice
_OTHER_FORMS = (BPE_FILES, ("vocab.txt",))


class Tokenizer:
    """The tokenizer of a model directory. `bos_id` is None where the tokenizer itself adds no begin token."""

    def __init__(self, found: tokenizers.Tokenizer | TwoSided, eos_ids: Sequence[int]) -> None:
        sides = found if isinstance(found, TwoSided) else TwoSided.same(found)
        inner = sides.names
        self._inner, self._source, self._target = inner, sides.source, sides.target
        self.eos_ids = tuple(eos_ids)
        self.vocab_size = inner.get_vocab_size(with_added_tokens=True)
        start = self._source.ids("")
        self.bos_id: int | None = start[0] if start else None
        self._decode_one = lru_cache(_KEPT_TEXTS)(
            lambda token_id: str(inner.decode([token_id], skip_special_tokens=True))
        )
        self.no_text = tuple(start)  # ids of an empty text, and of one that makes no token of its own

    @classmethod
    def open(cls, folder: str | Path) -> "Tokenizer":
        """Reads tokenizer.json, or the files that may be there instead, and the end-of-text ids. Raises CheckpointError
        for a missing or damaged file, and where a library is missing that reads it.
        """
        with panics_refused(str(folder)):
            return cls._open(Path(folder))

    @classmethod
    def _open(cls, folder: Path) -> "Tokenizer":
        found = _read(folder)
        names = found.names if isinstance(found, TwoSided) else found
        names.no_truncation()
        names.no_padding()
        return cls(found, _eos_ids(folder, names))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with the begin token where the tokenizer adds one; "" gives [bos], or []."""
        return self._source.ids(text)

    def encode_target(self, text: str) -> list[int]:
        """`encode` of a text that answers a source, which a Marian cuts otherwise."""
        return self._target.ids(text)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a text that brings its own begin token, as a chat template writes it: nothing is added."""
        return self._source.ids(text, ended=False)

    def encode_as_text(self, text: str) -> list[int]:
        """`encode_rendered` with the names of special tokens taken as ordinary letters."""
        return self._plain.ids(text, ended=False)

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each id the number of characters of the text up to its end; 0 for a begin token."""
        return self._source.ids_and_ends(text)

    def encode_split(self, text: str, characters: int) -> tuple[list[int], int]:
        """`encode`, and how many of the ids stand before the first that ends behind so many characters."""
        ids, ends = self.encode_with_ends(text)
        return ids, next((i for i, end in enumerate(ends) if end > characters), len(ids))

    @cached_property
    def num_ends(self) -> int:
        """Tokens that it adds behind a text, as those of encoders do."""
        whole, plain = self.encode("a"), self.encode_rendered("a")
        starts = range(len(whole) - len(plain) + 1)
        return next((len(whole) - len(plain) - i for i in starts if whole[i : i + len(plain)] == plain), 0)

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that it adds before a text, and behind it."""
        cut = len(self.no_text) - min(self.num_ends, len(self.no_text))
        return self.no_text[:cut], self.no_text[cut:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        if len(ids) == 1:
            return self._decode_one(ids[0])
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name, or None."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def name_of(self, token_id: int) -> str | None:
        """The name of a token as the vocabulary writes it, or None for an id that it does not have."""
        found: str | None = self._inner.id_to_token(token_id)
        return found

    @property
    def special_tokens(self) -> dict[str, int]:
        """The tokens that this tokenizer marks as special, which are never made of ordinary letters, with their ids."""
        known = self._inner.get_added_tokens_decoder()
        return {token.content: i for i, token in known.items() if token.special}

    @cached_property
    def _plain(self) -> Side:
        return self._source.plain()

    @cached_property
    def most_bytes_per_token(self) -> int | None:
        """The most bytes of a text that a token can stand for; None where there is no such limit."""
        return most_bytes_per_token(self._inner)

    def as_json(self) -> str:
        """What tokenizer.json holds of it."""
        found: str = self._inner.to_str()
        return found

    def fingerprint(self) -> str:
        """Equal for tokenizers that give equal ids."""
        sides = [self._source] if self._source is self._target else [self._source, self._target]
        read = [json.loads(side.inner.to_str()) for side in sides]
        kept = [{key: each[key] for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")} for each in read]
        names = self._inner.get_vocab(with_added_tokens=False) if len(sides) == 2 else {}
        return json.dumps([kept, sorted(names.items())])


def is_unicode(text: str) -> bool:
    """Whether every character can be written as UTF-8; half of a surrogate pair cannot, and has no ids."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _read(folder: Path) -> tokenizers.Tokenizer | TwoSided:
    """What the files of a directory say, whichever of them are there. Raises CheckpointError."""
    file = folder / TOKENIZER_FILE
    try:
        if file.is_file():
            _check_charsmaps(file)
            return tokenizers.Tokenizer.from_file(str(file))
        found = of_bpe_files(folder) or of_marian_files(folder) or of_spm_file(folder)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{_named(folder)} cannot be read as a tokenizer: {error}") from error
    if found is None:
        raise CheckpointError(f"{folder} has no tokenizer.json; {_way_out(folder)}")
    return found


def _check_charsmaps(file: Path) -> None:
    """Raises CheckpointError for a map of letters over which the library would panic, or end the process."""
    data = file.read_bytes()
    if b"precompiled_charsmap" in data:
        from .charsmap import charsmaps_of, checked_charsmap  # numpy, which few tokenizers need

        said = json.loads(data)
        for charsmap in charsmaps_of(said.get("normalizer") if isinstance(said, dict) else None):
            checked_charsmap(charsmap, str(file))


def _named(folder: Path) -> str:
    """The files of a directory that `_read` takes."""
    names = next(names for names in FORMS if all((folder / name).is_file() for name in names))
    return str(folder / names[0]) if len(names) == 1 else f"{folder}: {' and '.join(names)}"


def _way_out(folder: Path) -> str:
    """What to do about a missing tokenizer.json: models may come with the files of slower tokenizers alone."""
    if (folder / MARIAN_FILES[0]).is_file():
        return f"a Marian is read of {' and '.join(MARIAN_FILES)} too; copy from where it came from what is missing"
    others = next((names for names in _OTHER_FORMS if all((folder / name).is_file() for name in names)), None)
    if not others:
        return "copy it there from where the model came from"
    made = f"make it of {' and '.join(others)}, once, where transformers is installed"
    return f"{made}: {resaved('AutoTokenizer', folder)}"


def _eos_ids(folder: Path, inner: tokenizers.Tokenizer) -> list[int]:
    """generation_config.json first, then config.json, then the name in tokenizer_config.json."""
    for name in ("generation_config.json", "config.json"):
        found = _as_ids(read_optional_json(folder / name).get("eos_token_id"))
        if found:
            return found
    token: Any = read_optional_json(folder / "tokenizer_config.json").get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    known = inner.token_to_id(token) if isinstance(token, str) else None
    return [] if known is None else [known]


def _as_ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]

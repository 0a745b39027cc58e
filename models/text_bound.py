"""How many bytes of a text a token can stand for, so that a text that no window holds is not tokenized. No torch."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers

_COMPOSED = 3  # NFC makes at most three bytes one
_KEEPS_ALL = ("ByteLevel", "Metaspace", "Digits", "UnicodeScripts")

Factor = Callable[[Mapping[str, Any]], int | None]


def most_bytes_per_token(tokenizer: tokenizers.Tokenizer) -> int | None:
    """The most bytes of a text that a token can stand for; None where this tokenizer may drop or merge any number.

    A token's name is at least as long as the bytes it stands for, unless a normalizer shortens what it reads.
    """
    normalized = _of(_state(tokenizer.normalizer), "normalizers", _normalizer_factor)
    split = _of(_state(tokenizer.pre_tokenizer), "pretokenizers", _splitter_factor)
    names = _names(tokenizer)
    if normalized is None or split is None or names is None or not _knows_every_byte(tokenizer):
        return None
    if any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values()):
        return None
    return normalized * max(len(name.encode()) for name in names)


def _names(tokenizer: tokenizers.Tokenizer) -> list[str] | None:
    names = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size(with_added_tokens=True))]
    known = [name for name in names if name is not None]
    return known if known and len(known) == len(names) else None  # else ids have gaps, and some are further on


def _knows_every_byte(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether nothing is unknown to it: an unknown token may stand for a word of any length."""
    model, written = tokenizer.model, json.dumps([_state(tokenizer.pre_tokenizer), _state(tokenizer.normalizer)])
    return type(model).__name__ == "BPE" and (model.byte_fallback or '"ByteLevel"' in written)


def _state(part: Any) -> dict[str, Any] | None:
    """A part of a tokenizer, as tokenizer.json writes it."""
    found: dict[str, Any] | None = None if part is None else json.loads(part.__getstate__())
    return found


def _of(state: Mapping[str, Any] | None, members: str, factor: Factor) -> int | None:
    """By how much a part and all that it consists of can shorten a text."""
    if state is None:
        return 1
    if state["type"] != "Sequence":
        return factor(state)
    whole = 1
    for each in state[members]:
        one = _of(each, members, factor)
        if one is None:
            return None
        whole *= one
    return whole


def _normalizer_factor(state: Mapping[str, Any]) -> int | None:
    if state["type"] == "Replace":
        replaced = state["pattern"].get("String")
        return 1 if replaced and len(state["content"].encode()) >= len(replaced.encode()) else None
    return {"Prepend": 1, "ByteLevel": 1, "NFC": _COMPOSED}.get(state["type"])


def _splitter_factor(state: Mapping[str, Any]) -> int | None:
    kept = state["type"] in _KEEPS_ALL or state.get("behavior", "Removed") != "Removed"
    return 1 if kept else None

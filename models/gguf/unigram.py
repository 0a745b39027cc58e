"""SentencePiece's Unigram tokenizers, as T5 and XLM-RoBERTa have them: `t5` in the words of GGUF, in and out.

A file has a score for each token and a map of letters, SentencePiece's own. The library panics over a map whose places
lead outside of it, which no `except Exception` catches, so a map is judged before it is given one.
"""

from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..errors import CheckpointError

UNIGRAM = "t5"
CHARSMAP, SINGLE_SPACES = "precompiled_charsmap", "remove_extra_whitespaces"
NOWHERE = -10000.0  # the score of a token that no text is to have
_SPACE = "▁"
_VALUE = (1 << 31) - 1
_BLOCK = 255  # children of a node lie in the block of 256 in which its place is
_CONTINUES, _CONTINUED = 0xC0, 0x80


def unigram(
    tokens: Sequence[str],
    scores: npt.NDArray[np.generic],
    matched: npt.NDArray[np.bool_],
    unknown: int,
    charsmap: bytes,
) -> Tokenizer:
    """The tokenizer of these tokens. matched: those that the letters of a text may make, by their scores.

    The others never count as unlikelier than those, as what is unknown is measured by the unlikeliest.
    """
    lowest = scores[matched].min() if matched.any() else 0.0
    known = np.where(matched, scores, np.maximum(scores, lowest)).tolist()
    tokenizer = Tokenizer(models.Unigram(list(zip(tokens, known, strict=True)), unknown, byte_fallback=False))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    words = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), words])
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme="always")
    return tokenizer


def unigram_form(written: Mapping[str, Any], num_tokens: int, added: Collection[int]) -> dict[str, Any]:
    """The values of a file for what a tokenizer.json holds. added: ids of tokens that are found as they stand."""
    scores = [float(score) for _, score in written["model"]["vocab"]]
    scores += [0.0 if i in added else NOWHERE for i in range(len(scores), num_tokens)]
    found = {"model": UNIGRAM, "scores": scores, "add_space_prefix": True, SINGLE_SPACES: True}
    charsmap = _charsmap(written.get("normalizer") or {})
    return found | ({CHARSMAP: charsmap} if charsmap else {})


def _charsmap(normalizer: Mapping[str, Any]) -> bytes:
    steps = normalizer.get("normalizers", [normalizer])
    return next((b64decode(step[CHARSMAP]) for step in steps if step.get(CHARSMAP)), b"")


def checked_charsmap(data: bytes, file: str) -> bytes:
    """The map, where all of its places lie inside of it. Raises CheckpointError.

    It is the length of a double array of 32-bit units, these, and the texts that letters become, each with a 0 behind.
    """
    size = int.from_bytes(data[:4], "little")
    texts = data[4 + size :]
    if data and (
        size % 4 or not size or not texts or not _is_text(texts) or not _leads_inside(data[4 : 4 + size], texts)
    ):
        raise CheckpointError(f"{file}: its map of letters, {CHARSMAP}, leads outside of itself; copy the file again")
    return data


def _is_text(texts: bytes) -> bool:
    try:
        texts.decode()
    except UnicodeDecodeError:
        return False
    return True


def _leads_inside(array: bytes, texts: bytes) -> bool:
    """Whether every unit that may be a node has its children in the array, and its text at the start of a letter."""
    units = np.frombuffer(array, "<u4").astype(np.int64)
    is_node = units <= _VALUE
    places = np.arange(len(units)) ^ (units >> 10 << ((units & (1 << 9)) >> 6))
    if ((places | _BLOCK)[is_node] >= len(units)).any():
        return False
    starts = units[places[is_node & (units >> 8 & 1 == 1)]] & _VALUE
    letters = np.frombuffer(texts, np.uint8)
    return bool((starts < len(letters)).all() and (letters[starts] & _CONTINUES != _CONTINUED).all())

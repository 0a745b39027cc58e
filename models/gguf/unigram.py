"""SentencePiece's Unigram tokenizers, as T5 and XLM-RoBERTa have them: `t5` in the words of GGUF, in and out.

A file has a score for each token and a map of letters, SentencePiece's own.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..charsmap import CHARSMAP, charsmaps_of

UNIGRAM = "t5"
SINGLE_SPACES = "remove_extra_whitespaces"
NOWHERE = -10000.0  # the score of a token that no text is to have
_SPACE = "▁"


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
    charsmap = next(charsmaps_of(written.get("normalizer") or {}), b"")
    return found | ({CHARSMAP: charsmap} if charsmap else {})

"""What was probably meant by an unknown word."""

from collections.abc import Sequence
from difflib import get_close_matches


def suggestion(word: str, known: Sequence[str]) -> str:
    """`did you mean X?`, or the list of what there is."""
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]!r}?" if close else "known here: " + ", ".join(sorted(known))


def resaved(auto: str, folder: object) -> str:
    """The command with which `transformers` writes what it reads of a directory in the form of today."""
    return (
        f"python -c \"from transformers import {auto} as A; A.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )

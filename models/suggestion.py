"""What was probably meant by an unknown word."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of what there is."""
    names = sorted(known)
    close = meant(word, names)
    return f"did you mean {close!r}?" if close else "known here: " + ", ".join(names)


def likely(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the end of a sentence, or nothing."""
    close = meant(word, known)
    return f"; did you mean {close!r}?" if close else ""


def meant(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known word that is most like this one, whatever its case; None where none is like it at all."""
    names = {name.lower(): name for name in sorted(known)}
    close = get_close_matches(word.lower(), names, 1, likeness)
    return names[close[0]] if close else None


def resaved(auto: str, folder: object) -> str:
    """The command with which `transformers` writes what it reads of a directory in the form of today."""
    return (
        f"python -c \"from transformers import {auto} as A; A.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )

"""SentencePiece's map of letters, `precompiled_charsmap`, as tokenizers carry it.

The library panics over a map whose places lead outside of it, at the first text that meets one, which no
`except Exception` catches, and ends the process over one that says it has more bytes than there is memory; so a map is
judged before the library sees it.
"""

from base64 import b64decode
from collections.abc import Iterator, Mapping

import numpy as np

from .errors import CheckpointError

CHARSMAP = "precompiled_charsmap"
_VALUE = (1 << 31) - 1
_BLOCK = 255  # children of a node lie in the block of 256 in which its place is
_CONTINUES, _CONTINUED = 0xC0, 0x80


def charsmaps_of(normalizer: object) -> Iterator[bytes]:
    """The maps in a normalizer, as a tokenizer.json has it; what is none is left to the library, which refuses it."""
    if isinstance(normalizer, Mapping):
        steps, written = normalizer.get("normalizers"), normalizer.get(CHARSMAP)
        for step in steps if isinstance(steps, list) else ():
            yield from charsmaps_of(step)
        if isinstance(written, str) and written:
            yield _decoded(written)


def _decoded(written: str) -> bytes:
    """Padded or not, as the library takes it; what is no base64 is a map of no length, which is none."""
    try:
        return b64decode(written + "=" * (-len(written) % 4))
    except ValueError:
        return bytes(4)


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
    is_node[0] = True  # where every text begins, whatever it says
    places = np.arange(len(units)) ^ (units >> 10 << ((units & (1 << 9)) >> 6))
    if ((places | _BLOCK)[is_node] >= len(units)).any():
        return False
    starts = units[places[is_node & (units >> 8 & 1 == 1)]] & _VALUE
    letters = np.frombuffer(texts, np.uint8)
    return bool((starts < len(letters)).all() and (letters[starts] & _CONTINUES != _CONTINUED).all())

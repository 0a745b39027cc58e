"""How an encoder's file says what becomes of the states of a text's tokens."""

from pathlib import Path

from ..errors import CheckpointError
from ..sentences import CLS, LAST, MEAN, Pooling, Sentences, write_pooling
from ..spec import TransformerSpec
from .spec_values import Said
from .values import Values

_KEY = ".pooling_type"
_NUMBERS = {MEAN: 1, CLS: 2, LAST: 3}


def pooling_values(folder: Path | None, spec: TransformerSpec) -> list[Said]:
    """The key of a file for an encoder's directory; of none, nothing. llama.cpp makes every vector of length 1."""
    if folder is None or spec.causal:
        return []
    return [(_KEY, _NUMBERS[Sentences.open(folder).pooling.kind])]


def write_pooling_of(values: Values, folder: Path) -> None:
    """Writes what a file says of it to a directory, as sentence-transformers has it."""
    if not values.has(_KEY):
        return
    kinds = {number: kind for kind, number in _NUMBERS.items()}
    number = values.count(_KEY)
    if number not in kinds:
        raise CheckpointError(f"{values.file}: {_KEY[1:]} is {number}; moesaic computes {', '.join(kinds.values())}")
    write_pooling(folder, Pooling(kinds[number]))

"""Scoring a model by its path: the door of this folder."""

from collections.abc import Sequence
from pathlib import Path

from ..engine.build import choose_device
from ..models.checkpoint import Checkpoint, load_transformer, open_checkpoint
from ..models.errors import SetupError, TextError
from ..models.threads import choose_threads, torch_threads
from ..models.tokenizer import Tokenizer
from .score import Progress, Score, encode_documents, score_documents
from .texts import embedded_text, read_documents


def evaluate(
    path: str | Path,
    against: str | Path | None = None,
    text: Sequence[str | Path] | None = None,
    documents: int | None = None,
    truncate: int | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    max_context: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """The score of a model on text files (by default the text that ships), and its distance from `against`.

    Raises SetupError where the two models do not share their tokenizer, TextError for text that cannot be scored.
    """
    if documents is not None and documents < 1:
        raise TextError(f"documents is {documents}, it must be at least 1")
    if truncate is not None and truncate < 2:
        raise TextError(f"truncate is {truncate}, it must be at least 2 tokens: one to read, one to predict")
    checkpoint = open_checkpoint(path)
    original = None if against is None else open_checkpoint(against)
    tokenizer = Tokenizer.open(checkpoint.path)
    if original is not None:
        _check_same_tokens(checkpoint, original, tokenizer)
    read = read_documents(text or [embedded_text()], documents)
    encoded = encode_documents(read, tokenizer, truncate, checkpoint.spec.vocab_size)
    place = choose_device(device)
    window = max_context or checkpoint.spec.max_context
    if not 2 <= window <= checkpoint.spec.max_context:
        raise SetupError(f"max_context is {window}, this model's context is 2 to {checkpoint.spec.max_context}")
    with torch_threads(choose_threads(threads, checkpoint.weight_bytes)):
        model = load_transformer(checkpoint, place, dtype)
        other = None if original is None else load_transformer(original, place, dtype)
        return score_documents(model, encoded, other, progress, window)


def _check_same_tokens(checkpoint: Checkpoint, original: Checkpoint, tokenizer: Tokenizer) -> None:
    same_vocabulary = checkpoint.spec.vocab_size == original.spec.vocab_size
    if not same_vocabulary or tokenizer.fingerprint() != Tokenizer.open(original.path).fingerprint():
        raise SetupError(
            f"{original.path.name} has another tokenizer than {checkpoint.path.name}; "
            "only models with the same tokens can be compared"
        )

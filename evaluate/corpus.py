"""A text to score as token ids, with the words and bytes that the scored tokens spell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..models.tokenizer import Tokenizer
from .score import Score
from .texts import check_ids


@dataclass(frozen=True, slots=True)
class Corpus:
    """ids, words and bytes of each document; a name to report it by."""

    name: str
    ids: tuple[tuple[int, ...], ...]
    num_words: tuple[int, ...]
    num_bytes: tuple[int, ...]

    def with_sizes(self, score: Score) -> Score:
        """The score with the words and bytes of each document, for figures per word and per byte."""
        sized = [
            replace(document, num_words=words, num_bytes=size)
            for document, words, size in zip(score.documents, self.num_words, self.num_bytes, strict=True)
        ]
        return replace(score, documents=tuple(sized))


def encode_corpus(
    name: str,
    documents: Sequence[str],
    tokenizer: Tokenizer,
    truncate: int | None = None,
    vocab_size: int | None = None,
) -> Corpus:
    """The corpus of some documents, each cut at `truncate` tokens. Words are what stands between white space.

    The text of a document's first token is not counted, since nothing predicts it; a begin token has no text.
    Raises what `check_ids` raises.
    """
    ids, words, sizes = [], [], []
    for document in documents:
        tokens, ends = tokenizer.encode_with_ends(document)
        tokens, ends = tokens[:truncate], ends[:truncate]
        scored = document[ends[0] : ends[-1]] if ends else ""
        ids.append(tuple(tokens))
        words.append(len(scored.split()))
        sizes.append(len(scored.encode()))
    check_ids(ids, vocab_size)
    return Corpus(name, tuple(ids), tuple(words), tuple(sizes))

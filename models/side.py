"""Text to ids, of one side where a model reads texts of one kind and answers in another."""

from dataclasses import dataclass

import tokenizers


@dataclass(frozen=True, slots=True)
class Side:
    """The ids that `inner` gives."""

    inner: tokenizers.Tokenizer

    def ids(self, text: str, ended: bool = True) -> list[int]:
        """The ids of a text; ended: with the tokens that stand before and behind every text."""
        ids: list[int] = self.inner.encode(text, add_special_tokens=ended).ids
        return ids

    def ids_and_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The ids, and for each the number of characters up to its end; 0 for one that stands for none."""
        encoding = self.inner.encode(text)
        return encoding.ids, [end for _, end in encoding.offsets]

    def plain(self) -> "Side":
        """The same with the names of special tokens taken as ordinary letters."""
        return Side(literal(self.inner))


def literal(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A twin that takes the names of special tokens as letters, since others may be encoding with the first."""
    twin = tokenizers.Tokenizer.from_str(inner.to_str())
    twin.encode_special_tokens = True
    return twin


@dataclass(frozen=True, slots=True)
class TwoSided:
    """names: ids to text, of both sides. source and target: texts of each side to ids."""

    names: tokenizers.Tokenizer
    source: Side
    target: Side

    @classmethod
    def same(cls, inner: tokenizers.Tokenizer) -> "TwoSided":
        """A tokenizer that cuts texts of both sides alike."""
        side = Side(inner)
        return cls(inner, side, side)

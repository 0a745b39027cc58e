"""Single tokens as people can read them: with the space before, and named where they spell no character."""

from collections.abc import Sequence
from os.path import commonprefix

from ...models.tokenizer import Tokenizer

_UNREADABLE = "\ufffd"  # what a part of a character is decoded to


def spell(tokenizer: Tokenizer, token_id: int) -> str:
    """The text that one token adds to a text before it; its name in the vocabulary where that is no whole character."""
    anchor = tokenizer.encode_rendered("a")[-1:]
    return _printable(_added(tokenizer, anchor, [token_id]) or _name(tokenizer, token_id))


def spell_within(
    tokenizer: Tokenizer, before: Sequence[int], token_id: int, after: Sequence[int]
) -> tuple[str, str, str]:
    """The texts before a token, of the token, and after it."""
    token = _added(tokenizer, before, [token_id]) or _name(tokenizer, token_id)
    rest = _added(tokenizer, [*before, token_id], after)
    return _printable(tokenizer.decode(before)), _printable(token), _printable(rest)


def _added(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> str:
    """What these ids add to the text of those before them; "" where that is less than a character."""
    short, long = tokenizer.decode(before), tokenizer.decode([*before, *ids])
    added = long[len(commonprefix([short, long])) :]
    return "" if added.strip(_UNREADABLE) == "" and _UNREADABLE in added else added


def _name(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.name_of(token_id) or f"<id {token_id}>"


def _printable(text: str) -> str:
    """Line ends and other control characters as escapes: a text must not steer the terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )

"""How many bytes a token can stand for, and for which tokenizers there is no such number."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from moesaic.models.locate import locate
from moesaic.models.text_bound import most_bytes_per_token

WORDS = {"a": 0, "b": 1, "abab": 2}


def tokenizer(
    normalizer: Any = None, splitter: Any = None, model: Any = None, added: AddedToken | None = None
) -> Tokenizer:
    made = Tokenizer(model or models.BPE(WORDS, [], byte_fallback=True))
    made.normalizer, made.pre_tokenizer = normalizer, splitter or pre_tokenizers.ByteLevel()
    if added:
        made.add_tokens([added])
    return made


def test_it_is_the_longest_name() -> None:
    assert most_bytes_per_token(tokenizer()) == 4
    assert most_bytes_per_token(tokenizer(added=AddedToken("<|end|>"))) == 7


def test_a_normalizer_that_composes_may_make_three_bytes_one() -> None:
    assert most_bytes_per_token(tokenizer(normalizers.NFC())) == 12
    assert most_bytes_per_token(tokenizer(normalizers.Sequence([normalizers.Prepend("_"), normalizers.NFC()]))) == 12


@pytest.mark.parametrize(
    "unlimited",
    [
        tokenizer(normalizers.NFKC()),
        tokenizer(normalizers.Strip()),
        tokenizer(normalizers.Replace("ab", "")),
        tokenizer(normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()])),
        tokenizer(splitter=pre_tokenizers.Whitespace()),
        tokenizer(splitter=pre_tokenizers.Split(" ", "removed")),
        tokenizer(
            splitter=pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), pre_tokenizers.CharDelimiterSplit(",")])
        ),
        tokenizer(model=models.WordPiece(WORDS, unk_token="a")),
        tokenizer(splitter=pre_tokenizers.Digits(), model=models.BPE(WORDS, [], unk_token="a", fuse_unk=True)),
        tokenizer(added=AddedToken("<mask>", lstrip=True)),
    ],
)
def test_what_may_drop_or_merge_any_number_of_bytes_has_none(unlimited: Tokenizer) -> None:
    assert most_bytes_per_token(unlimited) is None


@pytest.mark.parametrize("text", ["Once upon a time" * 100, " " * 1000, "é" * 500, "\U0001f600" * 300, "\n\t" * 400])
def test_no_text_has_fewer_tokens_than_that(text: str) -> None:
    inner = Tokenizer.from_file(str(locate("stories260k") / "tokenizer.json"))
    most = most_bytes_per_token(inner)
    assert most == 9 and len(inner.encode(text).ids) * most >= len(text.encode())

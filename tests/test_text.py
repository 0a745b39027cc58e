"""Ids become text piece by piece: no character is split, no stop string leaks."""

import random
from collections.abc import Sequence
from unittest.mock import Mock

import pytest

from moesaic.engine.text import TextStream, stop_string_violations
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "  two spaces, a tab\tand\n\na gap  ",
    "naïve café, Ωμέγα, 日本語のテキスト, 👩‍👩‍👧 🏳️‍🌈 e\u0301 \u200f",
    "\x00\x7f\x80\xff",
    "�� replacement characters of its own �",
    "\U0010ffff\ud7ff\ue000",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(locate("stories260k"))


class Letters:
    """One character an id: what a stop string does can be read off directly."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def streamed(stream: TextStream, ids: Sequence[int], chance: random.Random | None = None) -> list[str]:
    """The pieces of ids that arrive one by one, or in groups of a random size."""
    pieces, at = [], 0
    while at < len(ids):
        size = chance.randint(1, 4) if chance else 1
        pieces.append(stream.push(ids[at : at + size]))
        at += size
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cut", [0, 1, 3, 10])
def test_pieces_put_together_are_the_whole_text(tokenizer: Tokenizer, text: str, cut: int) -> None:
    ids = tokenizer.encode(text)
    prompt, rest = ids[:cut], ids[cut:]
    whole = tokenizer.decode(ids)
    for seed in range(5):
        pieces = streamed(TextStream(tokenizer, prompt), rest, random.Random(seed))
        if not tokenizer.decode(prompt).endswith("\ufffd"):
            assert tokenizer.decode(prompt) + "".join(pieces) == whole


def test_pieces_do_not_depend_on_how_random_ids_arrive(tokenizer: Tokenizer) -> None:
    for seed in range(300):
        chance = random.Random(seed)
        ids = [chance.randrange(tokenizer.vocab_size) for _ in range(40)]
        one = "".join(streamed(TextStream(tokenizer, ids[:3]), ids[3:]))
        assert "".join(streamed(TextStream(tokenizer, ids[:3]), ids[3:], chance)) == one


def test_ids_that_arrive_together_are_decoded_together(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Once upon a time, there was a little girl named Lily.")
    decode = Mock(wraps=tokenizer.decode)
    TextStream(Mock(decode=decode), ids[:3]).push(ids[3:])
    assert decode.call_count < 4 < len(ids) - 3


def test_a_piece_never_holds_half_a_character(tokenizer: Tokenizer) -> None:
    text = "日本語 👩‍👩‍👧 é"
    pieces = streamed(TextStream(tokenizer, tokenizer.encode("")), tokenizer.encode(text)[1:])
    assert "".join(pieces).strip() == text and not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab日")[:-1]
    pieces = streamed(TextStream(tokenizer, ids[:1]), ids[1:])
    assert "\ufffd" in pieces[-1] and "".join(pieces).startswith("ab")


def test_bytes_that_never_become_a_character_are_shown_after_a_while() -> None:
    """A model that talks nonsense would else show nothing, and cost the square of its length."""

    class Nonsense:
        def decode(self, ids: Sequence[int]) -> str:
            assert len(ids) < 200
            return "\ufffd" * len(ids)

    pieces = streamed(TextStream(Nonsense(), []), [0] * 1000)
    assert "".join(pieces) == "\ufffd" * 1000 and sum(map(bool, pieces)) > 10


def test_text_goes_on_after_an_end_token_in_the_middle(tokenizer: Tokenizer) -> None:
    """With ignore_eos a model may begin again; the space of its next word is kept."""
    prompt, more = tokenizer.encode("The end"), tokenizer.encode("Once upon")
    whole = tokenizer.decode([*prompt, tokenizer.eos_ids[0], *more])
    pieces = streamed(TextStream(tokenizer, prompt), [tokenizer.eos_ids[0], *more])
    assert tokenizer.decode(prompt) + "".join(pieces) == whole


@pytest.mark.parametrize("stop", ["park", "the p", ".", " Lily. She", "S", "p"])
def test_a_stop_string_cuts_exactly_and_never_leaks(tokenizer: Tokenizer, stop: str) -> None:
    text = "a girl named Lily. She loved to play in the park."
    ids = tokenizer.encode(text)
    for seed in range(5):
        stream = TextStream(tokenizer, ids[:1], [stop])
        pieces = streamed(stream, ids[1:], random.Random(seed))
        assert "".join(pieces).lstrip() == text[: text.index(stop)] and stream.stopped == stop


@pytest.mark.parametrize("seed", range(40))
def test_the_shown_text_ends_where_the_first_stop_string_begins(seed: int) -> None:
    """A plain search in the text as it grows judges, on an alphabet of two so that stop strings overlap."""
    chance = random.Random(seed)
    text = "".join(chance.choice("ab") for _ in range(60))
    stops = ["".join(chance.choice("ab") for _ in range(chance.randint(2, 6))) for _ in range(3)]
    ends = [(end, stop) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    stream = TextStream(Letters(), [], stops)
    shown = "".join(streamed(stream, [ord(letter) for letter in text], chance))
    if not ends:
        assert shown == text and stream.stopped is None
    else:
        end = ends[0][0]
        longest = max((stop for at, stop in ends if at == end), key=len)
        assert shown == text[: end - len(longest)] and stream.num_tokens_used == end


def test_what_could_still_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(Letters(), [], ["abc"])
    assert [stream.push([ord(letter)]) for letter in "xababx"] == ["x", "", "", "ab", "", "abx"]


def test_half_a_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(Letters(), [], ["abc"])
    assert streamed(stream, [ord("x"), ord("a"), ord("b")]) == ["x", "", "", "ab"] and stream.stopped is None


def test_nothing_is_shown_after_a_stop() -> None:
    stream = TextStream(Letters(), [], ["b"])
    assert stream.push([97, 98, 99, 100]) == "a" and stream.push([97]) == "" and stream.finish() == ""
    assert stream.num_tokens_used == 2


def test_a_stop_string_in_the_prompt_does_not_stop() -> None:
    stream = TextStream(Letters(), [97, 98], ["ab", "b"])
    assert stream.push([99]) == "c" and stream.stopped is None


def test_bad_stop_strings_are_all_named() -> None:
    assert stop_string_violations(["ok", "é" * 128]) == []
    fields = [found.field for found in stop_string_violations(["", "ok", "é" * 129])]
    assert fields == ["stopping.stop_strings[0]", "stopping.stop_strings[2]"]
    assert "the limit is 16" in stop_string_violations(["x"] * 17)[0].message

"""Several answers to one prompt, and what is told of their tokens, through the same doors as one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from echo_engine import HOLD, Echo, told_of
from patience import eventually
from server_harness import Server

from moesaic.cli.main import main
from moesaic.engine.completion import joined
from moesaic.engine.llm import LLM
from moesaic.engine.request import FinishReason
from moesaic.models.errors import InvalidRequest
from moesaic.server.client import Client

PROMPT = [72, 105, 33]  # what the engine that echoes says, over and over; the second answer begins at 105
Door = LLM | Client


@pytest.fixture(scope="module")
def online() -> Iterator[Client]:
    with Server() as server, server.client() as client:
        yield client


@pytest.fixture(scope="module")
def offline() -> LLM:
    llm = LLM("stories260k")
    llm.engine = Echo(8, Path())
    return llm


@pytest.fixture(params=["offline", "online"])
def door(request: pytest.FixtureRequest) -> Door:
    found: Door = request.getfixturevalue(request.param)
    return found


def generated(door: Door, **settings: Any) -> Any:
    return door.generate([PROMPT], **settings)[0] if isinstance(door, LLM) else door.generate(PROMPT, **settings)


def rotated(choice: int, count: int) -> tuple[int, ...]:
    return tuple(PROMPT[(choice + i) % 3] for i in range(count))


def test_n_answers_come_in_order_and_usage_counts_all(door: Door) -> None:
    whole = generated(door, n=3, max_new_tokens=4)
    assert [whole.token_ids, *(other.token_ids for other in whole.others)] == [rotated(i, 4) for i in range(3)]
    assert whole.usage.completion_tokens == 12 and whole.usage.prompt_tokens == 3
    assert {each.finish_reason for each in (whole, *whole.others)} == {FinishReason.LENGTH}


def test_chunks_say_which_answer_they_are_of_and_the_last_of_all_what_was_used(door: Door) -> None:
    chunks = list(door.stream(PROMPT, n=2, max_new_tokens=5, logprobs=1))
    ends = [chunk for chunk in chunks if chunk.finish_reason]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False] and len(ends) == 2
    whole, all_at_once = joined(chunks), generated(door, n=2, max_new_tokens=5, logprobs=1)
    assert (whole.text, whole.token_ids, whole.others) == (
        all_at_once.text, all_at_once.token_ids, all_at_once.others
    )  # fmt: skip


def test_a_stop_ends_the_answer_that_it_is_in_and_no_other(door: Door) -> None:
    whole = generated(door, n=2, max_new_tokens=2, stop_token_ids=[33])
    [other] = whole.others
    assert (whole.token_ids, whole.finish_reason) == (rotated(0, 2), FinishReason.LENGTH)
    assert (other.token_ids, other.finish_reason, other.matched) == ((105,), FinishReason.STOP_TOKEN, 33)


def test_a_stop_string_ends_its_answer_with_its_log_probabilities(door: Door) -> None:
    text = generated(door, max_new_tokens=9).text
    whole = generated(door, n=2, max_new_tokens=9, stop=text[1:3], logprobs=0)
    for each in (whole, *whole.others):
        assert each.finish_reason is FinishReason.STOP_STRING and len(each.logprobs) == len(each.token_ids) < 9
    assert whole.usage.completion_tokens == len(whole.token_ids) + len(whole.others[0].token_ids)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_log_probabilities_come_with_their_tokens(count: int, door: Door) -> None:
    whole = generated(door, max_new_tokens=4, logprobs=count, prompt_logprobs=count)
    assert whole.logprobs == tuple(told for token in rotated(0, 4) for told in told_of(token, count))
    assert whole.prompt_logprobs == tuple(told for token in PROMPT[1:] for told in told_of(token, count))


def test_what_was_not_asked_for_is_not_told(door: Door) -> None:
    whole = generated(door, max_new_tokens=4)
    assert whole.logprobs == whole.prompt_logprobs == whole.others == ()


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        ({"n": 0}, ["n is 0, it must be from 1 to 128"]),
        ({"n": 129}, ["n is 129, it must be from 1 to 128"]),
        ({"logprobs": 21}, ["logprobs is 21, it must be from 0 to 20"]),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, ["min_new_tokens is 5, it must be at most max_new_tokens, 4"]),
        ({"logit_bias": {1: 101}}, ["logit_bias is 101 for token 1, it must be from -100 to 100"]),
        ({"logit_bias": {1: float("nan")}}, ["logit_bias is nan for token 1"]),
        ({"logit_bias": dict.fromkeys(range(301), 1)}, ["logit_bias has 301 entries, the limit is 300"]),
        ({"logit_bias": {512: 1}}, ["logit_bias names token 512, which is outside the vocabulary of 512 ids"]),
        ({"allowed_token_ids": [3, 600]}, ["allowed_token_ids names token 600"]),
        ({"banned_token_ids": [512]}, ["banned_token_ids names token 512"]),
        ({"allowed_token_ids": [3, 4], "banned_token_ids": [4, 3]}, ["leaves no token that may be drawn"]),
        ({"banned_token_ids": range(512)}, ["leaves no token that may be drawn"]),
        ({"regex": "a", "choices": ["b"]}, ["choices comes with regex; an answer follows one of them"]),
        ({"choices": []}, ["choices has 0 entries, it must have 1 to 1000"]),
        ({"choices": ["a", ""]}, ["choices is empty"]),
        ({"regex": "a" * 70_000}, ["regex has 70000 bytes, the limit is 65536"]),
        ({"json_schema": 5}, ["json_schema is 5, it must be a JSON schema, as text or as a mapping"]),
        ({"choices": "yes"}, ["choices is 'yes', it must be a list of strings"]),
        ({"logit_bias": {"a": 1}}, ["it must be a mapping of token ids to numbers"]),
        ({"logit_bias": {-1: 1}}, ["logit_bias"]),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused_with_field_value_and_limit(
    settings: Any, sentences: Sequence[str], door: Door
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        generated(door, **settings)
    said = [f"{each.field.rpartition('.')[2]} {each.message}" for each in caught.value.violations]
    assert len(said) == len(sentences)
    assert all(sentence in each for each, sentence in zip(said, sentences, strict=True))


def test_a_terminal_shows_all_answers_and_what_is_told(online: Client, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "hi", "--address", online.address, "--n", "2", "--max-new-tokens", "3", "--logprobs", "1"]
    assert main([*words, "--logit-bias", "5=-2", "--ban-token", "9", "--allow-token", "5"]) == 0
    shown = capsys.readouterr()
    assert "\n--- answer 2 of 2\n" in shown.out and "6 new tokens" in shown.err
    assert shown.err.count("[answer 2: token ") == 3 and "log probability -0.500; " in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--logit-bias", "a=1"], "takes a token id and a number such as 42=-5, not 'a=1'"),
        (["--json-schema", "/nothing/here"], "'/nothing/here' cannot be read"),
        (["--regex", "a", "--choice", "b"], "not allowed with argument"),
        (["--ban-token", "x"], "invalid int value: 'x'"),
    ],
)
def test_a_command_says_what_it_cannot_read(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "hi", *words])
    assert said in capsys.readouterr().err


def test_the_engine_makes_no_more_of_an_answer_that_a_stop_string_has_ended(offline: LLM) -> None:
    """The first answer is held at its third token, at which the second has ended."""
    tokens = [HOLD, 105, 33]
    stop = offline.tokenizer.decode([33, HOLD])
    with Server() as server, server.client() as client, server.held():
        stream = client.stream(tokens, n=2, stop=stop, max_new_tokens=9)
        assert any(chunk.finish_reason is FinishReason.STOP_STRING for chunk in stream)
        eventually(lambda: (load := client.model().load) is not None and load.free_slots == load.num_slots - 1)
        stream.close()


def test_offline_too(offline: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, ...]] = []
    abort = offline.engine.abort

    def note(*place: int) -> None:
        ended.append(place[1:])
        abort(*place)

    monkeypatch.setattr(offline.engine, "abort", note)
    generated(offline, n=2, stop=offline.tokenizer.decode([33]), max_new_tokens=9)
    assert ended == [(1,), ()]

"""How likely continuations are: the numbers of the engine, told per continuation, and what no score is made of."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from echo_engine import HOLD
from patience import eventually
from server_harness import Server, all_free

from moesaic.bench.local_server import local_server
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.models.errors import AlreadyExists, InvalidRequest, NotFound, Unsupported
from moesaic.proto import generation_pb2, scoring_pb2
from moesaic.server.client import Client
from moesaic.server.handlers import SCORING, stub
from moesaic.server.scoring import MOST_CONTINUATIONS
from moesaic.server.status import error_of

CONTEXT = "Once upon a time"
CONTINUATIONS = [", there was", " the", ", there was a little girl named Lily. " * 3, "\n"]


@pytest.fixture(scope="module")
def real() -> Iterator[Client]:
    with local_server({"stories": "stories260k"}) as address, Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("stories260k")


def wrong_fields(server: Server, message: scoring_pb2.ScoreRequest) -> list[str]:
    """The fields that a message is refused for."""
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        stub(channel, SCORING, "Score")(message)
    error = error_of(caught.value)
    assert isinstance(error, InvalidRequest), error
    return [violation.field for violation in error.violations]


def test_scores_are_what_the_engine_says_of_the_tokens_behind_the_context(real: Client, llm: LLM) -> None:
    scores = real.score(CONTEXT, CONTINUATIONS, logprobs=True)
    for score, continuation in zip(scores, CONTINUATIONS, strict=True):
        (alone,) = llm.score([CONTEXT + continuation])
        own = alone.logprobs[len(alone.logprobs) - score.num_tokens :]
        assert score.logprob == pytest.approx(sum(own), abs=1e-4)
        assert llm.tokenizer.decode([each.token_id for each in score.tokens]).strip() == continuation.strip()


def test_what_the_model_would_say_itself_is_greedy_and_nothing_else(real: Client) -> None:
    made = real.generate(CONTEXT, temperature=0, max_new_tokens=8).token_ids
    context = real.tokenize(CONTEXT)
    greedy, other = real.score(context, [made, (*made[:-1], 7)])
    assert greedy.is_greedy and not other.is_greedy and greedy.logprob > other.logprob
    assert greedy.num_tokens == other.num_tokens == 8 and greedy.tokens == ()


def test_ids_and_text_of_one_continuation_have_one_score(real: Client) -> None:
    whole, context = real.tokenize(CONTEXT + CONTINUATIONS[0]), real.tokenize(CONTEXT)
    (by_text,) = real.score(CONTEXT, CONTINUATIONS[:1])
    (by_ids,) = real.score(CONTEXT, [whole[len(context) :]])
    assert by_ids == by_text


def test_a_distribution_holds_what_is_told_of_its_token(real: Client) -> None:
    places = [5, 0, 3]
    whole, plain = (
        real.score(CONTEXT, CONTINUATIONS[2:3], logprobs=True, distributions_at=each)[0] for each in (places, ())
    )
    assert plain.distributions == () and plain.tokens == whole.tokens
    for place, told in zip(places, whole.distributions, strict=True):
        found, token = np.frombuffer(told, "<f4"), whole.tokens[place]
        assert len(found) == real.model().vocab_size and np.exp(found.astype(float)).sum() == pytest.approx(1, abs=1e-5)
        assert found[token.token_id] == pytest.approx(token.logprob, abs=1e-5) and found.argmax() == token.top[0][0]


def test_an_empty_context_is_the_begin_token(real: Client, llm: LLM) -> None:
    (score,) = real.score("", [CONTEXT])
    assert score.logprob == pytest.approx(llm.score([CONTEXT])[0].total, abs=1e-4)


def test_long_texts_are_split_in_their_own_process_as_short_ones_are(client: Client) -> None:
    context, continuation = "a " * 100, "b " * 60
    (short,) = client.score(context, [continuation])
    together = client.score(context, [continuation] * 100)
    assert 100 * len(context + continuation) > 1 << 14 and together == [short] * 100


def test_more_continuations_than_the_model_takes_wait_for_room() -> None:
    with Server(max_requests=2, engine=EngineOptions(num_slots=2)) as server, server.client() as client:
        scores = client.score([5, 6], [[i + 1] * (i % 5 + 1) for i in range(60)])
        assert [score.num_tokens for score in scores] == [i % 5 + 1 for i in range(60)]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ({}, ["context", "continuations"]),
        ({"text": "a"}, ["continuations"]),
        ({"text": "a", "continuations": [{}]}, ["continuations[0]"]),
        ({"text": "a", "continuations": [{"text": ""}]}, ["continuations[0]"]),
        ({"text": "a", "continuations": [{"text": "b"}] * (MOST_CONTINUATIONS + 1)}, ["continuations"]),
        ({"token_ids": {"ids": []}, "continuations": [{"token_ids": {"ids": [5]}}]}, ["context.token_ids"]),
        ({"token_ids": {"ids": [5]}, "continuations": [{"text": "b"}]}, ["continuations[0].text"]),
        ({"token_ids": {"ids": [5]}, "continuations": [{"token_ids": {"ids": [9999]}}]}, ["continuations[0]"]),
        ({"token_ids": {"ids": [5] * 600}, "continuations": [{"token_ids": {"ids": [5]}}]}, ["continuations[0]"]),
        ({"text": "a", "continuations": [{"text": "b " * 600}, {"text": "b"}]}, ["continuations[0]"]),
        ({"text": "a", "continuations": [{"text": "b"}], "request_id": "two words"}, ["request_id"]),
        ({"text": "a", "continuations": [{"text": "b"}, {"text": "c"}], "cache_salt": "s" * 65}, ["cache_salt"]),
        ({"text": "a", "continuations": [{"text": "b"}], "priority": 77}, ["priority"]),
        ({"text": "a", "continuations": [{"text": "b"}], "distributions_at": [0, 0]}, ["distributions_at"]),
        ({"text": "a", "continuations": [{"token_ids": {"ids": [5]}}], "distributions_at": [1]}, ["distributions_at"]),
        (
            {"text": "a", "continuations": [{"token_ids": {"ids": [5] * 90}}] * 99, "distributions_at": [*range(90)]},
            ["distributions_at"],
        ),
    ],
)
def test_what_no_score_is_made_of_is_refused_by_its_field(
    server: Server, message: dict[str, Any], fields: list[str]
) -> None:
    assert wrong_fields(server, scoring_pb2.ScoreRequest(**message)) == fields


def test_texts_that_no_window_holds_are_refused_before_they_are_tokenized(server: Server) -> None:
    message = scoring_pb2.ScoreRequest(text="a" * 1_000_000, continuations=[{"text": "b"}, {"token_ids": {"ids": [5]}}])
    assert wrong_fields(server, message) == ["context"]


def test_millions_of_ids_in_many_continuations_are_refused(server: Server) -> None:
    ids = generation_pb2.TokenIds(ids=[5] * 30_000)
    message = scoring_pb2.ScoreRequest(text="a", continuations=[scoring_pb2.Continuation(token_ids=ids)] * 100)
    assert 10 < len(wrong_fields(server, message)) <= 16  # as many as a status lists


def test_a_model_or_a_tier_that_is_not_there(client: Client) -> None:
    with pytest.raises(NotFound):
        client.score("a", ["b"], model="gone")
    with pytest.raises(Unsupported, match="tier"):
        client.score("a", ["b"], tier="low")


def test_a_score_that_nobody_waits_for_frees_all_that_it_holds(server: Server, client: Client) -> None:
    with server.held(), grpc.insecure_channel(server.address) as channel, server.admin() as admin:
        busy = [client.stream([HOLD], max_new_tokens=9) for _ in range(8)]
        for stream in busy:
            next(stream)
        message = scoring_pb2.ScoreRequest(text="a", continuations=[{"text": "b"}] * 20, request_id="mine")
        call = stub(channel, SCORING, "Score").future(message)  # type: ignore[attr-defined]
        eventually(lambda: admin.load().requests == 9 and admin.load().models[0].requests == 28)
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel, SCORING, "Score")(message)
        assert isinstance(error_of(caught.value), AlreadyExists)
        call.cancel()
        eventually(lambda: admin.load().models[0].requests == 8)
        for stream in busy:
            stream.close()
    eventually(lambda: all_free(client))

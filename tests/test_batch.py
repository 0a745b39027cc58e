"""Many requests in one call: each has its own answer or status, and the call takes its place beside others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from echo_engine import FAIL, HOLD
from patience import eventually
from server_harness import Server, all_free

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import AlreadyExists, Expired, InvalidRequest, MoesaicError, Overloaded, RequestFailed
from moesaic.proto import generation_pb2 as pb
from moesaic.server.batch import MOST_REQUESTS
from moesaic.server.client import Client
from moesaic.server.handlers import GENERATION, stub
from moesaic.server.many import MOST_AT_A_TIME
from moesaic.server.status import error_of, error_of_item


@pytest.fixture
def held(server: Server) -> Iterator[None]:
    with server.held():
        yield


def sent(server: Server, *requests: pb.GenerateRequest) -> list[pb.BatchItem]:
    """What a batch of messages is answered."""
    with grpc.insecure_channel(server.address) as channel:
        call = stub(channel, GENERATION, "GenerateBatch")
        return list(call(pb.GenerateBatchRequest(requests=requests)))


def refused(server: Server, *requests: pb.GenerateRequest) -> InvalidRequest:
    """Why a batch is refused as a whole."""
    with pytest.raises(grpc.RpcError) as caught:
        sent(server, *requests)
    error = error_of(caught.value)
    assert isinstance(error, InvalidRequest)
    return error


def ids(*numbers: int, **more: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=numbers), stopping=pb.Stopping(max_new_tokens=2), **more)


def test_each_item_is_what_generate_would_answer(client: Client) -> None:
    prompts: list[Any] = ["Once upon a time", [5, 6], "", [9]]
    found = dict(client.generate_batch(prompts, max_new_tokens=4))
    for i, prompt in enumerate(prompts):
        alone, item = client.generate(prompt, max_new_tokens=4), found[i]
        assert not isinstance(item, MoesaicError)
        assert (item.text, item.token_ids, item.usage) == (alone.text, alone.token_ids, alone.usage)


def test_a_short_answer_does_not_wait_for_a_long_one(server: Server, client: Client) -> None:
    with server.held(), client.generate_batch([[HOLD], [7]], max_new_tokens=5) as batch:
        assert next(batch)[0] == 1
    eventually(lambda: all_free(client))


def test_one_bad_item_leaves_the_others_alone(server: Server) -> None:
    items = {item.index: item for item in sent(server, ids(5), ids(9999), ids(FAIL, 6, 7, 8), pb.GenerateRequest())}
    errors = {i: error_of_item(item.error) for i, item in items.items() if item.HasField("error")}
    assert errors.keys() == {1, 3} and items[0].response.token_ids == [5, 5]
    assert isinstance(errors[1], InvalidRequest) and errors[1].violations[0].field == "prompt.token_ids"
    assert isinstance(errors[3], InvalidRequest) and errors[3].violations[0].reason == "EMPTY_PROMPT"


def test_an_item_that_the_engine_fails_on_says_no_more_than_an_incident(client: Client) -> None:
    found = dict(client.generate_batch([[FAIL, 6, 7, 8], [5]], max_new_tokens=9))
    assert isinstance(found[0], RequestFailed) and "incident" in str(found[0]) and "Reykjavik" not in str(found[0])
    assert not isinstance(found[1], MoesaicError)


@pytest.mark.parametrize("count", [0, MOST_REQUESTS + 1, 5000])
def test_a_batch_of_none_or_of_too_many_is_refused_whole(server: Server, count: int) -> None:
    error = refused(server, *[pb.GenerateRequest(text="a")] * count)
    assert error.violations[0].reason == "BATCH_SIZE" and str(count) in str(error)


def test_prompts_that_no_message_holds_together_are_refused_before_they_are_sent(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="send them in several"):
        client.generate_batch(["a" * 1_000_000] * 5)


def test_millions_of_items_are_refused_before_they_are_built(server: Server) -> None:
    data = bytes([1 << 3 | 2, 0]) * 2_000_000
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream("/moesaic.v1.Generation/GenerateBatch")(data))
    assert "REQUEST_TOO_LARGE" in str(error_of(caught.value).violations[0].reason)  # type: ignore[union-attr]


def test_two_items_of_one_id_are_refused_by_their_indices(server: Server) -> None:
    error = refused(server, ids(5, request_id="a"), ids(6), ids(7, request_id="a"))
    assert error.violations[0].field == "requests[2].request_id" and "requests[0]" in str(error)


def test_an_item_whose_id_runs_elsewhere_is_told_so_alone(server: Server, client: Client) -> None:
    with server.held(), client.stream([HOLD], request_id="mine") as running:
        next(running)
        (_, item) = next(client.generate_batch([[5]], request_id="mine"))
        assert isinstance(item, AlreadyExists) and item.reason == "REQUEST_ID_RUNNING"


def test_more_items_than_the_model_takes_wait_for_room() -> None:
    engine = EngineOptions(num_slots=2)
    with Server(max_requests=3, engine=engine) as server, server.client() as client:
        found = dict(client.generate_batch([[i + 1] for i in range(100)], max_new_tokens=3))
        assert all(not isinstance(item, MoesaicError) for item in found.values()) and len(found) == 100


def test_a_batch_leaves_room_for_others(server: Server, client: Client) -> None:
    with server.held(), client.generate_batch([[HOLD]] * 200, max_new_tokens=9) as batch:
        with server.admin() as admin:
            eventually(lambda: admin.load().models[0].requests == MOST_AT_A_TIME)
        with server.client() as other, pytest.raises(Expired):
            other.generate([7], max_new_tokens=1, timeout=0.2)  # let in, and behind those in the engine
        batch.close()
    eventually(lambda: all_free(client))


@pytest.mark.usefixtures("held")
def test_closing_a_batch_midway_frees_all_that_it_holds(server: Server, client: Client) -> None:
    with client.generate_batch([[7], *[[HOLD]] * 50], max_new_tokens=5) as batch:
        assert next(batch)[0] == 0
    with server.admin() as admin:
        eventually(lambda: admin.load().requests == 0 and admin.load().request_bytes == 0)
    eventually(lambda: all_free(client))


def test_the_bytes_of_a_batch_count_once() -> None:
    with Server(max_request_bytes=1000) as server, server.held(), server.client() as client:
        with client.generate_batch([[HOLD, *range(1, 300)]] * 2, max_new_tokens=5), server.admin() as admin:
            eventually(lambda: admin.load().requests == 2)
            with pytest.raises(Overloaded, match="requests in flight hold 9.. bytes"):
                client.generate([5] * 400)


def test_a_batch_that_is_alone_may_be_larger_than_the_budget_of_bytes() -> None:
    with Server(max_request_bytes=100) as server, server.client() as client:
        found = dict(client.generate_batch([[5] * 90] * 4, max_new_tokens=1))
        assert [getattr(found[i], "token_ids", None) for i in range(4)] == [(5,)] * 4


def test_eight_batches_at_once_are_all_answered(client: Client) -> None:
    def ask(number: int) -> list[tuple[int, ...]]:
        found = dict(client.generate_batch([[number, i] for i in range(1, 21)], max_new_tokens=4))
        return [getattr(found[i], "token_ids", ()) for i in range(20)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(10, 18)))
    assert answers == [[(number, i, number, i) for i in range(1, 21)] for number in range(10, 18)]

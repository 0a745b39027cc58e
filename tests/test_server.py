"""A real server, a real client, an engine that echoes: what every answer must be."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from echo_engine import HOLD
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2
from patience import eventually
from server_harness import Server, all_free

from moesaic.engine.request import FinishReason, Timing
from moesaic.proto import generation_pb2 as pb
from moesaic.server.client import Client
from moesaic.server.handlers import GENERATION, stub

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(log_requests=True) as server:
        yield server


@pytest.fixture
def held(server: Server) -> Iterator[None]:
    with server.held():
        yield


def joined(client: Client, prompt: Any, **settings: Any) -> tuple[str, tuple[int, ...]]:
    chunks = list(client.stream(prompt, **settings))
    assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    return "".join(chunk.text for chunk in chunks), tuple(id for chunk in chunks for id in chunk.token_ids)


def test_a_stream_says_what_the_whole_answer_says(client: Client) -> None:
    whole = client.generate(PROMPT, max_new_tokens=50)
    assert joined(client, PROMPT, max_new_tokens=50) == (whole.text, whole.token_ids)
    assert "Once upon a time" in whole.text


def test_a_stream_equals_the_answer_with_a_stop_string(client: Client) -> None:
    whole = client.generate(PROMPT, max_new_tokens=50, stop=["upon a"])
    assert joined(client, PROMPT, max_new_tokens=50, stop=["upon a"]) == (whole.text, whole.token_ids)
    assert (whole.finish_reason, whole.matched) == (FinishReason.STOP_STRING, "upon a")
    assert "upon" not in whole.text
    assert whole.usage.completion_tokens == len(whole.token_ids) < 50


def test_usage_timing_and_reason_come_with_the_last_chunk(client: Client) -> None:
    last = list(client.stream([7, 8, 9], max_new_tokens=5))[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None and (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 5)
    assert last.usage.tier_used == "full"
    assert last.timing == Timing(0.25, 0.5, 0.75)


def test_a_stop_token_ends_the_answer_and_is_not_in_it(client: Client) -> None:
    answer = client.generate([7, 8, 9], stop_token_ids=[9])
    assert (answer.token_ids, answer.finish_reason, answer.matched) == ((7, 8), FinishReason.STOP_TOKEN, 9)


def test_what_is_left_out_has_defaults(client: Client) -> None:
    assert len(client.generate([7]).token_ids) == 128


def test_a_default_length_fits_the_context(client: Client) -> None:
    assert len(client.generate([7] * 500).token_ids) == 12


def test_an_empty_text_is_the_begin_token(client: Client) -> None:
    assert client.generate("", max_new_tokens=3).token_ids == (1, 1, 1)


def test_eight_streams_at_once_are_eight_right_answers(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda i: joined(client, [i, i + 1], max_new_tokens=100)[1], range(10, 18))
    assert list(answers) == [(i, i + 1) * 50 for i in range(10, 18)]


def test_more_requests_than_slots_wait_and_are_answered(client: Client) -> None:
    with ThreadPoolExecutor(24) as pool:
        answers = pool.map(lambda i: client.generate([i], max_new_tokens=20).token_ids, range(10, 34))
    assert list(answers) == [(i,) * 20 for i in range(10, 34)]


def test_the_request_id_comes_back(client: Client) -> None:
    with client.stream(PROMPT, request_id="mine-1", max_new_tokens=2) as stream:
        next(stream)
        assert stream.request_id == "mine-1"


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_the_receipt_is_in_the_trailing_metadata_too(server: Server, method: str) -> None:
    asked = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[7, 8]), stopping=pb.Stopping(max_new_tokens=3))
    with grpc.insecure_channel(server.address) as channel:
        ask: Any = stub(channel, GENERATION, method)
        if method == "Generate":
            _, call = ask.with_call(asked)
        else:
            call = ask(asked)
            assert list(call)
        told = dict(call.trailing_metadata())
    assert (told["moesaic-prompt-tokens"], told["moesaic-completion-tokens"]) == ("2", "3")
    assert told["moesaic-tier-asked"] == told["moesaic-tier-used"] == "full"


def test_a_request_id_is_made_up_where_none_is_given(client: Client) -> None:
    with client.stream(PROMPT, max_new_tokens=2) as stream:
        assert len(stream.request_id) == 32


@pytest.mark.usefixtures("held")
def test_closing_a_stream_frees_its_slot(client: Client) -> None:
    with client.stream([HOLD]) as stream:
        next(stream)
        eventually(lambda: not all_free(client))
    eventually(lambda: all_free(client))
    assert list(stream) == []


@pytest.mark.usefixtures("held")
def test_a_stream_that_is_dropped_frees_its_slot(client: Client) -> None:
    for _ in client.stream([HOLD]):
        break
    eventually(lambda: all_free(client))


@pytest.mark.usefixtures("held")
def test_a_deadline_frees_the_slot(client: Client) -> None:
    with pytest.raises(Exception, match="time that the caller gave"):
        client.generate([HOLD], timeout=0.1)
    eventually(lambda: all_free(client))


def test_two_hundred_cancelled_streams_leave_nothing_behind(server: Server, client: Client) -> None:
    before = server.log.count("ERROR")
    for i in range(200):
        with client.stream([i % 400 + 1] * 5, max_new_tokens=400, request_id=f"gone-{i % 10}") as stream:
            if i % 2:
                next(stream)
        if i % 10 == 9:  # the ids are used again
            eventually(lambda: all_free(client))
    eventually(lambda: all_free(client))
    assert client.generate([5], max_new_tokens=1).token_ids == (5,)
    assert server.log.count("ERROR") == before and "Traceback" not in server.log


def test_the_model_tells_what_it_is(client: Client) -> None:
    (model,) = client.models()
    assert (model.name, model.state, model.family, model.vocab_size) == ("echo", "SERVING", "echo", 512)
    assert (model.stages, model.tiers, model.max_context) == (("quantize",), ("full",), 512)
    assert client.model("echo").name == client.model().name


@pytest.mark.parametrize("name", ["", "moesaic.v1.Generation", "moesaic.v1.Models", "model:echo"])
def test_health_knows_the_names(client: Client, name: str) -> None:
    assert client.health(name) == "SERVING"


def reflected(server: Server, version: str, request: bytes) -> reflection_pb2.ServerReflectionResponse:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        (answer,) = call(iter([request]))
    return reflection_pb2.ServerReflectionResponse.FromString(answer)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services_and_tells_what_they_are(server: Server, version: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = reflected(server, version, request.SerializeToString())
    names = {service.name for service in answer.list_services_response.service}
    assert {"moesaic.v1.Generation", "moesaic.v1.Models", "grpc.health.v1.Health"} <= names
    for name in names:
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        files = reflected(server, version, request.SerializeToString()).file_descriptor_response
        assert name.rpartition(".")[0] in {
            FileDescriptorProto.FromString(f).package for f in files.file_descriptor_proto
        }


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_requests_that_are_none_are_an_invalid_argument(server: Server, version: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        reflected(server, version, b"\x1a\x05ab")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "is no protobuf message" in error.details()


def test_one_line_per_request_holds_numbers_and_no_text(server: Server, client: Client) -> None:
    client.generate("Once upon a time", max_new_tokens=3, request_id="logged-1")
    eventually(lambda: "logged-1" in server.log)
    line = next(line for line in server.log.splitlines() if "logged-1" in line)
    assert '"status": "OK"' in line and '"completion_tokens": 3' in line and "upon" not in line
    assert '"model": "echo"' in line  # which it did not name


def test_the_port_and_the_configuration_are_printed(server: Server) -> None:
    assert f"serving echo on {server.address}" in server.printed
    assert "max_requests=64" in server.printed

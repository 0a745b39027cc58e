"""Each bad input with the status, the reason and the words that its caller gets."""

import math
import threading
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from echo_engine import FAIL, HOLD, SECRET
from google.rpc import error_details_pb2 as rpc
from google.rpc.status_pb2 import Status
from patience import eventually
from server_harness import Server, all_free

from moesaic.models.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestFailed,
    Unsupported,
    Violation,
)
from moesaic.proto import generation_pb2 as pb
from moesaic.server.client import Client

GENERATE = "/moesaic.v1.Generation/Generate"
STREAM = "/moesaic.v1.Generation/GenerateStream"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(max_requests=8, max_prompt_tokens=600) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def violations(client: Client, prompt: Any = "Once", **settings: Any) -> tuple[Violation, ...]:
    with pytest.raises(InvalidRequest) as caught:
        client.generate(prompt, **settings)
    with pytest.raises(InvalidRequest) as streamed:
        list(client.stream(prompt, **settings))
    found: tuple[Violation, ...] = caught.value.violations
    assert streamed.value.violations == found
    return found


def refused(channel: grpc.Channel, data: bytes, method: str = GENERATE) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(data)
    return caught.value


def detail(error: Any, kind: Any) -> Any:
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    found = kind()
    assert any(packed.Unpack(found) for packed in status.details), f"no {kind.__name__}"
    return found


def test_no_prompt(channel: grpc.Channel) -> None:
    error: Any = refused(channel, b"")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = detail(error, rpc.ErrorInfo)
    assert (info.reason, info.domain) == ("EMPTY_PROMPT", "moesaic")
    (violation,) = detail(error, rpc.BadRequest).field_violations
    assert (violation.field, violation.description) == ("prompt", "is not set; give text, token_ids or messages")


def test_no_token_ids(client: Client) -> None:
    (violation,) = violations(client, [])
    assert (violation.field, violation.reason) == ("prompt", "EMPTY_PROMPT")


def test_a_prompt_longer_than_the_context(client: Client) -> None:
    (violation,) = violations(client, [5] * 510, max_new_tokens=8)
    assert violation.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert violation.metadata == {"prompt_tokens": "510", "max_new_tokens": "8", "limit": "512"}
    assert "shorten the prompt or lower max_new_tokens" in violation.message


def test_a_long_text_is_refused_by_its_tokens(client: Client) -> None:
    (violation,) = violations(client, "Once upon a time " * 5000)
    assert violation.reason == "CONTEXT_LENGTH_EXCEEDED"


def test_a_text_above_a_mebibyte(client: Client) -> None:
    (violation,) = violations(client, "x" * (1 << 20) + "y")
    assert (violation.field, violation.reason) == ("prompt.text", "PROMPT_TOO_LARGE")
    assert "has 1048577 bytes, the limit is 1048576" in violation.message


def test_a_message_above_four_mebibytes_does_not_leave_the_client(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="the limit is 4194304"):
        client.generate("x" * (5 << 20))


def test_every_bad_sampling_value_is_listed_at_once(client: Client) -> None:
    found = violations(client, temperature=-1.0, top_p=0.0, min_p=1.5, max_new_tokens=0)
    assert [v.field for v in found] == [
        "sampling.temperature",
        "sampling.top_p",
        "sampling.min_p",
        "stopping.max_new_tokens",
    ]
    assert found[0].message == "is -1.0, it must be from 0 (greedy) to 2"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
def test_values_that_are_no_numbers(client: Client, name: str, value: float) -> None:
    (violation,) = violations(client, **{name: value})
    assert violation.field == f"sampling.{name}" and str(value) in violation.message


def test_a_message_says_the_decimal_that_was_typed(client: Client) -> None:
    assert "is 2.1," in violations(client, temperature=2.1)[0].message


def test_a_token_outside_the_vocabulary(client: Client) -> None:
    (violation,) = violations(client, [5, 600])
    assert (violation.field, violation.reason) == ("prompt.token_ids", "TOKEN_OUT_OF_VOCABULARY")
    assert "token 600 at index 1" in violation.message


def test_stop_token_ids_outside_the_vocabulary(client: Client) -> None:
    assert violations(client, stop_token_ids=[512])[0].field == "stopping.stop_token_ids"


@pytest.mark.parametrize("stop", [["x"] * 17, ["x" * 257], [""]])
def test_too_many_too_long_and_empty_stop_strings(client: Client, stop: list[str]) -> None:
    assert violations(client, stop=stop)[0].field.startswith("stopping.stop_strings")


@pytest.mark.parametrize("request_id", ["x" * 65, "with space", "é", "new\nline"])
def test_a_request_id_that_cannot_be_a_header(client: Client, request_id: str) -> None:
    assert violations(client, request_id=request_id)[0].field == "request_id"


@pytest.mark.parametrize("values", [{"top_k": -1}, {"seed": -1}, {"max_new_tokens": -5}, {"top_k": 1 << 40}])
def test_numbers_that_the_wire_cannot_hold(client: Client, values: dict[str, int]) -> None:
    ((name, value),) = values.items()
    (violation,) = violations(client, **values)
    assert violation.field.endswith(name) and str(value) in violation.message


def test_an_unknown_setting(client: Client) -> None:
    with pytest.raises(TypeError, match="temprature"):
        client.generate("x", temprature=1.0)  # type: ignore[call-arg, unused-ignore]


def test_an_unknown_model(client: Client) -> None:
    with pytest.raises(NotFound, match="no model 'llama' is served here; there is: echo") as caught:
        client.generate("x", model="llama")
    assert caught.value.name == "llama"
    with pytest.raises(NotFound, match="did you mean 'echo'"):
        client.generate("x", model="ehco")
    with pytest.raises(NotFound):
        client.model("llama")


def test_a_long_model_name_is_not_sent_back(channel: grpc.Channel) -> None:
    error: Any = refused(channel, pb.GenerateRequest(text="x", model="é" * 100_000).SerializeToString())
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert sum(len(value) for _, value in error.trailing_metadata()) + len(error.details()) < 6000


def test_a_tier_that_the_model_does_not_have(client: Client) -> None:
    with pytest.raises(Unsupported, match="tier 'turbo' is not among this model's tiers: full"):
        client.generate("x", tier="turbo")
    assert client.generate("x", tier="full", max_new_tokens=1).usage.tier_used == "full"


def test_a_tier_that_does_not_exist_is_a_failed_precondition(channel: grpc.Channel) -> None:
    request = pb.GenerateRequest(text="x", compute=pb.Compute(tier="turbo"))
    error: Any = refused(channel, request.SerializeToString())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "turbo" in detail(error, rpc.PreconditionFailure).violations[0].description


def test_a_request_id_that_is_still_running(server: Server, client: Client) -> None:
    with server.held(), client.stream([HOLD], request_id="twice") as stream:
        next(stream)
        with pytest.raises(AlreadyExists, match="'twice' is still running"):
            client.generate("Once", request_id="twice")


def test_a_request_id_of_another_caller_is_free(server: Server, client: Client) -> None:
    request = pb.GenerateRequest(text="x", request_id="twice", stopping=pb.Stopping(max_new_tokens=1))
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    with server.held(), client.stream([HOLD], request_id="twice") as stream:
        next(stream)
        with grpc.insecure_channel(server.address, own_connection) as channel:
            answer = channel.unary_unary(GENERATE)(request.SerializeToString())
    assert pb.GenerateResponse.FromString(answer).request_id == "twice"


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x1a\x05abc", b"\x1a\x02\xff\xfe"])
@pytest.mark.parametrize("method", [GENERATE, STREAM, "/moesaic.v1.Models/GetModel", "/grpc.health.v1.Health/Check"])
def test_bytes_that_are_no_message(channel: grpc.Channel, data: bytes, method: str) -> None:
    call = channel.unary_stream(method) if method == STREAM else channel.unary_unary(method)
    try:
        list(call(data)) if method == STREAM else call(data)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert detail(error, rpc.ErrorInfo).reason == "MALFORMED_MESSAGE"
    else:
        assert data == b"\x1a\x02\xff\xfe" and method not in (GENERATE, STREAM)  # an unknown field there


def test_an_unknown_method(channel: grpc.Channel) -> None:
    error: Any = refused(channel, b"", "/moesaic.v1.Generation/Divine")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def refusals(server: Server) -> float:
    """How often it was full, as its metrics tell."""
    with urlopen(f"{server.web}/metrics") as response:
        told = response.read().decode()
    return sum(float(line.split()[-1]) for line in told.splitlines() if 'reason="QUEUE_FULL"' in line)


@pytest.fixture
def full(server: Server, client: Client) -> Iterator[None]:
    """Eight requests are in flight, which do not end."""
    with server.held():
        streams = [client.stream([HOLD]) for _ in range(8)]
        for stream in streams:
            next(stream)
        yield
        for stream in streams:
            stream.close()
        eventually(lambda: all_free(client))


@pytest.mark.usefixtures("full")
def test_a_full_queue(client: Client, channel: grpc.Channel) -> None:
    with pytest.raises(Overloaded, match="8 requests are in flight of at most 8") as caught:
        client.generate("one more")
    assert caught.value.reason == "QUEUE_FULL" and 0 < caught.value.retry_after_seconds <= 60
    error: Any = refused(channel, pb.GenerateRequest(text="x").SerializeToString())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    asked_ms = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
    assert detail(error, rpc.RetryInfo).retry_delay.ToMilliseconds() == asked_ms > 0
    assert error.initial_metadata() == ()


def test_a_full_server_refuses_and_counts_what_has_not_been_sent_yet() -> None:
    with (
        Server(max_requests=1, http=True) as server,
        server.held(),
        Client(server.address) as client,
        client.stream([HOLD]) as stream,
    ):
        next(stream)
        with grpc.insecure_channel(server.address) as channel:
            for method in (GENERATE, STREAM):
                never = threading.Event()
                with pytest.raises(grpc.RpcError, match="in flight of at most 1"):
                    next(channel.stream_stream(method)(iter(never.wait, True), timeout=20))
                never.set()
        assert refusals(server) == 2


def test_too_many_prompt_tokens_in_flight(server: Server, client: Client) -> None:
    with server.held(), client.stream([HOLD, *[5] * 399], max_new_tokens=100) as stream:
        next(stream)
        with pytest.raises(Overloaded, match="hold 400 tokens, 300 more would pass the limit of 600"):
            client.generate([5] * 300)
        assert client.generate([5] * 150, max_new_tokens=1).token_ids == (5,)


def test_a_request_that_the_engine_fails_on_tells_an_incident_and_no_more(server: Server, client: Client) -> None:
    with pytest.raises(RequestFailed, match=r"the engine failed on this request, incident (\w+)") as caught:
        client.generate([FAIL])
    incident = str(caught.value).split()[-1]
    assert SECRET not in str(caught.value)
    eventually(lambda: any(incident in line and SECRET in line for line in server.log.splitlines()))
    assert client.generate([5], max_new_tokens=1).token_ids == (5,)


def test_a_stream_that_fails_late_tells_no_more(client: Client) -> None:
    seen: list[int] = []
    with pytest.raises(RequestFailed) as caught:
        for chunk in client.stream([FAIL]):
            seen += chunk.token_ids
    assert set(seen) <= {FAIL} and SECRET not in str(caught.value)

"""The parts of the server that need no server."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from patience import PATIENCE_SECONDS

from moesaic.engine.options import ModelDescription
from moesaic.engine.receipt import Receipt
from moesaic.engine.request import FinishReason, Request, Row, Stopping, TokenLogprobs
from moesaic.engine.sampling import Sampling
from moesaic.engine.settings import Asked
from moesaic.models.dial import Dial
from moesaic.models.errors import (
    Aborted,
    AddressError,
    InvalidRequest,
    MoesaicError,
    SetupError,
    Unavailable,
    Unread,
    Violation,
)
from moesaic.proto import engine_pb2
from moesaic.server import messages
from moesaic.server.access import Access
from moesaic.server.admission import Admission
from moesaic.server.budget import Budget
from moesaic.server.caller import Caller, called_by
from moesaic.server.calls import Calls
from moesaic.server.exchange import TimeLimits
from moesaic.server.fields import load_of
from moesaic.server.frames import MAX_FRAME_BYTES, FrameBuffer, FrameError, frame
from moesaic.server.generation import Call, in_engine
from moesaic.server.interceptor import CallGuard, Lane
from moesaic.server.listening import check_exposure, listening_address
from moesaic.server.options import ServeOptions, check
from moesaic.server.running import Running
from moesaic.server.status import MAX_VIOLATIONS, error_of, refusal
from moesaic.server.turnstile import Turnstile
from moesaic.server.under_way import UnderWay
from moesaic.server.writes import Write, Writes

RECEIPT = Receipt(Request(1, (5,)), ModelDescription("echo", 1, 1, 9, 9, (), Dial(), "cpu", "float32", 1, 1))

LIMITS = TimeLimits(PATIENCE_SECONDS, PATIENCE_SECONDS, None)
LANE = Lane(Calls(100), LIMITS, Writes(LIMITS.write))


@pytest.mark.parametrize("module", ["serve", "client", "worker", "engine_process"])
def test_the_front_end_and_the_client_import_no_torch(module: str) -> None:
    script = f"import sys, moesaic.server.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_write_that_takes_too_long_ends_and_no_other() -> None:
    async def write(writes: Writes, done: asyncio.Event) -> str:
        try:
            with Write(writes):
                await done.wait()
        except Unread as error:
            return str(error)
        return "written"

    async def both() -> list[str]:
        done, writes = asyncio.Event(), Writes(0.02)
        first = asyncio.create_task(write(writes, asyncio.Event()))
        await asyncio.sleep(0.015)
        second = asyncio.create_task(write(writes, done))
        late = await first
        done.set()
        return [late, await second]

    assert asyncio.run(both()) == ["nothing of the answer was read for 0.02 s (--write-seconds)", "written"]


def test_a_write_that_is_cancelled_is_not_late() -> None:
    async def cancelled() -> bool:
        async def write() -> None:
            with Write(Writes(PATIENCE_SECONDS)):
                await asyncio.Event().wait()

        task = asyncio.create_task(write())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_frames_arrive_whole_however_they_are_cut() -> None:
    commands = [engine_pb2.Command(abort=engine_pb2.Abort(key=i)) for i in range(300)]
    data = b"".join(map(frame, commands))
    buffer = FrameBuffer()
    payloads = [payload for i in range(0, len(data), 7) for payload in buffer.feed(data[i : i + 7])]
    assert [engine_pb2.Command.FromString(payload) for payload in payloads] == commands


def test_a_frame_above_the_limit_is_refused() -> None:
    with pytest.raises(FrameError, match="above the limit"):
        list(FrameBuffer().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little")))


def test_a_request_survives_the_way_to_the_engine() -> None:
    request = Request(
        9, (1, 2), Sampling(0.7, 5, 0.9, 0.1, seed=0), Stopping(3, (4,), True), num_full=1, distributions_at=(1,)
    )
    assert messages.request_of(messages.submit_message(request).submit) == request


def test_a_row_survives_the_way_back() -> None:
    told = TokenLogprobs(1, -0.5, ((3, -0.25), (1, -0.5))), TokenLogprobs(2, -1.5)
    row = Row(
        9, (1, 2), FinishReason.STOP_TOKEN, 0, "", None, choice=3, logprobs=told, prompt_logprobs=told[1:],
        distributions=(b"abcd", b"efgh"),
    )  # fmt: skip
    load = load_of(engine_pb2.Load())
    assert messages.row_of(messages.step_message([row], load).step.rows[0]) == row


def test_a_prompt_whose_log_probabilities_fill_a_frame_comes_in_several_and_is_told_as_one() -> None:
    told = (TokenLogprobs(1, -0.5, tuple((30_000 + i, -0.25) for i in range(20))),) * 70_000
    events = [*messages.step_messages([Row(1, (5,), prompt_logprobs=told)], load_of(engine_pb2.Load()))]
    assert len(events) == 3 and max(len(frame(event)) for event in events) < MAX_FRAME_BYTES
    running = Running(1, 1, RECEIPT, Turnstile())
    for event in events:
        running.put(messages.row_of(event.step.rows[0]))
    [row] = asyncio.run(running.take())
    assert row.token_ids == (5,) and len(row.prompt_logprobs) == 70_000


def test_distributions_of_many_rows_come_in_several_frames() -> None:
    rows = [Row(key, (5,), distributions=(bytes(1 << 22),)) for key in range(6)]
    events = [*messages.step_messages(rows, load_of(engine_pb2.Load()))]
    assert max(len(frame(event)) for event in events) < MAX_FRAME_BYTES
    assert [row.key for event in events for row in event.step.rows] == [*range(6)]


def test_a_part_of_a_prompts_log_probabilities_waits_for_the_token() -> None:
    async def scene() -> None:
        running = Running(1, 1, RECEIPT, Turnstile())
        running.put(Row(1, prompt_logprobs=(TokenLogprobs(1, -0.5),)))
        taking = asyncio.create_task(running.take())
        await asyncio.sleep(0)
        running.put(Row(1, (5,)))
        assert [row.token_ids for row in await taking] == [(5,)]

    asyncio.run(scene())


def test_what_waits_is_taken_as_one_piece() -> None:
    async def scene() -> None:
        running = Running(1, 1, RECEIPT, Turnstile())
        running.put(Row(1, (5,)))
        running.put(Row(1, (6, 7), FinishReason.LENGTH))
        [row] = await running.take()
        assert row.token_ids == (5, 6, 7) and row.finish is FinishReason.LENGTH and running.ended

    asyncio.run(scene())


def test_rows_that_are_asked_for_together_wait_for_one_another_or_for_an_end() -> None:
    async def scene() -> None:
        running = Running(1, 2, RECEIPT, Turnstile())
        running.at_once = 3
        taking = asyncio.create_task(running.take())
        for token in (5, 6):
            running.put(Row(1, (token,)))
            await asyncio.sleep(0.01)
            assert not taking.done()
        running.put(Row(1, (7,)))
        assert [row.token_ids for row in await taking] == [(5, 6, 7)]
        running.put(Row(1, (8,), FinishReason.LENGTH))
        assert [row.token_ids for row in await running.take()] == [(8,)]

    asyncio.run(scene())


@pytest.mark.parametrize("fails", [False, True])
def test_who_asked_to_be_told_hears_that_a_request_ended_or_failed(fails: bool) -> None:
    running, told = Running(1, 1, RECEIPT, Turnstile()), list[str]()
    running.when_ended = lambda: told.append("ended")
    running.put(Row(1, (5,)))
    assert not told
    if fails:
        running.fail(Aborted("gone"))
    else:
        running.put(Row(1, (), FinishReason.LENGTH))
    assert told == ["ended"]


def test_a_failed_request_raises_even_when_tokens_wait() -> None:
    async def scene() -> None:
        running = Running(1, 1, RECEIPT, Turnstile())
        running.put(Row(1, (5,)))
        running.fail(Unavailable("gone", "ENGINE_RESTARTING"))
        with pytest.raises(Unavailable, match="gone"):
            await running.take()

    asyncio.run(scene())


def test_tokens_are_paid_for_as_they_come_whether_they_are_taken_or_not() -> None:
    budget, running = Budget(4, lambda: 0.0), Running(1, 1, RECEIPT, Turnstile())
    engine = SimpleNamespace(submit=lambda _: running, release=lambda _: None)
    model: Any = SimpleNamespace(
        engine=engine, admission=Admission(1), ready=lambda: SimpleNamespace(limits=None), max_prompt_tokens=lambda _: 9
    )
    asked, call = Asked(Request(0, (5,)), ()), Call("me", "id")
    with called_by(Caller("me", budget)), model.admission.place("me") as place:
        with in_engine(model, asked, 0.0, call, place, UnderWay()):
            running.put(Row(1, (6, 7)))
            assert not budget.wait()
            running.put(Row(1, (8,)))
            assert budget.wait()


def test_admission_gives_back_what_a_failing_block_held() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.place("me") as place:
        admission.hold_prompt(place, 1000, 10)
        raise ZeroDivisionError
    assert (admission.num_requests, admission.num_prompt_tokens) == (0, 0)


class Answered(grpc.RpcError):  # type: ignore[misc]
    """A status as a client sees it."""

    def __init__(self, error: MoesaicError) -> None:
        self.told: Any = refusal(error)

    def code(self) -> grpc.StatusCode:
        return self.told.code

    def details(self) -> str:
        return str(self.told.message)

    def trailing_metadata(self) -> Any:
        return self.told.metadata


def test_the_details_stay_below_six_kilobytes() -> None:
    error = InvalidRequest([Violation(f"field[{i}]", "é" * 5000, metadata={"x": "y" * 90}) for i in range(100)])
    told = refusal(error)
    size = sum(len(value) * 4 // 3 for _, value in told.metadata) + len(told.message)
    assert size < 6000
    back = error_of(Answered(error))
    assert isinstance(back, InvalidRequest) and 3 < len(back.violations) <= MAX_VIOLATIONS


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest([Violation("a", "b", "REASON", {"limit": "3"}), Violation("c", "d")]),
        Unavailable("loading", "LOADING", 1.5),
    ],
)
def test_an_exception_comes_back_as_it_was(error: Any) -> None:
    back = error_of(Answered(error))
    assert type(back) is type(error) and vars(back) == vars(error) and str(back) == str(error)


@pytest.mark.parametrize("kind", [ValueError, MoesaicError, SetupError])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_unexpected_exception_tells_an_incident_and_no_more(
    kind: type[Exception], streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(message: bytes, context: object) -> bytes:
        raise kind("a secret")

    async def fails_late(message: bytes, context: object) -> Any:
        yield b"first"
        raise kind("a secret")

    error: Any = asyncio.run(_answer_of(fails_late if streaming else fails, streaming))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details().startswith("internal error, incident ") and "secret" not in str(error)
    assert any("a secret" in (record.exc_text or "") for record in caplog.records)


async def _answer_of(behaviour: Any, streaming: bool) -> grpc.RpcError:
    make = grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
    server = grpc.aio.server(interceptors=(CallGuard(LANE, LANE, Access()),))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test", {"Call": make(behaviour, bytes, bytes)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            if streaming:
                return await _raised_by_stream(channel)
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary("/test/Call")(b"")
            return caught.value
    finally:
        await server.stop(0)


async def _raised_by_stream(channel: grpc.aio.Channel) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        async for message in channel.unary_stream("/test/Call")(b""):
            assert message == b"first"
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_loopback_takes_neither_tls_nor_tokens(host: str) -> None:
    check_exposure(host, has_tls=False, has_tokens=False)
    assert listening_address(host) in ("127.0.0.1", "::1", "127.1.2.3")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::"])
def test_a_host_that_others_can_reach_takes_both_tls_and_tokens(host: str) -> None:
    check_exposure(host, has_tls=True, has_tokens=True)
    for tls, tokens, flags in ((True, False, "--tokens"), (False, True, "--tls-cert and --tls-key")):
        with pytest.raises(AddressError, match=f"takes both TLS and tokens: add {flags}; or listen on 127.0.0.1"):
            check_exposure(host, tls, tokens)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": ()}, "no model to serve"),
        ({"models": (("a", "x"), ("a", "y"))}, "two models are called 'a'"),
        ({"max_requests": 0}, "must be at least 1"),
        ({"port": 70000}, "port 70000 does not exist"),
    ],
)
def test_options_that_no_server_can_start_with(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        check(ServeOptions(**{"models": (("a", "x"),), **values}))

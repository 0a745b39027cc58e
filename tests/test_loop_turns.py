"""What one caller may do in a turn of the loop before the others have theirs."""

import asyncio
from typing import Any

import grpc
import pytest
from starlette.requests import Request

from moesaic.models.errors import InvalidRequest
from moesaic.server.byte_budget import ByteBudget
from moesaic.server.exchange import Exchange, TimeLimits
from moesaic.server.http import body
from moesaic.server.turnstile import Turnstile
from moesaic.server.writes import Writes

MOMENT = 60.0
LONG, SHORT = b'{"prompt": "' + b"a" * (1 << 20) + b'"}', b'{"prompt": "a"}'


class Turns:
    """Counts those of the loop, and notes in which of them bodies were parsed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.parsed, self._parse = 0, list[int](), body.parsed_of_few
        patch.setattr(body, "parsed_of_few", self.parse)

    def parse(self, data: bytes) -> dict[str, Any]:
        self.parsed.append(self.now)
        return self._parse(data)

    async def until_done(self, *works: Any) -> list[Any]:
        tasks = [asyncio.ensure_future(work) for work in works]
        while not all(task.done() for task in tasks):
            self.now += 1
            await asyncio.sleep(0)
        return [task.result() for task in tasks]


def request_of(data: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data}

    return Request({"type": "http", "headers": [], "client": None}, receive)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)


@pytest.mark.parametrize(("data", "apart"), [(LONG, 3), (SHORT, 0)])
def test_long_bodies_are_parsed_one_after_the_other(turns: Turns, data: bytes, apart: int) -> None:
    async def scene() -> None:
        reader = body.BodyReader(ByteBudget(1 << 30), MOMENT)
        found = await turns.until_done(*(reader.read(request_of(data)) for _ in range(4)))
        assert found == [body.parsed(data)] * 4

    asyncio.run(scene())
    times = turns.parsed[:4]
    assert [after - before >= apart for before, after in zip(times, times[1:], strict=False)] == [True] * 3


def test_a_body_that_is_wrong_lets_the_next_be_parsed(turns: Turns) -> None:
    async def scene() -> None:
        reader = body.BodyReader(ByteBudget(1 << 30), MOMENT)
        with pytest.raises(InvalidRequest):
            await reader.read(request_of(LONG[:-1]))
        assert await reader.read(request_of(LONG)) == body.parsed(LONG)

    asyncio.run(scene())


def served_in(turnstile: Turnstile, turns: Turns, count: int, given_up: int = 0) -> list[int]:
    """The turns in which so many streams pass that wake at once; some give up before."""

    async def one(number: int) -> int:
        try:
            await turnstile.passed()
        except asyncio.CancelledError:
            return -1
        return turns.now

    async def scene() -> list[int]:
        tasks = [asyncio.create_task(one(number)) for number in range(count)]
        await asyncio.sleep(0)
        for task in tasks[4 : 4 + given_up]:
            task.cancel()
        return await turns.until_done(*tasks)

    return asyncio.run(scene())


def test_of_many_streams_that_wake_at_once_few_go_on_in_a_turn(turns: Turns) -> None:
    found = served_in(Turnstile(4), turns, 40)
    assert found == sorted(found) and max(map(found.count, found)) == 4 and found[-1] - found[3] >= 9


def test_a_stream_that_has_ended_takes_no_turn(turns: Turns) -> None:
    found = served_in(Turnstile(4), turns, 40, given_up=20)
    assert found.count(-1) == 20 and found[-1] - found[3] <= 6


def test_few_streams_wait_for_nobody(turns: Turns) -> None:
    assert len({*served_in(Turnstile(4), turns, 4)}) == 1


class HungUp:
    """The context of a call whose caller is gone: gRPC ends it some turns after nothing more was read."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()

    async def read(self) -> Any:
        self.end_after(20)
        return grpc.aio.EOF

    def end_after(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self.end_after, turns - 1)
        elif self.task is not None:
            self.task.cancel()


def test_who_hangs_up_before_a_message_is_not_told_that_there_is_none() -> None:
    async def asked() -> None:
        handler = grpc.unary_unary_rpc_method_handler(None)
        await Exchange(handler, HungUp(), TimeLimits(MOMENT, MOMENT, None), Writes(MOMENT)).only_message()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asked())

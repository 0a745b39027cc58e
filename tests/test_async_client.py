"""The client for coroutines: the same answers and errors as the other one, and nothing left running."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from echo_engine import HOLD
from patience import PATIENCE_SECONDS, eventually
from server_harness import Server, all_free, free_port

import moesaic
from moesaic.models.errors import AddressError, Expired, InvalidRequest, NotFound, Unavailable, Unsupported
from moesaic.server.async_client import AsyncClient
from moesaic.server.client import Client


def run(server: Server, use: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    """What a coroutine makes of a client of this server."""

    async def within() -> Any:
        async with AsyncClient(server.address, retries=0) as client:
            return await use(client)

    return asyncio.run(asyncio.wait_for(within(), PATIENCE_SECONDS))


def test_it_has_every_call_of_the_other_client_with_the_same_parameters() -> None:
    names = [name for name in vars(Client) if not name.startswith("_")]
    assert names == [name for name in vars(AsyncClient) if not name.startswith("_")]
    for name in names:
        own, other = (inspect.signature(getattr(kind, name)).parameters for kind in (AsyncClient, Client))
        assert list(own.values()) == list(other.values())


def test_the_package_has_it() -> None:
    assert moesaic.AsyncClient is AsyncClient and "AsyncClient" in dir(moesaic)


def test_it_answers_as_the_other_one(server: Server, client: Client) -> None:
    async def use(asking: AsyncClient) -> Any:
        whole = await asking.generate([5, 6], max_new_tokens=3)
        parts = [chunk async for chunk in asking.stream([5, 6], max_new_tokens=3)]
        return whole, [token for part in parts for token in part.token_ids], await asking.models()

    whole, streamed, models = run(server, use)
    theirs = client.generate([5, 6], max_new_tokens=3)
    assert (whole.token_ids, whole.text, models[0].name) == (theirs.token_ids, theirs.text, "echo")
    assert tuple(streamed) == whole.token_ids


def test_batches_and_scores_are_answered_as_the_other_one_is(server: Server, client: Client) -> None:
    async def use(asking: AsyncClient) -> Any:
        batch = {index: item async for index, item in asking.generate_batch([[5], [9999], [6]], max_new_tokens=2)}
        return batch, await asking.score("a", [" b", " c"], logprobs=True), await asking.tokenize("Once")

    batch, scores, ids = run(server, use)
    assert batch[0].token_ids == (5, 5) and isinstance(batch[1], InvalidRequest) and batch[2].token_ids == (6, 6)
    assert scores == client.score("a", [" b", " c"], logprobs=True) and ids == client.tokenize("Once")


def test_many_calls_run_beside_each_other(server: Server) -> None:
    async def use(asking: AsyncClient) -> list[Any]:
        return await asyncio.gather(*(asking.generate([number], max_new_tokens=2) for number in range(5, 25)))

    assert [answer.token_ids[0] for answer in run(server, use)] == list(range(5, 25))


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda asking: asking.generate([5], max_new_tokens=0), InvalidRequest, "max_new_tokens"),
        (lambda asking: asking.generate([5], model="none"), NotFound, "no model 'none' is served"),
        (lambda asking: asking.chat([{"role": "user", "content": "x"}]), Unsupported, "template"),
        (lambda asking: anext(asking.stream([5], model="none")), NotFound, "no model 'none' is served"),
        (lambda asking: asking.generate([5], timeout=0), Expired, "time that the caller gave"),
    ],
)
def test_it_raises_what_the_server_raised(server: Server, use: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run(server, use)


def test_nobody_there_is_an_address_error() -> None:
    async def use() -> None:
        async with AsyncClient(f"127.0.0.1:{free_port()}", retries=0) as asking:
            await asking.models()

    with pytest.raises(AddressError, match="moesaic serve PATH"):
        asyncio.run(use())


def test_it_waits_until_a_server_is_ready(server: Server) -> None:
    assert run(server, lambda asking: asking.wait_until_ready(PATIENCE_SECONDS)) is None


def test_a_client_that_was_never_used_closes() -> None:
    assert asyncio.run(AsyncClient("127.0.0.1:9").close()) is None


# --- nothing is left running ---------------------------------------------------------------------------------------


@asynccontextmanager
async def held_stream(server: Server, asking: AsyncClient) -> AsyncIterator[Any]:
    """A stream whose answer stays at its third token."""
    with server.held():
        stream = asking.stream([HOLD])
        await anext(stream)
        yield stream


async def freed(asking: AsyncClient) -> None:
    """Returns when the engine holds no request; the test ends in time or fails."""
    while True:
        load = (await asking.model()).load
        if load is not None and load.free_slots == load.num_slots:
            return
        await asyncio.sleep(0.01)


def test_closing_a_stream_ends_it_and_frees_its_slot(server: Server) -> None:
    async def use(asking: AsyncClient) -> list[Any]:
        async with held_stream(server, asking) as stream:
            await stream.close()
            rest = [chunk async for chunk in stream]
            await freed(asking)
            return rest

    assert run(server, use) == []


def test_leaving_the_block_of_a_stream_frees_its_slot(server: Server) -> None:
    async def use(asking: AsyncClient) -> None:
        async with held_stream(server, asking) as stream:
            async with stream:
                pass
            await freed(asking)

    run(server, use)


def test_a_stream_that_is_dropped_frees_its_slot(server: Server) -> None:
    async def read_one(asking: AsyncClient) -> None:
        async for _ in asking.stream([HOLD]):
            return

    async def use(asking: AsyncClient) -> None:
        with server.held():
            await read_one(asking)
            gc.collect()
            await freed(asking)

    run(server, use)


def test_a_task_that_is_cancelled_is_cancelled_and_frees_its_slot(server: Server) -> None:
    async def use(asking: AsyncClient) -> bool:
        async with held_stream(server, asking) as stream:
            task = asyncio.ensure_future(anext(stream))
            whole = asyncio.ensure_future(asking.generate([HOLD]))
            await asyncio.sleep(0)
            task.cancel()
            whole.cancel()
            await asyncio.wait([task, whole])
            await freed(asking)
            return task.cancelled() and whole.cancelled()

    assert run(server, use)


def test_leaving_the_client_cancels_what_runs_and_says_so(server: Server, client: Client) -> None:
    async def use() -> None:
        with server.held():
            async with AsyncClient(server.address) as asking:
                stream = asking.stream([HOLD])
                await anext(stream)
                reading = asyncio.ensure_future(collect(stream))
                await asyncio.sleep(0)
            await reading

    with pytest.raises(Unavailable, match="cancelled"):
        asyncio.run(use())
    eventually(lambda: all_free(client))


async def collect(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def test_a_stream_says_its_id(server: Server) -> None:
    async def use(asking: AsyncClient) -> str:
        async with asking.stream([5], request_id="mine") as stream:
            return await stream.request_id()

    assert run(server, use) == "mine"

"""Three servers that are started again one after the other, under callers who use our client."""

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ...models.errors import MoesaicError
from ...server.async_client import AsyncClient
from .faults import ended
from .measure import Generator, milliseconds
from .processes import TimedServer, free_port
from .timed_engine import Pace

_PACE, _SLOTS, _TOKENS = Pace(step=0.01), 32, 5
_DRAIN_SECONDS = 10.0
_REST_SECONDS = 1.0


@dataclass(slots=True)
class Calls:
    """Unary calls that leave when they are meant to."""

    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    async def one(self, client: AsyncClient, meant: float) -> None:
        """One call, measured from when it was meant to leave."""
        try:
            await client.generate([300, 301], max_new_tokens=_TOKENS, ignore_eos=True, timeout=30.0)
            self.seconds.append(time.monotonic() - meant)
        except MoesaicError as error:
            self.failed[f"{type(error).__name__}: {str(error)[:100]}"] += 1


async def _calls(address: str, rate: float, over: asyncio.Event, generator: Generator) -> Calls:
    """Poisson arrivals at this rate until it is over; all that has left is waited for."""
    calls, chance, meant = Calls(), random.Random(0), time.monotonic()
    async with AsyncClient(address, balance=True) as client, asyncio.TaskGroup() as group:
        while not over.is_set():
            meant += chance.expovariate(rate)
            await asyncio.sleep(meant - time.monotonic())
            generator.late(time.monotonic() - meant)
            group.create_task(calls.one(client, meant))
    return calls


async def _restart_all(
    stack: ExitStack, servers: list[TimedServer], ports: list[int], rest: float
) -> list[dict[str, Any]]:
    """Ends each and starts it again at its port, when the one before serves."""
    ends = []
    for i, port in enumerate(ports):
        await asyncio.sleep(rest)
        ends.append(await asyncio.to_thread(ended, servers[i]))
        servers[i] = stack.enter_context(_server(port))
        await asyncio.to_thread(servers[i].wait)
    await asyncio.sleep(rest)
    return ends


def _server(port: int) -> TimedServer:
    return TimedServer(_PACE, _SLOTS, wait=False, port=port, drain_seconds=_DRAIN_SECONDS, http=False)


def measure_rolling(count: int, rate: float, rest: float = _REST_SECONDS) -> dict[str, Any]:
    """`count` servers behind one name, `rate` calls a second, `rest` seconds between two of them."""
    return asyncio.run(_measured(count, rate, rest))


async def _measured(count: int, rate: float, rest: float) -> dict[str, Any]:
    with ExitStack() as stack:
        ports = [free_port() for _ in range(count)]
        servers = [stack.enter_context(_server(port)) for port in ports]
        for server in servers:
            server.wait()
        address = "ipv4:" + ",".join(server.address for server in servers)
        over, generator = asyncio.Event(), Generator()
        calling = asyncio.create_task(_calls(address, rate, over, generator))
        ends = await _restart_all(stack, servers, ports, rest)
        over.set()
        calls = await calling
        for server in servers:
            server.check()
        return {
            "servers": count, "calls_per_second": rate, "calls": len(calls.seconds) + calls.failed.total(),
            "failed": calls.failed.total(), "failures": dict(calls.failed),
            "call_ms": milliseconds(calls.seconds, 0.5, 0.99, 1.0), "ends": ends, "generator": generator.figures(),
        }  # fmt: skip

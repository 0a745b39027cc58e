"""What every call passes on its way to its handler, and the one place where exceptions become statuses."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from ..models.errors import Expired
from .access import Access
from .caller import called_by, caller_of
from .calls import Calls
from .exchange import Exchange, TimeLimits
from .incident import let_go, told
from .scopes import asked_by
from .status import refusal
from .tracing import Tracing, continued
from .writes import Writes

PROBES = "/grpc.health.v1.Health/"
CheckRoom = Callable[[str], None]  # of a caller, by its name; raises Overloaded


@dataclass(frozen=True, slots=True)
class Lane:
    """What calls of one kind have for themselves, so that those of another cannot take it: room and time."""

    calls: Calls
    limits: TimeLimits
    writes: Writes


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Guards every method: callers that have no right to it, too many calls or slow ones, whatever a handler raises.

    To gRPC each method is one of streams, which on the wire is the same: a handler of one message would not be called
    before the message is there, nor asked before its answer is read, however long that takes. A handler that answers in
    parts must be an async generator. Probes have a lane of their own. check_room: by method, what refuses a caller
    before its message is read.
    """

    def __init__(
        self, requests: Lane, probes: Lane, access: Access, tracing: Tracing | None = None,
        check_room: Mapping[str, CheckRoom] | None = None,
    ) -> None:  # fmt: skip
        self._requests = requests
        self._probes = probes
        self._access, self._tracing, self._check_room = access, tracing, check_room or {}
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler | None]], details: Any
    ) -> grpc.RpcMethodHandler | None:
        known = self._guarded.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None:
            return None
        lane = self._probes if details.method.startswith(PROBES) else self._requests
        check_room = self._check_room.get(details.method)
        guarded = _guarded(handler, details.method, lane, self._access, self._tracing, check_room)
        self._guarded[details.method] = guarded
        return guarded


def _guarded(
    handler: grpc.RpcMethodHandler,
    method: str,
    lane: Lane,
    access: Access,
    tracing: Tracing | None,
    check_room: CheckRoom | None,
) -> grpc.RpcMethodHandler:
    asked = asked_by(method)

    async def guarded(_: Any, context: grpc.aio.ServicerContext) -> None:
        try:
            caller = access.admit(_authorization(context), asked)
            with called_by(caller), continued(tracing, context.invocation_metadata() or ()):
                lane.calls.enter(context)
                if check_room is not None and not context.done():
                    check_room(caller_of(context))
                exchange = Exchange(handler, context, lane.limits, lane.writes)
                await _in_time(_answer(handler, exchange, context), lane.limits.whole)
        except Exception as error:
            await _abort(error, context, method)

    return grpc.stream_stream_rpc_method_handler(guarded, None, handler.response_serializer)


def _authorization(context: grpc.aio.ServicerContext) -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]


async def _answer(handler: grpc.RpcMethodHandler, exchange: Exchange, context: grpc.aio.ServicerContext) -> None:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    asked = exchange.messages() if handler.request_streaming else await exchange.only_message()
    if not handler.response_streaming:
        await exchange.send(await behaviour(asked, context))
        return
    async with aclosing(behaviour(asked, context)) as answers:
        async for answer in answers:
            await exchange.send(answer)


async def _in_time(answer: Awaitable[None], seconds: float | None) -> None:
    """Raises Expired when the whole of a call takes longer than it may here."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await answer
    except TimeoutError:
        if not limit.expired():
            raise
        text = f"the call took longer than {seconds:g} s, which is all that one may take here (--request-seconds)"
        raise Expired(text, "REQUEST_TOO_LONG") from None


async def _abort(error: Exception, context: grpc.aio.ServicerContext, method: str) -> None:
    """Ends the call with a status, which waits behind an answer that is not read until it is, or the caller goes."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if context.done() or _is_end(error):  # the caller or the server is gone: nobody to tell, and no error
        raise asyncio.CancelledError from None
    status = refusal(told(error, method))
    let_go(error)
    try:
        await context.abort(status.code, status.message, status.metadata)
    except grpc.aio.InternalError:  # gone before it was told
        raise asyncio.CancelledError from None


def _is_end(error: Exception) -> bool:
    """Whether gRPC says by it that the call is over; a UsageError says that its own functions were called wrongly."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)

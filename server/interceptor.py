"""The one place where exceptions become statuses. Nothing that was not meant for callers passes it."""

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..models.errors import InvalidRequest, MoesaicError, RequestFailed, SetupError, Violation
from .status import refusal

_log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Guards every method with one request message: bytes that are no message, and whatever a handler raises."""

    def __init__(self) -> None:
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler | None]], details: Any
    ) -> grpc.RpcMethodHandler | None:
        known = self._guarded.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or handler.request_streaming:
            return handler
        self._guarded[details.method] = guarded = _guard(handler, details.method)
        return guarded


def _guard(handler: grpc.RpcMethodHandler, method: str) -> grpc.RpcMethodHandler:
    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
    wrap = _guarded_stream if inspect.isasyncgenfunction(behaviour) else _guarded_call
    return make(wrap(behaviour, method), _safe(handler.request_deserializer), handler.response_serializer)


def _safe(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that never raises: what it would raise reaches the caller as UNKNOWN. It gives what is wrong."""

    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            text = "is no protobuf message of this method, or holds text that is not UTF-8"
            return InvalidRequest([Violation("request", text, "MALFORMED_MESSAGE")])
        except InvalidRequest as error:
            return error

    return deserialize


def _guarded_call(behaviour: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def call(message: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await behaviour(_well_formed(message), context)
        except Exception as error:
            await _abort(error, context, method)

    return call


def _guarded_stream(behaviour: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., AsyncIterator[Any]]:
    async def stream(message: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            async with aclosing(behaviour(_well_formed(message), context)) as answers:  # type: ignore[type-var]
                async for answer in answers:
                    yield answer
        except Exception as error:
            await _abort(error, context, method)

    return stream


def _well_formed(message: Any) -> Any:
    if isinstance(message, InvalidRequest):
        raise message
    return message


async def _abort(error: Exception, context: grpc.aio.ServicerContext, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if context.cancelled() or context.done():  # the caller is gone: nobody to tell, and no error
        raise asyncio.CancelledError from None
    told = refusal(_told(error, method))
    await context.abort(told.code, told.message, told.metadata)


def _told(error: Exception, method: str) -> MoesaicError:
    """What the caller may know of it; the rest goes to the log under an incident id."""
    ours = isinstance(error, RequestFailed | SetupError) or type(error) is MoesaicError
    if isinstance(error, MoesaicError) and not ours:
        return error
    incident = secrets.token_hex(4)
    if isinstance(error, RequestFailed):
        _log.error("incident %s in %s: %s", incident, method, error)
        return RequestFailed(f"the engine failed on this request, incident {incident}")
    _log.error("incident %s in %s", incident, method, exc_info=error)
    return MoesaicError(f"internal error, incident {incident}")

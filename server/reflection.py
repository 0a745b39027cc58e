"""Server reflection, v1 and v1alpha: the same messages under two names. Malformed bytes are told as such."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from ..models.errors import InvalidRequest, Violation
from .status import refusal

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
SERVICE = "ServerReflection"
_MALFORMED = Violation("request", "is no ServerReflectionRequest, or holds text that is not UTF-8", "MALFORMED_MESSAGE")


def reflection_handlers(names: Sequence[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Handlers that tell of these services, and of reflection itself."""
    _know_v1()
    services = (f"{V1}.{SERVICE}", f"{V1ALPHA}.{SERVICE}")
    servicer = ReflectionServicer((*names, *services))

    async def answers(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for answer in servicer.ServerReflectionInfo(_judged(requests, context), context):
            yield answer

    serialize = reflection_pb2.ServerReflectionResponse.SerializeToString
    methods = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(answers, _parsed, serialize)}
    return tuple(grpc.method_handlers_generic_handler(service, methods) for service in services)


async def _judged(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
    async for request in requests:
        if request is None:
            told = refusal(InvalidRequest([_MALFORMED]))
            await context.abort(told.code, told.message, told.metadata)
        yield request


def _parsed(data: bytes) -> Any:
    """None for what is no request: what a deserializer raises would reach the caller as UNKNOWN."""
    try:
        return reflection_pb2.ServerReflectionRequest.FromString(data)
    except DecodeError:
        return None


def _know_v1() -> None:
    """Adds the v1 descriptors, which differ from those of v1alpha by name, unless a library has brought them."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(f"{V1}.{SERVICE}")
    except KeyError:
        proto = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(proto)
        named = text_format.Parse(text_format.MessageToString(proto).replace(V1ALPHA, V1), type(proto)())
        named.name = "grpc/reflection/v1/reflection.proto"
        pool.AddSerializedFile(named.SerializeToString())

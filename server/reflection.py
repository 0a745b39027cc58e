"""Server reflection, v1 and v1alpha: the same messages under two names."""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
SERVICE = "ServerReflection"


def reflection_handlers(names: Sequence[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Handlers that tell of these services, and of reflection itself."""
    _know_v1()
    services = (f"{V1}.{SERVICE}", f"{V1ALPHA}.{SERVICE}")
    method = grpc.stream_stream_rpc_method_handler(
        ReflectionServicer((*names, *services)).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": method}
    return tuple(grpc.method_handlers_generic_handler(service, methods) for service in services)


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

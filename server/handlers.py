"""gRPC methods from the descriptors of our protos, for both ends of the wire."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from ..proto import admin_pb2, generation_pb2, inference_pb2, scoring_pb2
from .wire_limits import bounded

GENERATION: ServiceDescriptor = generation_pb2.DESCRIPTOR.services_by_name["Generation"]
MODELS: ServiceDescriptor = generation_pb2.DESCRIPTOR.services_by_name["Models"]
SCORING: ServiceDescriptor = scoring_pb2.DESCRIPTOR.services_by_name["Scoring"]
INFERENCE: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
ADMIN: ServiceDescriptor = admin_pb2.DESCRIPTOR.services_by_name["Admin"]


def add_service(server: grpc.aio.Server, service: ServiceDescriptor, servicer: object) -> None:
    """Has a server offer a service: every method of the descriptor is a method of `servicer`.

    Each is registered by name, so that calls of one do not wait in line behind a flood of another.
    """
    methods = {method.name: _handler(method, getattr(servicer, method.name)) for method in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, methods),))
    server.add_registered_method_handlers(service.full_name, methods)


def _handler(method: MethodDescriptor, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler:
    make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    return make(behaviour, bounded(request), response.SerializeToString)


def stub(channel: grpc.Channel, service: ServiceDescriptor, name: str) -> Callable[..., Any]:
    """The client's side of one method."""
    method = service.methods_by_name[name]
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call: Callable[..., Any] = make(
        f"/{service.full_name}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return call

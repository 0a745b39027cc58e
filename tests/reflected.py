"""A client that knows nothing of a service but what the server's reflection tells."""

from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Reflected:
    """The methods and messages of one service of a server."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._channel, self._pool = channel, DescriptorPool()
        self._load(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service), set())
        self._service = self._pool.FindServiceByName(service)

    def message(self, kind: str, /, **fields: Any) -> Any:
        """A message of the service's own package."""
        found = self._pool.FindMessageTypeByName(f"{self._service.file.package}.{kind}")
        return GetMessageClass(found)(**fields)

    def call(self, method: str, message: Any) -> Any:
        """What a unary method answers."""
        found = self._service.methods_by_name[method]
        path, answer = f"/{self._service.full_name}/{method}", GetMessageClass(found.output_type)
        return self._channel.unary_unary(path, message.__class__.SerializeToString, answer.FromString)(message)

    def _load(self, request: reflection_pb2.ServerReflectionRequest, known: set[str]) -> None:
        """Adds the files that are answered, behind those that they import."""
        call = self._channel.stream_stream(
            REFLECTION,
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        (response,) = call(iter([request]))
        for data in response.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            if file.name not in known:
                known.add(file.name)
                for name in file.dependency:
                    self._load(reflection_pb2.ServerReflectionRequest(file_by_filename=name), known)
                self._pool.Add(file)

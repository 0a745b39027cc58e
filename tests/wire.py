"""The public wires, a line for each name and number: what a client that was built before must still find.

python tests/wire.py adds to proto/wire.txt what is new. It takes nothing out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from moesaic.proto import admin_pb2, generation_pb2, inference_pb2, scoring_pb2

FILE = Path(__file__).resolve().parents[1] / "proto" / "wire.txt"
PUBLIC = (generation_pb2, scoring_pb2, admin_pb2, inference_pb2)


def described() -> set[str]:
    """The lines of the protos as they are."""
    found = set[str]()
    for module in PUBLIC:
        proto = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(proto)
        found.update(lines_of(proto))
    return found


def recorded() -> set[str]:
    """The lines as they were promised."""
    return set(FILE.read_text().splitlines())


def lines_of(proto: FileDescriptorProto) -> Iterator[str]:
    """What clients of one file depend on."""
    for message in proto.message_type:
        yield from _message_lines(message, proto.package)
    for enum in proto.enum_type:
        yield from _enum_lines(enum, proto.package)
    for service in proto.service:
        for method in service.method:
            streams = ["stream " if each else "" for each in (method.client_streaming, method.server_streaming)]
            asked, answered = (kind.lstrip(".") for kind in (method.input_type, method.output_type))
            yield f"{proto.package}.{service.name}/{method.name}: {streams[0]}{asked} -> {streams[1]}{answered}"


def _message_lines(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield f"{name}"
    for field in message.field:
        yield f"{name} {field.number} {_kind(field)} {field.name}{_oneof(message, field)}"
    for inner in message.nested_type:
        yield from _message_lines(inner, name)
    for enum in message.enum_type:
        yield from _enum_lines(enum, name)


def _enum_lines(enum: EnumDescriptorProto, scope: str) -> Iterator[str]:
    for value in enum.value:
        yield f"{scope}.{enum.name} {value.number} {value.name}"


def _kind(field: FieldDescriptorProto) -> str:
    many = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    kind = field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"{many}{'optional ' if field.proto3_optional else ''}{kind}"


def _oneof(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if field.proto3_optional or not field.HasField("oneof_index"):
        return ""
    return f" of {message.oneof_decl[field.oneof_index].name}"


if __name__ == "__main__":
    before = recorded() if FILE.exists() else set()
    FILE.write_text("\n".join(sorted(before | described())) + "\n")
    sys.stdout.write(f"{len(described() - before)} lines are new in {FILE.name}\n")

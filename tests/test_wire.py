"""Clients that were built against an earlier version go on to work: what was promised of the wires is still there."""

import sys
from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from house import ROOT
from wire import PUBLIC, described, lines_of, recorded

from moesaic.proto import generation_pb2


def test_nothing_that_was_promised_of_the_wires_is_gone_or_another() -> None:
    gone = sorted(recorded() - described())
    assert not gone, f"clients depend on these, give them back and add new ones beside them: {gone}"
    new = len(described() - recorded())
    sys.stdout.write(f"{new} lines are new; python tests/wire.py promises them")


def planted(change: Callable[[FileDescriptorProto], object]) -> tuple[set[str], set[str]]:
    """(what is gone, what is new) after a change of generation.proto."""
    proto = FileDescriptorProto()
    generation_pb2.DESCRIPTOR.CopyToProto(proto)
    before = set(lines_of(proto))
    change(proto)
    after = set(lines_of(proto))
    return before - after, after - before


def field(proto: FileDescriptorProto, message: str, name: str) -> FieldDescriptorProto:
    (found,) = (each for each in proto.message_type if each.name == message)
    return next(each for each in found.field if each.name == name)


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: setattr(field(proto, "GenerateRequest", "model"), "number", 99),
        lambda proto: setattr(field(proto, "GenerateRequest", "model"), "name", "model_name"),
        lambda proto: setattr(field(proto, "Usage", "prompt_tokens"), "type", FieldDescriptorProto.TYPE_UINT64),
        lambda proto: setattr(field(proto, "Sampling", "temperature"), "proto3_optional", False),
        lambda proto: setattr(field(proto, "TokenIds", "ids"), "label", FieldDescriptorProto.LABEL_OPTIONAL),
        lambda proto: setattr(field(proto, "GenerateRequest", "text"), "oneof_index", 1),
        lambda proto: proto.message_type.pop(),
        lambda proto: proto.enum_type[0].value.pop(),
        lambda proto: setattr(proto.service[0].method[0], "server_streaming", True),
        lambda proto: proto.service[0].method.pop(),
        lambda proto: setattr(proto, "package", "moesaic.v2"),
    ],
)
def test_a_change_that_breaks_clients_is_noticed(change: Callable[[FileDescriptorProto], object]) -> None:
    gone, _ = planted(change)
    assert gone


def test_an_addition_is_no_break() -> None:
    added = FieldDescriptorProto(name="later", number=900, type=FieldDescriptorProto.TYPE_BOOL)
    gone, new = planted(lambda proto: proto.message_type[0].field.append(added))
    assert (gone, new) == (set(), {"moesaic.v1.GenerateRequest 900 bool later"})


def test_every_public_proto_is_among_those_that_are_looked_at() -> None:
    files = {file.stem for file in (ROOT / "proto").glob("*.proto")} - {"engine"}
    assert files == {module.__name__.rpartition(".")[2].removesuffix("_pb2") for module in PUBLIC}

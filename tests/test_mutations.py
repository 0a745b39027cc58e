"""Thousands of messages that nobody meant: no method answers one with a fault of its own, and none ends a server."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from echo_engine import CRASH
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from patience import PATIENCE_SECONDS
from server_harness import Server

from moesaic.server.client import Client
from moesaic.server.handlers import ADMIN, GENERATION, INFERENCE, MODELS, SCORING

METHODS = [method for service in (GENERATION, SCORING, MODELS, INFERENCE) for method in service.methods]
HARMLESS = [method for method in ADMIN.methods if method.name != "Drain"]
FAULTS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED}
TEXTS = [
    "",
    "a",
    "echo",
    "stories260k",
    "full",
    "text_input",
    "BYTES",
    "1",
    "é\0\n",
    "x" * 3000,
    "{",
    "[1,",
    "-1",
    "nan",
]
NUMBERS: dict[str, list[Any]] = {
    "float": [0.0, -1.0, 0.5, 1e30, float("nan"), float("inf"), float("-inf")],
    "uint": [0, 1, 2, 127, 511, 512, (1 << 32) - 1],
    "int": [0, 1, -1, (1 << 31) - 1, -(1 << 31)],
}
_FIELD = FieldDescriptor
GENERATING = ("Generate", "GenerateStream", "GenerateBatch", "ModelInfer")
TEXT = {"text": "Once upon a time"}
RIGHT: dict[str, dict[str, Any]] = {  # what a message begins with, which would be answered
    **dict.fromkeys(("Generate", "GenerateStream", "Validate", "Tokenize"), TEXT),
    "GenerateBatch": {"requests": [TEXT, TEXT]},
    "Detokenize": {"token_ids": {"ids": [5, 6]}},
    "Score": {**TEXT, "continuations": [TEXT]},
    "ModelInfer": {
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"a"]}}]
    },
}


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def value_of(field: FieldDescriptor, draw: random.Random) -> Any:
    """A value that the wire can carry, at the edges of what it can."""
    if field.type in (_FIELD.TYPE_STRING, _FIELD.TYPE_BYTES):
        text = draw.choice(TEXTS)
        return text if field.type == _FIELD.TYPE_STRING else text.encode()
    if field.type == _FIELD.TYPE_BOOL:
        return draw.random() < 0.5
    if field.type in (_FIELD.TYPE_FLOAT, _FIELD.TYPE_DOUBLE):
        return draw.choice(NUMBERS["float"])
    unsigned = field.type in (_FIELD.TYPE_UINT32, _FIELD.TYPE_UINT64)
    number = draw.choice(NUMBERS["uint" if unsigned else "int"])
    return number if number % 512 not in range(CRASH, 512) else 5  # what makes an echo misbehave


def message_of(kind: Descriptor, draw: random.Random, share: float, depth: int = 0) -> Any:
    """A message of which about this share of the fields is there."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if draw.random() > share or depth > 4:
            continue
        if field.message_type is None:
            values = [value_of(field, draw) for _ in range(draw.choice([1, 1, 3, 40]) if field.is_repeated else 1)]
            getattr(message, field.name).extend(values) if field.is_repeated else setattr(
                message, field.name, values[0]
            )
        elif field.message_type.GetOptions().map_entry:
            fill_map(getattr(message, field.name), field.message_type, draw, share)
        elif field.is_repeated:
            parts = [message_of(field.message_type, draw, share, depth + 1) for _ in range(draw.choice([0, 1, 2, 9]))]
            getattr(message, field.name).extend(parts)
        else:
            getattr(message, field.name).CopyFrom(message_of(field.message_type, draw, share, depth + 1))
    return message


def fill_map(entries: Any, kind: Descriptor, draw: random.Random, share: float) -> None:
    key, value = value_of(kind.fields_by_name["key"], draw), kind.fields_by_name["value"]
    if value.message_type is None:
        entries[key] = value_of(value, draw)
    else:
        entries[key].CopyFrom(message_of(value.message_type, draw, share, 1))


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The same with a few bytes that are others, more or fewer."""
    found = bytearray(data)
    for _ in range(draw.choice([1, 2, 5])):
        at = draw.randrange(len(found) + 1)
        found[at : at + draw.choice([0, 1, 3])] = draw.randbytes(draw.choice([0, 1, 4]))
    return bytes(found)


def code_of(channel: grpc.Channel, method: MethodDescriptor, data: bytes) -> grpc.StatusCode:
    """The status of a call; a stream is read to its end."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.server_streaming:
            list(channel.unary_stream(path)(data, timeout=PATIENCE_SECONDS))
        else:
            channel.unary_unary(path)(data, timeout=PATIENCE_SECONDS)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def codes(channel: grpc.Channel, method: MethodDescriptor, count: int) -> Counter[grpc.StatusCode]:
    draw, found = random.Random(method.full_name), Counter[grpc.StatusCode]()
    for i in range(count):
        message = GetMessageClass(method.input_type)(**RIGHT.get(method.name, {}))
        message.MergeFrom(message_of(method.input_type, draw, draw.choice([0.05, 0.2, 0.6])))
        data = message.SerializeToString()
        found[code_of(channel, method, damaged(data, draw) if i % 3 == 0 else data)] += 1
    return found


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_message_is_a_fault_of_the_server(
    server: Server, channel: grpc.Channel, client: Client, method: MethodDescriptor
) -> None:
    found = codes(channel, method, 25 if method.name in GENERATING else 200)
    assert not found.keys() & FAULTS and "incident" not in server.log, found
    assert client.generate([5], model="echo", max_new_tokens=1).token_ids == (5,)


@pytest.mark.parametrize("method", HARMLESS, ids=lambda method: method.name)
def test_no_message_to_the_admin_socket_is_a_fault_of_the_server(server: Server, method: MethodDescriptor) -> None:
    with grpc.insecure_channel(f"unix:{server.admin_socket}") as channel:
        found = codes(channel, method, 40)
    assert not found.keys() & FAULTS, found

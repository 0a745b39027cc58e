"""The size of a message before anything is built of it: four megabytes may say that they hold millions of things."""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..engine.token_rules import MOST_LISTED
from ..models.errors import InvalidRequest, Violation

MOST_FIELDS = 1 << 14  # of a message and all messages in it
MOST_PROMPT_IDS = 1 << 20
_PROMPT_IDS = "moesaic.v1.TokenIds.ids"
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_GOES_ON = bytes(range(128, 256))  # all bytes of a number but its last
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields; others begin or end a group and have no content

M = TypeVar("M", bound=Message)


def bounded(kind: type[M]) -> Callable[[bytes], M]:
    """A deserializer that raises InvalidRequest for what holds too many things, and else what FromString raises."""

    def deserialize(data: bytes) -> M:
        if len(data) > 2 * MOST_FIELDS:  # a field takes two bytes or more
            _Walk().through(kind.DESCRIPTOR, memoryview(data))
        return kind.FromString(data)

    return deserialize


class _Walk:
    """Counts the fields of a message and of those in it. What is malformed is left to the parser."""

    def __init__(self) -> None:
        self._num_fields = 0

    def through(self, kind: Any, data: memoryview) -> None:
        """Raises InvalidRequest for too many fields, or too many numbers in a list. kind: a descriptor of protobuf."""
        at = 0
        try:
            while at < len(data):
                at = self._field(kind, data, at)
        except IndexError:  # it ends inside a number
            return

    def _field(self, kind: Any, data: memoryview, at: int) -> int:
        self._num_fields += 1
        if self._num_fields > MOST_FIELDS:
            text = f"has more than {MOST_FIELDS} fields and entries, its lists of numbers not counted; ask for less"
            raise InvalidRequest([Violation("request", text, "REQUEST_TOO_LARGE")])
        tag, at = _number(data, at)
        if tag & 7 != _BYTES:
            return _number(data, at)[1] if tag & 7 == _VARINT else at + {_FIXED64: 8, _FIXED32: 4}.get(tag & 7, 0)
        size, at = _number(data, at)
        field = kind.fields_by_number.get(tag >> 3)
        if field is not None and field.message_type is not None:
            self.through(field.message_type, data[at : at + size])
        elif field is not None and field.type not in _TEXTS:
            _check_list(field, data[at : at + size])
        return at + size


def _check_list(field: FieldDescriptor, data: memoryview) -> None:
    most = MOST_PROMPT_IDS if field.full_name == _PROMPT_IDS else MOST_LISTED
    count = len(bytes(data).translate(None, _GOES_ON)) if len(data) > most else 0
    if count > most:
        raise InvalidRequest([Violation(field.name, f"has {count} entries, the limit is {most}", "REQUEST_TOO_LARGE")])


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A number of the wire and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7

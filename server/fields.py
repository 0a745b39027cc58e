"""What a message says, by the names of its fields, which are those of settings and dataclasses in Python."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..engine.sampling import as_carried


def fields_of(message: Message) -> dict[str, Any]:
    """The fields that were set; a float32 comes as the decimal that was typed."""
    return {
        field.name: as_carried(value) if field.type == FieldDescriptor.TYPE_FLOAT else value
        for field, value in message.ListFields()
    }

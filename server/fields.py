"""What a message says, by the names of its fields, which are those of settings and dataclasses in Python."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def fields_of(message: Message) -> dict[str, Any]:
    """The fields that were set; a float32 comes as the decimal that was typed."""
    return {
        field.name: _decimal(value) if field.type == FieldDescriptor.TYPE_FLOAT else value
        for field, value in message.ListFields()
    }


def _decimal(value: float) -> float:
    """The decimal that was typed: 0.7, where the float32 of the wire says 0.699999988."""
    return float(f"{value:.7g}")

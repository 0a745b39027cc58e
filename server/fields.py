"""What messages say, by the names of their fields, which are those of settings and dataclasses in Python."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..engine.completion import Usage
from ..engine.request import Load, TokenLogprobs
from ..engine.sampling import as_carried
from ..proto import generation_pb2 as pb

M = TypeVar("M")


def fields_of(message: Message) -> dict[str, Any]:
    """The fields that were set; a float32 comes as the decimal that was typed."""
    return {
        field.name: as_carried(value) if field.type == FieldDescriptor.TYPE_FLOAT else value
        for field, value in message.ListFields()
    }


def values_of(settings: Any) -> dict[str, Any]:
    """What a dataclass of plain values holds; `asdict` copies each of them deeply, for six times as long."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def usage_message(usage: Usage) -> pb.Usage:
    """What was used; None is left out."""
    return pb.Usage(**values_of(usage))


def receipt_metadata(usage: pb.Usage) -> tuple[tuple[str, str], ...]:
    """What was used, for proxies and logs that read no messages: a key for each field that is there."""
    return tuple((f"moesaic-{field.name.replace('_', '-')}", str(value)) for field, value in usage.ListFields())


def usage_of(message: pb.Usage) -> Usage:
    """What such a message says."""
    known = message.DESCRIPTOR.fields
    absent = {field.name for field in known if field.has_presence and not message.HasField(field.name)}
    said: Any = {field.name: None if field.name in absent else getattr(message, field.name) for field in known}
    return Usage(**said)


def load_of(message: Any) -> Load:
    """How full an engine is; both protos have such a message."""
    return Load(**{field.name: getattr(message, field.name) for field in fields(Load)})


def logprobs_message(kind: Callable[..., M], told: TokenLogprobs) -> M:
    """The same as a message called TokenLogprobs; both protos have one."""
    ids, numbers = zip(*told.top, strict=True) if told.top else ((), ())
    return kind(token_id=told.token_id, logprob=told.logprob, top_ids=ids, top_logprobs=numbers)


def logprobs_of(messages: Any) -> tuple[TokenLogprobs, ...]:
    """What such messages say."""
    return tuple(
        TokenLogprobs(each.token_id, each.logprob, tuple(zip(each.top_ids, each.top_logprobs, strict=True)))
        for each in messages
    )

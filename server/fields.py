"""What messages say, by the names of their fields, which are those of settings and dataclasses in Python."""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..engine.request import TokenLogprobs
from ..engine.sampling import as_carried

M = TypeVar("M")


def fields_of(message: Message) -> dict[str, Any]:
    """The fields that were set; a float32 comes as the decimal that was typed."""
    return {
        field.name: as_carried(value) if field.type == FieldDescriptor.TYPE_FLOAT else value
        for field, value in message.ListFields()
    }


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

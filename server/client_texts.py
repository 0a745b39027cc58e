"""Messages of batches, scores and tokens from Python values, and back. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from google.protobuf.message import Message

from ..engine.classification import Classified
from ..engine.completion import Completion
from ..engine.embedding import Embedded
from ..engine.request import TokenLogprobs
from ..models.errors import InvalidRequest, MoesaicError, Violation
from ..proto import generation_pb2 as pb
from ..proto import scoring_pb2
from .client_answers import completion_of
from .client_request import MAX_REQUEST_BYTES, Chat, Prompt, build_request
from .fields import logprobs_of
from .status import error_of_item

_OWN = ("tier", "full_context", "distributions_at")  # of a score alone
R = TypeVar("R", scoring_pb2.EmbedRequest, scoring_pb2.ClassifyRequest)
BatchItem = tuple[int, Completion | MoesaicError]  # the index of its prompt, and an exception where there is no answer


class ScoreSettings(TypedDict, total=False):
    """Those of a generation that a score knows too; tier: at which all is read, by default the full one; with
    full_context the continuations alone, as answers are. distributions_at: places in each continuation, 0 its first
    token, for which the model's whole distribution is told.
    """

    model: str
    request_id: str
    tier: str | None
    full_context: bool
    distributions_at: Sequence[int]
    priority: str | None
    cache_salt: str | None


class EmbedSettings(TypedDict, total=False):
    """pooling: "mean", "cls" or "last"; it and normalised are by default the model's own. truncate: cut what is longer
    than the window, which is refused else. tier: at which all is computed, by default the full one.
    """

    model: str
    request_id: str
    pooling: str | None
    normalised: bool | None
    truncate: bool | None
    priority: str | None
    tier: str | None


class ClassifySettings(TypedDict, total=False):
    """truncate: cut what is longer than the window, which is refused else."""

    model: str
    request_id: str
    truncate: bool | None
    priority: str | None


@dataclass(frozen=True, slots=True)
class Validation:
    """What a request would be told. prompt_tokens is None where the prompt itself is wrong."""

    problems: tuple[Violation, ...]
    prompt_tokens: int | None
    max_context: int

    @property
    def is_valid(self) -> bool:
        """Whether it would be let in."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """logprob: the sum over the tokens of a continuation, in nats. is_greedy: each was the likeliest.

    tokens: where they were asked for, each with the likeliest one. distributions: at places that were asked for, ln p
    of every entry of the vocabulary, as numpy.frombuffer(distribution, "<f4") reads it.
    """

    logprob: float
    num_tokens: int
    is_greedy: bool
    tokens: tuple[TokenLogprobs, ...] = ()
    distributions: tuple[bytes, ...] = ()


def tokenize_request(prompt: object, model: str) -> pb.TokenizeRequest:
    """Raises InvalidRequest for what is no text and no conversation."""
    if isinstance(prompt, str):
        return pb.TokenizeRequest(model=model, text=build_request(prompt, model=model).text)
    return pb.TokenizeRequest(model=model, messages=build_request(Chat(prompt), model=model).messages)


def detokenize_request(token_ids: Sequence[int], model: str) -> pb.DetokenizeRequest:
    """Raises InvalidRequest for what are no token ids."""
    return pb.DetokenizeRequest(model=model, token_ids=build_request(token_ids, model=model).token_ids)


def template_request(messages: object, model: str) -> pb.ApplyChatTemplateRequest:
    """Raises InvalidRequest for what is no conversation."""
    return pb.ApplyChatTemplateRequest(model=model, messages=build_request(Chat(messages), model=model).messages)


def batch_request(prompts: Sequence[Prompt | Chat], settings: Mapping[str, Any]) -> pb.GenerateBatchRequest:
    """Raises InvalidRequest for the first prompt that does not fit the wire, and for too many together."""
    request = pb.GenerateBatchRequest(requests=[build_request(each, **settings) for each in prompts])
    size = request.ByteSize()
    if size > MAX_REQUEST_BYTES:
        text = f"make a request of {size} bytes, the limit is {MAX_REQUEST_BYTES}; send them in several"
        raise InvalidRequest([Violation("requests", text)])
    return request


def score_request(
    context: Prompt, continuations: Sequence[Prompt], logprobs: bool, settings: Mapping[str, Any]
) -> scoring_pb2.ScoreRequest:
    """Raises InvalidRequest for what does not fit the wire."""
    request = scoring_pb2.ScoreRequest(logprobs=logprobs)
    standing = {name: value for name, value in settings.items() if name not in _OWN}
    _copy(build_request(context, **standing), request)
    request.tier, request.full_context = settings.get("tier") or "", bool(settings.get("full_context"))
    request.distributions_at.extend(settings.get("distributions_at", ()))
    for each in continuations:
        _copy(build_request(each), request.continuations.add())
    return request


def embed_request(inputs: Sequence[Prompt], settings: Mapping[str, Any]) -> scoring_pb2.EmbedRequest:
    """Raises InvalidRequest for what does not fit the wire."""
    own = {"pooling": str, "normalised": bool, "truncate": bool, "tier": str}
    return _of_inputs(scoring_pb2.EmbedRequest(), inputs, settings, own)


def classify_request(inputs: Sequence[Prompt], settings: Mapping[str, Any]) -> scoring_pb2.ClassifyRequest:
    """Raises InvalidRequest for what does not fit the wire."""
    return _of_inputs(scoring_pb2.ClassifyRequest(), inputs, settings, {"truncate": bool})


def _of_inputs(request: R, inputs: Sequence[Prompt], settings: Mapping[str, Any], own: Mapping[str, type]) -> R:
    """The message with these inputs. own: its settings that no generation has, with their types."""
    for name, kind in own.items():
        value = settings.get(name)
        if value is not None and not isinstance(value, kind):
            raise InvalidRequest([Violation(name, f"is {value!r}, it must be of type {kind.__name__}")])
        if value is not None:
            setattr(request, name, value)
    standing = {name: value for name, value in settings.items() if name not in own}
    _copy(build_request("", **standing), request)
    for each in [inputs] if isinstance(inputs, str) else inputs:
        _copy(build_request(each), request.inputs.add())
    return request


def _copy(source: pb.GenerateRequest, target: Message) -> None:
    """The fields that both have."""
    for field, value in source.ListFields():
        if field.name not in target.DESCRIPTOR.fields_by_name:
            continue
        if field.message_type is None:
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).CopyFrom(value)


def item_of(message: pb.BatchItem) -> BatchItem:
    """One of many."""
    failed = message.HasField("error")
    return message.index, error_of_item(message.error) if failed else completion_of(message.response)


def validation_of(message: pb.ValidateResponse) -> Validation:
    """What such a message says."""
    problems = tuple(Violation(each.field, each.message, each.reason) for each in message.problems)
    return Validation(
        problems, message.prompt_tokens if message.HasField("prompt_tokens") else None, message.max_context
    )


def scores_of(message: scoring_pb2.ScoreResponse) -> list[ContinuationScore]:
    """What such a message says."""
    return [
        ContinuationScore(
            each.logprob, each.num_tokens, each.is_greedy, logprobs_of(each.tokens), tuple(each.distributions)
        )
        for each in message.scores
    ]


def embeddings_of(message: scoring_pb2.EmbedResponse) -> list[Embedded]:
    """What such a message says."""
    return [Embedded(tuple(each.values), each.num_tokens, each.truncated) for each in message.embeddings]


def classified_of(message: scoring_pb2.ClassifyResponse) -> list[Classified]:
    """What such a message says."""
    labels = tuple(message.labels)
    return [
        Classified(each.label, tuple(each.scores), tuple(each.logits), labels, each.num_tokens, each.truncated)
        for each in message.classifications
    ]

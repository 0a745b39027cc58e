"""What a server's messages and statuses mean in Python, for clients of both kinds. No torch."""

from dataclasses import dataclass

import grpc

from ..engine.completion import Answer, Chunk, Completion
from ..engine.request import FinishReason, Load, Timing
from ..models.errors import Expired, MoesaicError, NotFound, Overloaded, Unavailable
from ..proto import generation_pb2 as pb
from .address import Address
from .fields import load_of, logprobs_of, usage_of
from .status import error_of


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. state: LOADING, SERVING, DRAINING or FAILED; load is None while no engine runs.

    tier_shares: of each tier, the part of the bytes that tiers govern that a token reads, as calibration saw it. chat:
    whether it has a chat template. kv_tokens: of keys and values that its cache holds, in kv_bytes; kv_cache: "model"
    where they are as the activations, or "int8". pooling: of an encoder, its own; "" for a model that continues text.
    problem: why a model that is watched for is not served. tools: whether conversations may name tools. labels,
    problem_type: of its classifier, where it has one.
    """

    name: str
    state: str
    family: str
    num_parameters: int
    weight_bytes: int
    vocab_size: int
    max_context: int
    stages: tuple[str, ...]
    tiers: tuple[str, ...]
    tier_shares: tuple[float, ...]
    device: str
    dtype: str
    load: Load | None
    chat: bool = False
    kv_tokens: int = 0
    kv_bytes: int = 0
    kv_cache: str = "model"
    pooling: str = ""
    problem: str = ""
    tools: bool = False
    labels: tuple[str, ...] = ()
    problem_type: str = ""


def raised(error: grpc.RpcError, address: Address, begun: bool) -> MoesaicError:
    """The exception of a status; the ones that no handler of ours made come last."""
    known = error_of(error)
    if known is not None:
        return known
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and begun:
        return Unavailable(f"the connection to {address.target} was lost: {details}", "CONNECTION_LOST", 1.0)
    if code is grpc.StatusCode.UNAVAILABLE:
        return address.no_tls(details) if _is_of_tls(details) else address.nobody()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Expired("the time that the caller gave was over before the answer was there")
    if code is grpc.StatusCode.CANCELLED:
        return Unavailable("the call was cancelled", code.name)
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(f"{address.target} knows nothing of this name")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(details)
    return MoesaicError(f"{address.target} answered {code.name}: {details}")


def _is_of_tls(details: str) -> bool:
    """Whether gRPC says that somebody answers, and that TLS comes to nothing."""
    hung_up = "failed to connect" in details and "Socket closed" in details
    return hung_up or any(word in details for word in ("SSL", "handshake", "Hostname Verification"))


def completion_of(message: pb.GenerateResponse) -> Completion:
    """A whole answer, with those beside it."""
    first, usage, timing = _answer(message), usage_of(message.usage), _timing(message.timing)
    return Completion(
        first.text, first.token_ids, first.finish_reason, usage, timing, first.matched, first.logprobs,
        logprobs_of(message.prompt_logprobs), tuple(_answer(each) for each in message.others),
    )  # fmt: skip


def _answer(message: pb.GenerateResponse | pb.Answer) -> Answer:
    ids, logprobs = tuple(message.token_ids), logprobs_of(message.logprobs)
    return Answer(message.text, ids, _reason(message.finish), _matched(message.finish), logprobs)


def chunk_of(message: pb.GenerateChunk) -> Chunk:
    """A part of an answer."""
    return Chunk(
        message.text,
        tuple(message.token_ids),
        _reason(message.finish) if message.HasField("finish") else None,
        usage_of(message.usage) if message.HasField("usage") else None,
        _timing(message.timing) if message.HasField("timing") else None,
        _matched(message.finish),
        message.choice,
        logprobs_of(message.logprobs),
        logprobs_of(message.prompt_logprobs),
    )


def _reason(finish: pb.Finish) -> FinishReason:
    return FinishReason[pb.Finish.Reason.Name(finish.reason)]


def _matched(finish: pb.Finish) -> str | int | None:
    kind = finish.WhichOneof("matched")
    if kind is None:
        return None
    return finish.text if kind == "text" else finish.token_id


def _timing(timing: pb.Timing) -> Timing:
    return Timing(timing.queue_seconds, timing.prefill_seconds, timing.decode_seconds)


def model_of(info: pb.ModelInfo) -> ModelInfo:
    """A served model."""
    return ModelInfo(
        name=info.name,
        state=pb.ModelInfo.State.Name(info.state),
        family=info.family,
        num_parameters=info.num_parameters,
        weight_bytes=info.weight_bytes,
        vocab_size=info.vocab_size,
        max_context=info.max_context,
        stages=tuple(info.stages),
        tiers=tuple(info.tiers),
        tier_shares=tuple(info.tier_shares),
        device=info.device,
        dtype=info.dtype,
        load=load_of(info.load) if info.HasField("load") else None,
        chat=info.chat,
        kv_tokens=info.kv_tokens,
        kv_bytes=info.kv_bytes,
        kv_cache=info.kv_cache,
        pooling=info.pooling,
        problem=info.problem,
        tools=info.tools,
        labels=tuple(info.labels),
        problem_type=info.problem_type,
    )

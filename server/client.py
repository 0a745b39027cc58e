"""A typed client: the answers of the engine, and the server's errors as the exceptions they were. No torch."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..engine.completion import Answer, Chunk, Completion
from ..engine.request import FinishReason, Load, Timing
from ..models.bounds import SECONDS_TO_WAIT
from ..models.errors import AddressError, Expired, MoesaicError, NotFound, Overloaded, Unavailable
from ..proto import generation_pb2 as pb
from .address import Address, read_address
from .client_request import Chat, Prompt, Settings, build_request
from .client_texts import (
    ContinuationScore,
    ScoreSettings,
    Validation,
    batch_request,
    detokenize_request,
    score_request,
    scores_of,
    template_request,
    tokenize_request,
    validation_of,
)
from .fields import load_of, logprobs_of, usage_of
from .handlers import GENERATION, MODELS, SCORING, stub
from .status import error_of, error_of_item

Conversation = Sequence[Mapping[str, str]]
T = TypeVar("T")
_POLL_SECONDS = 0.1
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
NO_PROXY = (("grpc.enable_http_proxy", 0),)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. state: LOADING, SERVING, DRAINING or FAILED; load is None while no engine runs.

    tier_shares: of each tier, the part of the bytes that tiers govern that a token reads, as calibration saw it. chat:
    whether it has a chat template. kv_tokens: of keys and values that its cache holds, in kv_bytes; kv_cache: "model"
    where they are as the activations, or "int8".
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


class Answers(Iterator[T]):
    """What a call answers in parts. Closing it, or leaving its `with` block, cancels what has not been made yet."""

    def __init__(self, call: Any, address: Address) -> None:
        self._call = call
        self._address = address
        self._begun = self._closed = False

    def _message(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            message = next(self._call)
        except grpc.RpcError as error:
            if self._closed:
                raise StopIteration from None
            raise raised(error, self._address, self._begun) from None
        self._begun = True
        return message

    def close(self) -> None:
        """Cancels the rest; nothing happens when the answer is complete."""
        self._closed = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream(Answers[Chunk]):
    """The chunks of one answer."""

    @property
    def request_id(self) -> str:
        """The id that the server knows the request by; waits for the first token."""
        return str(dict(self._call.initial_metadata()).get("x-request-id", ""))

    def __next__(self) -> Chunk:
        return _chunk(self._message())


class Batch(Answers[tuple[int, Completion | MoesaicError]]):
    """(index of its prompt, answer) of many; an exception where there is no answer."""

    def __next__(self) -> tuple[int, Completion | MoesaicError]:
        item = self._message()
        failed = item.HasField("error")
        return item.index, error_of_item(item.error) if failed else _completion(item.response)


class Client:
    """Talks to a server. Leaving the `with` block cancels everything that still runs.

    with Client("localhost:50051") as client:
        print(client.generate("Once upon a time", temperature=0).text)

    The address is host:port; http:// may stand before it, and the port be left out (50051). No proxy of the environment
    is asked for an address of this machine. Every call raises what the server raised: InvalidRequest with its
    violations, Overloaded, NotFound, Unavailable and so on; AddressError when nobody answers; Expired, which is an
    Unavailable with reason DEADLINE_EXCEEDED, when `timeout` seconds are over, or would be before the first token.
    Nothing is tried twice.
    """

    def __init__(self, address: str = "localhost:50051") -> None:
        meant = read_address(address)
        self._meant, self.address = meant, meant.target
        options = (*CHANNEL_OPTIONS, *(NO_PROXY if meant.is_loopback else ()))
        self._channel = grpc.insecure_channel(self.address, options=options)
        self._generate = stub(self._channel, GENERATION, "Generate")
        self._stream = stub(self._channel, GENERATION, "GenerateStream")
        self._batch = stub(self._channel, GENERATION, "GenerateBatch")
        self._validate = stub(self._channel, GENERATION, "Validate")
        self._tokenize = stub(self._channel, GENERATION, "Tokenize")
        self._detokenize = stub(self._channel, GENERATION, "Detokenize")
        self._apply_chat_template = stub(self._channel, GENERATION, "ApplyChatTemplate")
        self._score = stub(self._channel, SCORING, "Score")
        self._list_models = stub(self._channel, MODELS, "ListModels")
        self._get_model = stub(self._channel, MODELS, "GetModel")
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels what still runs on it."""
        self._channel.close()

    def generate(self, prompt: Prompt, *, timeout: float | None = None, **settings: Unpack[Settings]) -> Completion:
        """The whole answer to a prompt: text, or token ids taken as they are. Settings as in `Settings`."""
        return self._whole(build_request(prompt, **settings), timeout)

    def stream(self, prompt: Prompt, *, timeout: float | None = None, **settings: Unpack[Settings]) -> Stream:
        """The answer as it is made. The texts and ids put together equal those of `generate`."""
        return self._streamed(build_request(prompt, **settings), timeout)

    def chat(self, messages: Conversation, *, timeout: float | None = None, **settings: Unpack[Settings]) -> Completion:
        """The whole answer to a conversation, written out by the chat template of the model.

        client.chat([{"role": "user", "content": "Hello"}], temperature=0).text

        Raises Unsupported for a model without a template (`model().chat` is false).
        """
        return self._whole(build_request(Chat(messages), **settings), timeout)

    def stream_chat(
        self, messages: Conversation, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Stream:
        """The answer to a conversation as it is made."""
        return self._streamed(build_request(Chat(messages), **settings), timeout)

    def generate_batch(
        self, prompts: Sequence[Prompt | Chat], *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> "Batch":
        """(index, answer) of each of up to 256 prompts, in the order in which they end; an exception where there is no
        answer. A prompt that is a conversation is a `Chat`. Closing what this returns cancels the rest.
        """
        return Batch(self._batch(batch_request(prompts, settings), timeout=_checked(timeout)), self._meant)

    def validate(
        self, prompt: Prompt | Chat, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Validation:
        """What `generate` would say of this before it begins, and how many tokens the prompt has."""
        return validation_of(self._call(self._validate, build_request(prompt, **settings), timeout))

    def tokenize(self, prompt: str | Conversation, *, model: str = "", timeout: float | None = None) -> tuple[int, ...]:
        """The token ids that the model sees of a text or of a conversation."""
        return tuple(self._call(self._tokenize, tokenize_request(prompt, model), timeout).token_ids)

    def detokenize(self, token_ids: Sequence[int], *, model: str = "", timeout: float | None = None) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._call(self._detokenize, detokenize_request(token_ids, model), timeout).text)

    def apply_chat_template(
        self, messages: Conversation, *, model: str = "", timeout: float | None = None
    ) -> tuple[str, tuple[int, ...]]:
        """(text, token ids) of a conversation, as the model's chat template writes it and as the model sees it."""
        message = self._call(self._apply_chat_template, template_request(messages, model), timeout)
        return message.text, tuple(message.token_ids)

    def score(
        self,
        context: Prompt,
        continuations: Sequence[Prompt],
        *,
        logprobs: bool = False,
        timeout: float | None = None,
        **settings: Unpack[ScoreSettings],
    ) -> list[ContinuationScore]:
        """How likely the model finds each of up to 128 continuations behind a context.

        Where both are text they are made into tokens together. logprobs: tell of each token too.
        """
        return scores_of(self._call(self._score, score_request(context, continuations, logprobs, settings), timeout))

    def _whole(self, request: pb.GenerateRequest, timeout: float | None) -> Completion:
        return _completion(self._call(self._generate, request, timeout))

    def _streamed(self, request: pb.GenerateRequest, timeout: float | None) -> Stream:
        return Stream(self._stream(request, timeout=_checked(timeout)), self._meant)

    def models(self, timeout: float | None = None) -> list[ModelInfo]:
        """All models that are served."""
        return [_model(info) for info in self._call(self._list_models, pb.ListModelsRequest(), timeout).models]

    def model(self, name: str = "", timeout: float | None = None) -> ModelInfo:
        """One model by name; empty means the only one."""
        return _model(self._call(self._get_model, pb.GetModelRequest(name=name), timeout))

    def health(self, service: str = "", timeout: float | None = None) -> str:
        """SERVING or NOT_SERVING: of the whole server, of a service, or of "model:NAME"."""
        request = health_pb2.HealthCheckRequest(service=service)
        status = self._call(self._health.Check, request, timeout).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Returns once the server is SERVING. Raises AddressError or Unavailable when it is not in time."""
        SECONDS_TO_WAIT.check("timeout", timeout)
        deadline = time.monotonic() + timeout
        problem: MoesaicError = Unavailable(f"{self.address} is not ready after {timeout} s", "NOT_SERVING", 1.0)
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self.health(timeout=left) == "SERVING":
                    return
            except (AddressError, Unavailable) as error:
                problem = error
            time.sleep(min(_POLL_SECONDS, left))
        raise problem

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=_checked(timeout))
        except grpc.RpcError as error:
            raise raised(error, self._meant, begun=False) from None


def _checked(timeout: float | None) -> float | None:
    """A number that is no time, and one so long that gRPC takes it for none, would end the call at once."""
    SECONDS_TO_WAIT.check("timeout", timeout)
    return timeout


def raised(error: grpc.RpcError, address: Address, begun: bool) -> MoesaicError:
    """The exception of a status; the ones that no handler of ours made come last."""
    known = error_of(error)
    if known is not None:
        return known
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and begun:
        return Unavailable(f"the connection to {address.target} was lost: {details}", "CONNECTION_LOST", 1.0)
    if code is grpc.StatusCode.UNAVAILABLE:
        return address.nobody()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Expired("the time that the caller gave was over before the answer was there")
    if code is grpc.StatusCode.CANCELLED:
        return Unavailable("the call was cancelled", code.name)
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(f"{address.target} knows nothing of this name")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(details)
    return MoesaicError(f"{address.target} answered {code.name}: {details}")


def _completion(message: pb.GenerateResponse) -> Completion:
    first, usage, timing = _answer(message), usage_of(message.usage), _timing(message.timing)
    return Completion(
        first.text, first.token_ids, first.finish_reason, usage, timing, first.matched, first.logprobs,
        logprobs_of(message.prompt_logprobs), tuple(_answer(each) for each in message.others),
    )  # fmt: skip


def _answer(message: pb.GenerateResponse | pb.Answer) -> Answer:
    ids, logprobs = tuple(message.token_ids), logprobs_of(message.logprobs)
    return Answer(message.text, ids, _reason(message.finish), _matched(message.finish), logprobs)


def _chunk(message: pb.GenerateChunk) -> Chunk:
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


def _model(info: pb.ModelInfo) -> ModelInfo:
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
    )

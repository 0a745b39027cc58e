"""A typed client: the answers of the engine, and the server's errors as the exceptions they were. No torch."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from ..engine.classification import Classified
from ..engine.completion import Chunk, Completion
from ..engine.embedding import Embedded
from ..models.errors import AddressError, MoesaicError, Unavailable
from . import client_questions as ask
from .address import Address
from .client_answers import ModelInfo, raised
from .client_questions import Conversation, Question
from .client_request import Chat, Prompt, Settings
from .client_texts import BatchItem, ClassifySettings, ContinuationScore, EmbedSettings, ScoreSettings, Validation
from .dialling import ClientSettings, dial
from .handlers import stub

_POLL_SECONDS = 0.1
T = TypeVar("T")


class Answers(Iterator[T]):
    """What a call answers in parts. Closing it, or leaving its `with` block, cancels what has not been made yet."""

    def __init__(self, call: Any, question: Question[T], address: Address) -> None:
        self._call = call
        self._question = question
        self._address = address
        self._begun = self._closed = False

    def __next__(self) -> T:
        if self._closed:
            raise StopIteration
        try:
            message = next(self._call)
        except grpc.RpcError as error:
            if self._closed:
                raise StopIteration from None
            raise raised(error, self._address, self._begun) from None
        self._begun = True
        return self._question.read(message)

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


class Client:
    """Talks to a server. Leaving the `with` block cancels everything that still runs.

    with Client("localhost:50051") as client:
        print(client.generate("Once upon a time", temperature=0).text)

    The address is host:port; https:// before it asks for TLS, http:// for none, and the port may be left out (50051).
    No proxy of the environment is asked for an address of this machine. `ClientSettings` has TLS, tokens and retries.

    Every call raises what the server raised: InvalidRequest with its violations, Overloaded, NotFound, Unauthenticated,
    Unavailable and so on; AddressError when nobody answers; Expired, which is an Unavailable with reason
    DEADLINE_EXCEEDED, when `timeout` seconds are over, or would be before the first token. A call of which nothing has
    come back is tried again where the server is busy or gone, when the server says, up to `retries` times.
    """

    def __init__(self, address: str = "localhost:50051", **settings: Unpack[ClientSettings]) -> None:
        self._timeout = settings.get("timeout")
        self._dialled = dial(address, settings)
        self._meant, self.address = self._dialled.address, self._dialled.address.target
        self._channel = self._dialled.channel(grpc)

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
        return self._ask(ask.generate(prompt, settings), timeout)

    def stream(self, prompt: Prompt, *, timeout: float | None = None, **settings: Unpack[Settings]) -> Stream:
        """The answer as it is made. The texts and ids put together equal those of `generate`."""
        return self._streamed(ask.generate_stream(prompt, settings), timeout)

    def chat(self, messages: Conversation, *, timeout: float | None = None, **settings: Unpack[Settings]) -> Completion:
        """The whole answer to a conversation, written out by the chat template of the model.

        client.chat([{"role": "user", "content": "Hello"}], temperature=0).text

        Raises Unsupported for a model without a template (`model().chat` is false).
        """
        return self._ask(ask.generate(Chat(messages), settings), timeout)

    def stream_chat(
        self, messages: Conversation, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Stream:
        """The answer to a conversation as it is made."""
        return self._streamed(ask.generate_stream(Chat(messages), settings), timeout)

    def generate_batch(
        self, prompts: Sequence[Prompt | Chat], *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Answers[BatchItem]:
        """(index, answer) of each of up to 256 prompts, in the order in which they end; an exception where there is no
        answer. A prompt that is a conversation is a `Chat`. Closing what this returns cancels the rest.
        """
        question = ask.generate_batch(prompts, settings)
        return Answers(self._begin(question, timeout), question, self._meant)

    def validate(
        self, prompt: Prompt | Chat, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Validation:
        """What `generate` would say of this before it begins, and how many tokens the prompt has."""
        return self._ask(ask.validate(prompt, settings), timeout)

    def tokenize(self, prompt: str | Conversation, *, model: str = "", timeout: float | None = None) -> tuple[int, ...]:
        """The token ids that the model sees of a text or of a conversation."""
        return self._ask(ask.tokenize(prompt, model), timeout)

    def detokenize(self, token_ids: Sequence[int], *, model: str = "", timeout: float | None = None) -> str:
        """The text of token ids, special tokens left out."""
        return self._ask(ask.detokenize(token_ids, model), timeout)

    def apply_chat_template(
        self, messages: Conversation, *, model: str = "", timeout: float | None = None
    ) -> tuple[str, tuple[int, ...]]:
        """(text, token ids) of a conversation, as the model's chat template writes it and as the model sees it."""
        return self._ask(ask.apply_chat_template(messages, model), timeout)

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
        return self._ask(ask.score(context, continuations, logprobs, settings), timeout)

    def embed(
        self, inputs: Sequence[Prompt], *, timeout: float | None = None, **settings: Unpack[EmbedSettings]
    ) -> list[Embedded]:
        """A vector of each of up to 256 texts, by a model that is an encoder. Settings as in `EmbedSettings`.

        client.embed(["The cat sat."])[0].values

        Raises Unsupported for a model that continues text.
        """
        return self._ask(ask.embed(inputs, settings), timeout)

    def classify(
        self, inputs: Sequence[Prompt], *, timeout: float | None = None, **settings: Unpack[ClassifySettings]
    ) -> list[Classified]:
        """The labels of each of up to 256 texts, by a model that has a classifier. Settings as in `ClassifySettings`.

        client.classify(["A fine film."])[0].label

        Raises Unsupported for a model without a classifier.
        """
        return self._ask(ask.classify(inputs, settings), timeout)

    def models(self, timeout: float | None = None) -> list[ModelInfo]:
        """All models that are served."""
        return self._ask(ask.models(), timeout)

    def model(self, name: str = "", timeout: float | None = None) -> ModelInfo:
        """One model by name; empty means the only one."""
        return self._ask(ask.model(name), timeout)

    def health(self, service: str = "", timeout: float | None = None) -> str:
        """SERVING or NOT_SERVING: of the whole server, of a service, or of "model:NAME"."""
        return self._ask(ask.health(service), timeout)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Returns once the server is SERVING. Raises AddressError or Unavailable when it is not in time."""
        problem: MoesaicError = ask.not_ready(self.address, timeout)
        for left in ask.seconds_left(timeout, time.monotonic):
            try:
                if self.health(timeout=left) == "SERVING":
                    return
            except (AddressError, Unavailable) as error:
                problem = error
            time.sleep(min(_POLL_SECONDS, left))
        raise problem

    def _streamed(self, question: Question[Chunk], timeout: float | None) -> Stream:
        return Stream(self._begin(question, timeout), question, self._meant)

    def _ask(self, question: Question[T], timeout: float | None) -> T:
        try:
            return question.read(self._begin(question, timeout))
        except grpc.RpcError as error:
            raise raised(error, self._meant, begun=False) from None

    def _begin(self, question: Question[T], timeout: float | None) -> Any:
        method = stub(self._channel, question.service, question.method)
        seconds = ask.checked(self._timeout if timeout is None else timeout)
        return method(question.message, timeout=seconds, metadata=self._dialled.metadata)

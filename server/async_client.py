"""The client of server/client.py for asyncio. No torch."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
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


class AsyncAnswers(AsyncIterator[T]):
    """What a call answers in parts. Closing it, leaving its `async with` block, or dropping it cancels the rest."""

    def __init__(self, call: Any, question: Question[T], address: Address) -> None:
        self._call = call
        self._question = question
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._begun = self._closed = False

    async def __anext__(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        try:
            message = await self._call.read()
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if self._closed and not _is_cancelled():
                raise StopAsyncIteration from None
            raise _meaning(error, self._address, self._begun) from None
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        self._begun = True
        return self._question.read(message)

    async def close(self) -> None:
        """Cancels the rest; nothing happens when the answer is complete."""
        self._closed = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        """Nobody else ends a call whose reader has left its loop: gRPC keeps it for as long as the channel is open."""
        with suppress(AttributeError, RuntimeError):  # never begun, or the loop is over
            self._loop.call_soon_threadsafe(self._call.cancel)


class AsyncStream(AsyncAnswers[Chunk]):
    """The chunks of one answer."""

    async def request_id(self) -> str:
        """The id that the server knows the request by; waits for the first token."""
        return str(dict(await self._call.initial_metadata()).get("x-request-id", ""))


class AsyncClient:
    """Talks to a server from coroutines, by the same calls with the same errors as `Client`.

    async with AsyncClient("localhost:50051") as client:
        print((await client.generate("Once upon a time", temperature=0)).text)
        async for chunk in client.stream("Once upon a time"):
            print(chunk.text, end="")

    A task that is cancelled cancels its call. Leaving the `async with` block cancels everything that still runs.
    """

    def __init__(self, address: str = "localhost:50051", **settings: Unpack[ClientSettings]) -> None:
        self._timeout = settings.get("timeout")
        self._dialled = dial(address, settings)
        self._meant, self.address = self._dialled.address, self._dialled.address.target
        self._opened: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels what still runs on it."""
        if self._opened is not None:
            await self._opened.close()

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Completion:
        """As `Client.generate`."""
        return await self._ask(ask.generate(prompt, settings), timeout)

    def stream(self, prompt: Prompt, *, timeout: float | None = None, **settings: Unpack[Settings]) -> AsyncStream:
        """As `Client.stream`."""
        return self._streamed(ask.generate_stream(prompt, settings), timeout)

    async def chat(
        self, messages: Conversation, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Completion:
        """As `Client.chat`."""
        return await self._ask(ask.generate(Chat(messages), settings), timeout)

    def stream_chat(
        self, messages: Conversation, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> AsyncStream:
        """As `Client.stream_chat`."""
        return self._streamed(ask.generate_stream(Chat(messages), settings), timeout)

    def generate_batch(
        self, prompts: Sequence[Prompt | Chat], *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> AsyncAnswers[BatchItem]:
        """As `Client.generate_batch`."""
        question = ask.generate_batch(prompts, settings)
        return AsyncAnswers(self._begin(question, timeout), question, self._meant)

    async def validate(
        self, prompt: Prompt | Chat, *, timeout: float | None = None, **settings: Unpack[Settings]
    ) -> Validation:
        """As `Client.validate`."""
        return await self._ask(ask.validate(prompt, settings), timeout)

    async def tokenize(
        self, prompt: str | Conversation, *, model: str = "", timeout: float | None = None
    ) -> tuple[int, ...]:
        """As `Client.tokenize`."""
        return await self._ask(ask.tokenize(prompt, model), timeout)

    async def detokenize(self, token_ids: Sequence[int], *, model: str = "", timeout: float | None = None) -> str:
        """As `Client.detokenize`."""
        return await self._ask(ask.detokenize(token_ids, model), timeout)

    async def apply_chat_template(
        self, messages: Conversation, *, model: str = "", timeout: float | None = None
    ) -> tuple[str, tuple[int, ...]]:
        """As `Client.apply_chat_template`."""
        return await self._ask(ask.apply_chat_template(messages, model), timeout)

    async def score(
        self,
        context: Prompt,
        continuations: Sequence[Prompt],
        *,
        logprobs: bool = False,
        timeout: float | None = None,
        **settings: Unpack[ScoreSettings],
    ) -> list[ContinuationScore]:
        """As `Client.score`."""
        return await self._ask(ask.score(context, continuations, logprobs, settings), timeout)

    async def embed(
        self, inputs: Sequence[Prompt], *, timeout: float | None = None, **settings: Unpack[EmbedSettings]
    ) -> list[Embedded]:
        """As `Client.embed`."""
        return await self._ask(ask.embed(inputs, settings), timeout)

    async def classify(
        self, inputs: Sequence[Prompt], *, timeout: float | None = None, **settings: Unpack[ClassifySettings]
    ) -> list[Classified]:
        """As `Client.classify`."""
        return await self._ask(ask.classify(inputs, settings), timeout)

    async def models(self, timeout: float | None = None) -> list[ModelInfo]:
        """As `Client.models`."""
        return await self._ask(ask.models(), timeout)

    async def model(self, name: str = "", timeout: float | None = None) -> ModelInfo:
        """As `Client.model`."""
        return await self._ask(ask.model(name), timeout)

    async def health(self, service: str = "", timeout: float | None = None) -> str:
        """As `Client.health`."""
        return await self._ask(ask.health(service), timeout)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """As `Client.wait_until_ready`."""
        problem: MoesaicError = ask.not_ready(self.address, timeout)
        for left in ask.seconds_left(timeout, time.monotonic):
            try:
                if await self.health(timeout=left) == "SERVING":
                    return
            except (AddressError, Unavailable) as error:
                problem = error
            await asyncio.sleep(min(_POLL_SECONDS, left))
        raise problem

    def _streamed(self, question: Question[Chunk], timeout: float | None) -> AsyncStream:
        return AsyncStream(self._begin(question, timeout), question, self._meant)

    async def _ask(self, question: Question[T], timeout: float | None) -> T:
        try:
            return question.read(await self._begin(question, timeout))
        except (grpc.RpcError, asyncio.CancelledError) as error:
            raise _meaning(error, self._meant, begun=False) from None

    def _begin(self, question: Question[T], timeout: float | None) -> Any:
        if self._opened is None:  # within the loop that it belongs to
            self._opened = self._dialled.channel(grpc.aio)
        method = stub(self._opened, question.service, question.method)
        seconds = ask.checked(self._timeout if timeout is None else timeout)
        return method(question.message, timeout=seconds, metadata=self._dialled.metadata)


def _meaning(error: BaseException, address: Address, begun: bool) -> BaseException:
    """A status as its exception. gRPC says by CancelledError that a call was cancelled, also to a task that was not."""
    if isinstance(error, grpc.RpcError):
        return raised(error, address, begun)
    return error if _is_cancelled() else Unavailable("the call was cancelled", "CANCELLED")


def _is_cancelled() -> bool:
    """Whether the task that runs is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

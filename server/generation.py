"""The one way of a request, whichever door it came through: admission, the engine, and the way back.

Every request has one owner here, which frees what it holds in `finally`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..engine.request import Request
from ..engine.settings import Asked, Terms
from ..models.errors import MoesaicError, Overloaded
from ..proto import generation_pb2 as pb
from .admission import Place
from .answer import answer
from .byte_budget import ByteBudget
from .caller import this_caller
from .catalog import Catalog, ServedModel
from .request_log import RequestRecord
from .running import Running
from .under_way import UnderWay
from .validation import checked

if TYPE_CHECKING:
    from .metrics import Metrics
    from .tracing import Tracing


_LONG_BYTES = 1 << 16  # of a request


@dataclass(frozen=True, slots=True)
class Call:
    """What a door says of a request. caller: the name by which it is counted and has its turn.

    seconds_left: that the caller still waits; None is as long as it takes. counting: usage so far with every chunk.
    together: the caller sees all chunks at once.
    """

    caller: str
    request_id: str
    seconds_left: Callable[[], float | None] = lambda: None
    counting: bool = False
    together: bool = False


def new_id() -> str:
    """The id of a request whose caller gave none."""
    return secrets.token_hex(16)


class Generation:
    """What all doors hand requests to: the models of a server, behind one budget of bytes."""

    def __init__(
        self, catalog: Catalog, budget: ByteBudget, metrics: "Metrics | None" = None, log_requests: bool = False,
        tracing: "Tracing | None" = None,
    ) -> None:  # fmt: skip
        self.catalog, self.budget, self.tracing = catalog, budget, tracing
        self._metrics, self._log_requests = metrics, log_requests

    async def chunks(
        self, message: pb.GenerateRequest, call: Call, counted: bool = False
    ) -> AsyncIterator[pb.GenerateChunk]:
        """The answer as it is made; leaving this block by any door frees all that the request holds.

        counted: its bytes are held already, as those of a batch are.
        """
        with self._record(call.request_id, message.model) as record:
            size = message.ByteSize()
            with self.asking(call, message.model, 0 if counted else size) as (model, under_way):
                message.model = record.model = model.name  # an empty name may mean another model, or none, later
                with model.admission.place(call.caller) as place:
                    if size > _LONG_BYTES:  # what has been read has kept the others waiting already
                        await asyncio.sleep(0)
                    asked = await checked(message, model.prompts, model.ready())
                    with in_engine(model, asked, record.arrived, call, place, under_way) as running:
                        tokenizer, end = model.prompts.tokenizer, model.engine.end_answer
                        how = call.counting, call.together
                        async for chunk in answer(running, asked, tokenizer, record.arrived, end, *how):
                            record.note(chunk)
                            yield chunk

    def check_room(self, caller: str) -> None:
        """Refuses a request that has not been read yet, where all there is to serve it is one model, which is full.

        To read what will be refused is what a server in overload has no time for. Raises Overloaded.
        """
        if self.catalog.draining or self.catalog.problems or len(self.catalog.models) != 1:
            return  # the request says which model it means
        [model] = self.catalog.models.values()
        if model.leaving:
            return
        try:
            model.admission.check(caller)
        except Overloaded:
            with self._record(new_id(), model.name) as record:
                record.model = model.name
                raise

    async def whole(self, message: pb.GenerateRequest, call: Call, counted: bool = False) -> pb.GenerateResponse:
        """The whole answer at once: what the chunks say, put together."""
        response = pb.GenerateResponse(request_id=call.request_id)
        texts: list[list[str]] = []
        async with aclosing(self.chunks(message, replace(call, together=True), counted)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                while len(texts) <= chunk.choice:
                    texts.append([])
                texts[chunk.choice].append(chunk.text)
                _add(response, chunk)
                response.model = response.model or self.catalog.find(message.model, "model").name
        for choice, text in enumerate(texts):
            _answer_of(response, choice).text = "".join(text)
        return response

    def _record(self, request_id: str, model: str) -> RequestRecord:
        return RequestRecord(request_id, model, self._log_requests, self._metrics, self.tracing)

    @contextmanager
    def asking(self, call: Call, model: str, size: int) -> Iterator[tuple[ServedModel, UnderWay]]:
        """Counts a request of so many bytes for this model while the block runs.

        Raises Unavailable, AlreadyExists, Overloaded, or what `Catalog.find` does.
        """
        with self.catalog.under_way(call.caller, call.request_id) as under_way, self.budget.request(call.caller, size):
            found = self.catalog.find(model, "model")
            with found.in_use():
                yield found, under_way

    @contextmanager
    def reading(self, call: Call, model: str, size: int) -> Iterator[tuple[ServedModel, Terms]]:
        """The same for what no engine is needed for: it has a place while it is worked on, as others have."""
        with self.asking(call, model, size) as (found, _), found.admission.place(call.caller) as place:
            terms = found.ready()
            found.admission.hold_prompt(place, 0, 0)
            yield found, terms


@contextmanager
def in_engine(
    model: ServedModel, asked: Asked, arrived: float, call: Call, place: Place, under_way: UnderWay
) -> Iterator[Running]:
    """A request with the engine while the block runs. Raises Overloaded, Unavailable or Aborted."""
    most = model.max_prompt_tokens(model.ready().limits)
    model.admission.hold_prompt(place, len(asked.request.prompt_ids), most)
    caller = this_caller()
    caller.spend(len(asked.request.prompt_ids))
    running = model.engine.submit(submitted(asked, arrived, time.monotonic(), call))
    running.spend = caller.spend
    model.admission.follow(place, running)

    def end(error: MoesaicError) -> None:
        model.engine.release(running)  # its slot is free even where nobody reads
        running.fail(error)

    try:
        with under_way.ended_by(end):
            yield running
    finally:
        model.engine.release(running)


def submitted(asked: Asked, arrived: float, now: float, call: Call) -> Request:
    """The request with its caller and with the deadline of its call."""
    left = call.seconds_left()
    request = asked.arrived(arrived, None if left is None else left + now - arrived)
    return replace(request, caller=call.caller, salt=this_caller().salt(request.salt))


def _add(response: pb.GenerateResponse, chunk: pb.GenerateChunk) -> None:
    """All that a chunk says but its text."""
    whole = _answer_of(response, chunk.choice)
    whole.token_ids.extend(chunk.token_ids)
    whole.logprobs.extend(chunk.logprobs)
    response.prompt_logprobs.extend(chunk.prompt_logprobs)
    if chunk.HasField("finish"):
        whole.finish.CopyFrom(chunk.finish)
    if chunk.HasField("usage"):
        response.usage.CopyFrom(chunk.usage)
        response.timing.CopyFrom(chunk.timing)


def _answer_of(response: pb.GenerateResponse, choice: int) -> pb.GenerateResponse | pb.Answer:
    """Where an answer is written: the first is the response itself."""
    while len(response.others) < choice:
        response.others.add()
    return response.others[choice - 1] if choice else response

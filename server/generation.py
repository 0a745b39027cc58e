"""The one way to generate, whichever door a request came through: admission, the engine, and the way back."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..engine.request import Request
from ..engine.settings import Asked
from ..proto import generation_pb2 as pb
from .answer import answer
from .byte_budget import ByteBudget
from .caller import this_caller
from .catalog import Catalog
from .request_log import RequestRecord
from .validation import checked

if TYPE_CHECKING:
    from .metrics import Metrics


@dataclass(frozen=True, slots=True)
class Call:
    """What a door says of a request. caller: the name by which it is counted and has its turn.

    seconds_left: that the caller still waits; None is as long as it takes. counting: usage so far with every chunk.
    """

    caller: str
    request_id: str
    seconds_left: Callable[[], float | None] = lambda: None
    counting: bool = False


class Generation:
    """What both doors hand requests to. Every request has one owner here, which frees what it holds in `finally`."""

    def __init__(
        self, catalog: Catalog, budget: ByteBudget, metrics: "Metrics | None" = None, log_requests: bool = False
    ) -> None:
        self.catalog, self.budget = catalog, budget
        self._metrics, self._log_requests = metrics, log_requests

    async def chunks(self, message: pb.GenerateRequest, call: Call) -> AsyncIterator[pb.GenerateChunk]:
        """The answer as it is made; closing this frees all that it holds. Raises a MoesaicError."""
        with RequestRecord(call.request_id, message.model, self._log_requests, self._metrics) as record:
            with self.catalog.under_way(call.caller, call.request_id), self.budget.request(message.ByteSize()):
                model = self.catalog.find(message.model, "model")
                record.model = model.name
                terms = model.ready()
                with model.admission.place(call.caller) as place:
                    asked = await checked(message, model.prompts, terms)
                    num_tokens, most_tokens = len(asked.request.prompt_ids), model.max_prompt_tokens(terms.limits)
                    model.admission.hold_prompt(place, num_tokens, most_tokens)
                    this_caller().spend(num_tokens)
                    running = model.engine.submit(submitted(asked, record.arrived, time.monotonic(), call))
                    place.running = running
                    end = model.engine.end_answer
                    try:
                        async for chunk in answer(
                            running, asked, model.prompts.tokenizer, record.arrived, end, call.counting
                        ):
                            record.note(chunk)
                            this_caller().spend(len(chunk.token_ids))
                            yield chunk
                    finally:
                        model.engine.release(running)


def submitted(asked: Asked, arrived: float, now: float, call: Call) -> Request:
    """The request with its caller and with the deadline of its call."""
    left = call.seconds_left()
    request = asked.arrived(arrived, None if left is None else left + now - arrived)
    return replace(request, caller=call.caller, salt=this_caller().salt(request.salt))

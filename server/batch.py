"""Many requests in one call, each with its own answer or status."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from ..models.errors import InvalidRequest, Overloaded, Violation
from ..proto import generation_pb2 as pb
from .caller import this_caller
from .generation import Call, Generation, new_id
from .incident import told
from .many import as_they_end
from .status import refusal

MOST_REQUESTS = 256


async def generate_batch(
    generation: Generation, message: pb.GenerateBatchRequest, call: Call, method: str
) -> AsyncIterator[pb.BatchItem]:
    """Items in the order in which they end. Raises InvalidRequest for what no item can be begun of."""
    if wrong := list(_violations(message)):
        raise InvalidRequest(wrong)
    this_caller().ask(len(message.requests) - 1)
    with generation.budget.request(call.caller, message.ByteSize()):
        works = [partial(_item, generation, request, call, method) for request in message.requests]
        async with aclosing(as_they_end(works)) as items:  # type: ignore[type-var]
            async for index, item in items:
                item.index = index
                yield item


async def _item(generation: Generation, request: pb.GenerateRequest, call: Call, method: str) -> pb.BatchItem:
    """One answer, or why there is none; only a lack of room is raised, which does not last."""
    mine = replace(call, request_id=request.request_id or new_id())
    try:
        return pb.BatchItem(response=await generation.whole(request, mine, counted=True))
    except Exception as error:
        if isinstance(error, Overloaded) and error.reason == "QUEUE_FULL":
            raise
        return pb.BatchItem(error=refusal(told(error, method)).status)


def _violations(message: pb.GenerateBatchRequest) -> list[Violation]:
    count = len(message.requests)
    if not 1 <= count <= MOST_REQUESTS:
        return [Violation("requests", f"are {count}, they must be 1 to {MOST_REQUESTS}", "BATCH_SIZE")]
    seen: dict[str, int] = {}
    wrong = []
    for i, request in enumerate(message.requests):
        if request.request_id and seen.setdefault(request.request_id, i) != i:
            text = f"is that of requests[{seen[request.request_id]}] too; give each another one, or none"
            wrong.append(Violation(f"requests[{i}].request_id", text))
    return wrong

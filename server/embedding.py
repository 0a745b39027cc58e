"""Vectors of texts: each is a request of its own, and what waits in the engine is computed together."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from ..engine.completion import check_row
from ..engine.embedding import ALL_TOKENS, Embedded, embed_request, encoder_pooling, pooling_of, to_read
from ..engine.request import Limits, Priority, Request
from ..engine.settings import Asked
from ..models.errors import InvalidRequest, Violation
from ..models.sentences import Pooling
from ..proto import scoring_pb2
from .catalog import ServedModel
from .generation import Call, Generation, in_engine
from .many import as_they_end
from .prompts import Prompts
from .reading_record import ReadingRecord
from .under_way import UnderWay
from .validation import PRIORITIES, request_id_violations

MOST_INPUTS = 256
Ids = Sequence[int]


async def embed(generation: Generation, message: scoring_pb2.EmbedRequest, call: Call) -> scoring_pb2.EmbedResponse:
    """The vectors. Raises InvalidRequest with all that is wrong, Unsupported for a model that is no encoder, and what a
    request of Generate may.
    """
    with ReadingRecord("embed", call.request_id, message.model, "", generation.tracing) as record:
        if wrong := [*request_id_violations(message.request_id), *_shape_violations(message)]:
            raise InvalidRequest(wrong)
        with generation.asking(call, message.model, message.ByteSize()) as (model, under_way):
            record.model = model.name
            limits, pooling = _terms(model, message)
            texts = await _texts(message, model.prompts, pooling, limits)
            works = [partial(_embed, request, was_cut, model, call, record, under_way) for request, was_cut in texts]
            found = [Embedded((), 0)] * len(works)
            async with aclosing(as_they_end(works)) as ended:  # type: ignore[type-var]
                async for index, each in ended:
                    found[index] = each
    embeddings = [scoring_pb2.Embedding(values=e.values, num_tokens=e.num_tokens, truncated=e.truncated) for e in found]
    return scoring_pb2.EmbedResponse(
        request_id=call.request_id, model=model.name, embeddings=embeddings,
        prompt_tokens=sum(each.num_tokens for each in found), pooling=pooling.kind, normalised=pooling.normalised,
    )  # fmt: skip


def _terms(model: ServedModel, message: scoring_pb2.EmbedRequest) -> tuple[Limits, Pooling]:
    """What the model allows, and how its states become a vector."""
    limits, description = model.ready().limits, model.engine.description
    own = encoder_pooling(description.pooling if description else None, f"model {model.name}")
    return limits, pooling_of(message.pooling, message.normalised if message.HasField("normalised") else None, own)


async def _embed(
    request: Request, was_cut: bool, model: ServedModel, call: Call, record: ReadingRecord, under_way: UnderWay
) -> Embedded:
    with model.admission.place(call.caller) as place:
        with in_engine(model, Asked(request, ()), record.arrived, call, place, under_way) as running:
            (row,) = await running.take()
            check_row(row, request)
            record.note(running)
            return Embedded(row.embedding, len(request.prompt_ids), was_cut)


async def _texts(
    message: scoring_pb2.EmbedRequest, prompts: Prompts, pooling: Pooling, limits: Limits
) -> list[tuple[Request, bool]]:
    """A request of each input, and whether it was cut. Raises InvalidRequest with what is wrong with any of them."""
    priority = Priority(PRIORITIES[message.priority]) if message.priority else Priority.NORMAL
    window, found, wrong = limits.max_context, list[tuple[Request, bool]](), list[Violation]()
    for i, each in enumerate(message.inputs):
        try:
            whole = await prompts.ids(each, ALL_TOKENS if message.truncate else window)
            tokenizer = prompts.tokenizer if each.HasField("text") else None
            ids = to_read(whole, tokenizer, window if message.truncate else None)
            found.append((embed_request(ids, pooling, limits, priority), len(ids) < len(whole)))
        except InvalidRequest as error:
            wrong += [replace(violation, field=f"inputs[{i}]") for violation in error.violations]
    if wrong:
        raise InvalidRequest(wrong)
    return found


def _shape_violations(message: scoring_pb2.EmbedRequest) -> list[Violation]:
    count, wrong = len(message.inputs), list[Violation]()
    if not 1 <= count <= MOST_INPUTS:
        wrong.append(
            Violation("inputs", f"are {count}, they must be 1 to {MOST_INPUTS}; send more in several requests")
        )
    for i, each in enumerate(message.inputs[:MOST_INPUTS]):
        if not each.text and not each.token_ids.ids:
            wrong.append(Violation(f"inputs[{i}]", "is empty; give text or token_ids", "EMPTY_PROMPT"))
    if message.priority and message.priority not in PRIORITIES:
        wrong.append(Violation("priority", f"is {message.priority}, which no priority has; leave it out"))
    return wrong

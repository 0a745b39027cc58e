"""What Embed and Classify have in common: each text is a request of its own, and what waits is computed together."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from ..engine.completion import check_row
from ..engine.embedding import ALL_TOKENS, to_read
from ..engine.request import Limits, Priority, Request, Row
from ..engine.settings import Asked
from ..models.errors import InvalidRequest, Violation
from ..proto import scoring_pb2
from .catalog import ServedModel
from .generation import Call, in_engine
from .many import as_they_end
from .prompts import Prompts
from .reading_record import ReadingRecord
from .under_way import UnderWay
from .validation import PRIORITIES, request_id_violations

MOST_INPUTS = 256
Message = scoring_pb2.EmbedRequest | scoring_pb2.ClassifyRequest
RequestOf = Callable[[Sequence[int], Priority], Request]  # of token ids; raises InvalidRequest


@dataclass(frozen=True, slots=True)
class ReadText:
    """What the engine made of a text, how many tokens of it it was given, and whether it had more."""

    row: Row
    num_tokens: int
    truncated: bool


def check_inputs(message: Message) -> None:
    """Raises InvalidRequest with all that is wrong with the form of a message."""
    if wrong := [*request_id_violations(message.request_id), *_shape_violations(message)]:
        raise InvalidRequest(wrong)


async def read_texts(
    message: Message, model: ServedModel, limits: Limits, request_of: RequestOf, call: Call,
    record: ReadingRecord, under_way: UnderWay,
) -> list[ReadText]:  # fmt: skip
    """What became of each input. Raises InvalidRequest with what is wrong with any of them, and what a request of
    Generate may.
    """
    texts = await _texts(message, model.prompts, limits, request_of)
    works = [partial(_read, request, was_cut, model, call, record, under_way) for request, was_cut in texts]
    found = [ReadText(Row(0), 0, False)] * len(works)
    async with aclosing(as_they_end(works)) as ended:  # type: ignore[type-var]
        async for index, each in ended:
            found[index] = each
    return found


async def _read(
    request: Request, was_cut: bool, model: ServedModel, call: Call, record: ReadingRecord, under_way: UnderWay
) -> ReadText:
    with model.admission.place(call.caller) as place:
        with in_engine(model, Asked(request, ()), record.arrived, call, place, under_way) as running:
            (row,) = await running.take()
            check_row(row, request)
            record.note(running)
            return ReadText(row, len(request.prompt_ids), was_cut)


async def _texts(
    message: Message, prompts: Prompts, limits: Limits, request_of: RequestOf
) -> list[tuple[Request, bool]]:
    """A request of each input, and whether it was cut."""
    priority = Priority(PRIORITIES[message.priority]) if message.priority else Priority.NORMAL
    window, found, wrong = limits.max_context, list[tuple[Request, bool]](), list[Violation]()
    for i, each in enumerate(message.inputs):
        try:
            whole = await prompts.ids(each, ALL_TOKENS if message.truncate else window)
            tokenizer = prompts.tokenizer if each.HasField("text") else None
            ids = to_read(whole, tokenizer, window if message.truncate else None)
            found.append((request_of(ids, priority), len(ids) < len(whole)))
        except InvalidRequest as error:
            wrong += [replace(violation, field=f"inputs[{i}]") for violation in error.violations]
    if wrong:
        raise InvalidRequest(wrong)
    return found


def _shape_violations(message: Message) -> list[Violation]:
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

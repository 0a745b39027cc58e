"""How likely continuations of a context are to a model: each is read as a prompt, and its tokens' likelihood told."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from ..engine.completion import check_row
from ..engine.request import Request, TokenLogprobs
from ..engine.settings import Asked, Terms, asked_of
from ..models.errors import InvalidRequest, Violation
from ..proto import generation_pb2, scoring_pb2
from .catalog import ServedModel
from .fields import logprobs_message
from .generation import Call, Generation, in_engine
from .many import as_they_end
from .prompts import LONG_CHARACTERS, Prompts
from .reading_record import ReadingRecord
from .running import Running
from .under_way import UnderWay
from .validation import PRIORITIES, request_id_violations

MOST_CONTINUATIONS = 128
MOST_CHARACTERS = 1 << 24  # of all texts, the context once for each
MOST_NUMBERS = 1 << 20  # of all distributions: 4 MB


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the engine reads, and how many of its tokens stand before those that count."""

    asked: Asked
    before: int


async def score(generation: Generation, message: scoring_pb2.ScoreRequest, call: Call) -> scoring_pb2.ScoreResponse:
    """The log likelihoods. Raises InvalidRequest with all that is wrong, and what a request of Generate may."""
    with ReadingRecord("score", call.request_id, message.model, message.tier, generation.tracing) as record:
        if wrong := [*request_id_violations(message.request_id), *_shape_violations(message)]:
            raise InvalidRequest(wrong)
        with generation.asking(call, message.model, message.ByteSize()) as (model, under_way):
            record.model = model.name
            readings = await _readings(message, model.prompts, model.ready())
            works = [partial(_score, each, message, model, call, record, under_way) for each in readings]
            scores = [scoring_pb2.Score()] * len(works)
            async with aclosing(as_they_end(works)) as ended:  # type: ignore[type-var]
                async for index, found in ended:
                    scores[index] = found
    tokens = sum(len(each.asked.request.prompt_ids) for each in readings)
    return scoring_pb2.ScoreResponse(request_id=call.request_id, model=model.name, scores=scores, prompt_tokens=tokens)


async def _score(
    reading: _Reading,
    message: scoring_pb2.ScoreRequest,
    model: ServedModel,
    call: Call,
    record: ReadingRecord,
    under_way: UnderWay,
) -> scoring_pb2.Score:
    with model.admission.place(call.caller) as place:
        with in_engine(model, reading.asked, record.arrived, call, place, under_way) as running:
            told, whole = await _told(running, reading.asked.request)
            record.note(running)
    told = told[reading.before - 1 :]  # a prompt's first token has none
    at = dict(zip(sorted(message.distributions_at), whole, strict=True))
    return scoring_pb2.Score(
        logprob=sum(token.logprob for token in told),
        num_tokens=len(told),
        is_greedy=all(token.token_id == token.top[0][0] for token in told),
        tokens=[logprobs_message(generation_pb2.TokenLogprobs, token) for token in told] if message.logprobs else (),
        distributions=[at[place] for place in message.distributions_at],
    )


async def _told(running: Running, request: Request) -> tuple[list[TokenLogprobs], list[bytes]]:
    """What the engine tells of a prompt until its answer ends. Raises what `check_row` does."""
    told, whole = list[TokenLogprobs](), list[bytes]()
    while True:
        for row in await running.take():
            check_row(row, request)
            told += row.prompt_logprobs
            whole += row.distributions
            if row.finish is not None:
                return told, whole


async def _readings(message: scoring_pb2.ScoreRequest, prompts: Prompts, terms: Terms) -> list[_Reading]:
    """One for each continuation. Raises InvalidRequest with what is wrong with any of them."""
    settings, readings, wrong = _settings(message), list[_Reading](), _numbers_violations(message, terms)
    context = await _context(message, prompts, terms.limits.max_context)
    for i, each in enumerate(message.continuations):
        try:
            ids, before = await context.with_continuation(each)
            found = _split_violations(f"continuations[{i}]", len(ids), before)
            found += _place_violations(message, f"continuations[{i}]", len(ids) - before)
            asked = asked_of(ids, settings, terms, found=found, compute_path="compute.")
            places = tuple(before + place for place in sorted(message.distributions_at))
            num_full = before if message.full_context else 0
            request = replace(asked.request, num_full=num_full, distributions_at=places)
            readings.append(_Reading(replace(asked, request=request), before))
        except InvalidRequest as error:
            wrong += [_named(violation, f"continuations[{i}]") for violation in error.violations]
    if wrong:
        raise InvalidRequest([*{(each.field, each.message): each for each in wrong}.values()])
    return readings


async def _context(message: scoring_pb2.ScoreRequest, prompts: Prompts, window: int) -> "_Context":
    text, by_text = message.text, all(each.HasField("text") for each in message.continuations)
    try:
        prompts.check_text(text, window)
        ids = () if by_text else await prompts.ids(_prompt(message), window)
    except InvalidRequest as error:
        raise InvalidRequest([_named(each, "context") for each in error.violations]) from None
    return _Context(prompts, window, text, ids, _num_characters(message) < LONG_CHARACTERS)


def _prompt(message: scoring_pb2.ScoreRequest) -> generation_pb2.GenerateRequest:
    """The context as a prompt alone."""
    if message.HasField("text"):
        return generation_pb2.GenerateRequest(text=message.text)
    return generation_pb2.GenerateRequest(token_ids=message.token_ids)


@dataclass(frozen=True, slots=True)
class _Context:
    """What stands before all continuations: a text, and its ids for continuations that are ids.

    short: all texts together are, and can be made into tokens here and now.
    """

    prompts: Prompts
    window: int
    text: str
    ids: Sequence[int]
    short: bool

    async def with_continuation(self, each: scoring_pb2.Continuation) -> tuple[Sequence[int], int]:
        """The ids of both, and how many of them are the context's."""
        if each.HasField("text"):
            return await self.prompts.split(self.text, each.text, self.window, self.short)
        total = len(self.ids) + len(each.token_ids.ids)
        return ((*self.ids, *each.token_ids.ids) if total <= self.window else (0,) * total), len(self.ids)


def _num_characters(message: scoring_pb2.ScoreRequest) -> int:
    """Of all that is made into tokens."""
    return len(message.continuations) * len(message.text) + sum(len(each.text) for each in message.continuations)


def _settings(message: scoring_pb2.ScoreRequest) -> Mapping[str, object]:
    return {
        "temperature": 0,
        "max_new_tokens": 1,
        "ignore_eos": True,
        "prompt_logprobs": 1,
        "prefill_tier": message.tier or None,
        "priority": PRIORITIES.get(message.priority, message.priority) if message.priority else None,
        "cache_salt": message.cache_salt,
    }


def _shape_violations(message: scoring_pb2.ScoreRequest) -> list[Violation]:
    kind, count, wrong = message.WhichOneof("context"), len(message.continuations), list[Violation]()
    if kind is None:
        wrong.append(Violation("context", "is not set; give text or token_ids", "EMPTY_PROMPT"))
    elif kind == "token_ids" and not message.token_ids.ids:
        wrong.append(Violation("context.token_ids", "is empty; give at least one", "EMPTY_PROMPT"))
    if not 1 <= count <= MOST_CONTINUATIONS:
        wrong.append(Violation("continuations", f"are {count}, they must be 1 to {MOST_CONTINUATIONS}"))
    characters = _num_characters(message)
    if characters > MOST_CHARACTERS:
        text = (
            f"make texts of {characters} characters with their context, the limit is {MOST_CHARACTERS}; ask for fewer"
        )
        wrong.append(Violation("continuations", text, "REQUEST_TOO_LARGE"))
    for i, each in enumerate(message.continuations):
        if not each.text and not each.token_ids.ids:
            wrong.append(Violation(f"continuations[{i}]", "is empty; give text or token_ids"))
        elif each.HasField("text") and kind == "token_ids":
            wrong.append(Violation(f"continuations[{i}].text", "stands behind a context of token_ids; give ids"))
    return wrong


def _numbers_violations(message: scoring_pb2.ScoreRequest, terms: Terms) -> list[Violation]:
    places, wrong = message.distributions_at, list[Violation]()
    if len(set(places)) < len(places):
        wrong.append(Violation("distributions_at", "has a place twice; name each once"))
    numbers = len(places) * len(message.continuations) * terms.limits.vocab_size
    if numbers > MOST_NUMBERS:
        text = f"makes {numbers} numbers, the limit is {MOST_NUMBERS}; name fewer places, or ask in several requests"
        wrong.append(Violation("distributions_at", text, "REQUEST_TOO_LARGE"))
    return wrong


def _place_violations(message: scoring_pb2.ScoreRequest, field: str, tokens: int) -> list[Violation]:
    last = max(message.distributions_at, default=-1)
    text = f"is {last}, and {field} has {tokens} tokens; the first is at 0"
    return [Violation("distributions_at", text)] if last >= tokens > 0 else []


def _split_violations(field: str, total: int, before: int) -> list[Violation]:
    if not before:
        text = "makes no token of its own, so that the next has nothing before it; give a longer one"
        return [Violation("context", text, "EMPTY_PROMPT")]
    return [] if total > before else [Violation(field, "makes no token of its own; give a longer one")]


def _named(violation: Violation, field: str) -> Violation:
    """The same with the name of the field that the caller wrote."""
    own = ("priority", "cache_salt", "context", "distributions_at")
    known = {"compute.prefill_tier": "tier", **{name: name for name in own}}
    return replace(violation, field=known.get(violation.field, field))

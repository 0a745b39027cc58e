"""Engine dataclasses to engine.proto messages and back. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from ..engine.constraint import Constraint
from ..engine.options import ModelDescription
from ..engine.request import FinishReason, Limits, Load, Priority, Request, Row, Stopping, Timing
from ..engine.sampling import Sampling
from ..engine.token_rules import TokenRules, token_rules_of
from ..models.dial import Dial
from ..models.labels import Labels
from ..models.sentences import Pooling
from ..proto import engine_pb2 as pb
from .fields import fields_of, logprobs_message, logprobs_of, values_of
from .frames import MAX_FRAME_BYTES

_MOST_TOLD = 1 << 15  # tokens of prompts in a frame: with 20 likeliest each, half of what a frame may hold
_TOLD_BYTES = MAX_FRAME_BYTES // 2 // _MOST_TOLD  # that one of them is counted as


def submit_message(request: Request) -> pb.Command:
    """The command that hands a request to the engine."""
    stopping = request.stopping
    submit = pb.Submit(
        key=request.key,
        prompt_ids=request.prompt_ids,
        sampling=pb.Sampling(**values_of(request.sampling)),
        max_new_tokens=stopping.max_new_tokens,
        stop_token_ids=stopping.stop_token_ids,
        ignore_eos=stopping.ignore_eos,
        arrived_seconds=request.arrived_seconds,
        operating_point=request.operating_point,
        token_rules=_rules_message(request.token_rules),
        constraint=None if request.constraint is None else pb.Constraint(**asdict(request.constraint)),
        prefill_point=request.prefill_point,
        floor=request.floor,
        priority=request.priority.name,
        caller=request.caller,
        salt=request.salt,
        deadline_seconds=request.deadline_seconds,
        pooling=_pooling_message(request.pooling),
        num_full=request.num_full,
        distributions_at=request.distributions_at,
        classify=request.classify,
    )
    return pb.Command(submit=submit)


def request_of(submit: pb.Submit) -> Request:
    """The request that the engine is handed."""
    sampling = Sampling(**fields_of(submit.sampling))
    stopping = Stopping(submit.max_new_tokens, tuple(submit.stop_token_ids), submit.ignore_eos)
    arrived = submit.arrived_seconds if submit.HasField("arrived_seconds") else None
    constraint = submit.constraint
    return Request(
        submit.key, tuple(submit.prompt_ids), sampling, stopping, arrived, submit.operating_point,
        token_rules_of(fields_of(submit.token_rules)),
        Constraint(constraint.kind, tuple(constraint.texts)) if submit.HasField("constraint") else None,
        submit.prefill_point,
        submit.floor if submit.HasField("floor") else None,
        Priority[submit.priority],
        submit.caller,
        submit.salt,
        submit.deadline_seconds if submit.HasField("deadline_seconds") else None,
        _pooling_of(submit),
        submit.num_full,
        tuple(submit.distributions_at),
        submit.classify,
    )  # fmt: skip


def _pooling_message(pooling: Pooling | None) -> pb.Pooling | None:
    return None if pooling is None else pb.Pooling(**asdict(pooling))


def _pooling_of(message: pb.Submit | pb.Ready) -> Pooling | None:
    there = message.HasField("pooling")
    return Pooling(message.pooling.kind, message.pooling.normalised) if there else None


def _labels_message(labels: Labels | None) -> pb.Labels | None:
    return None if labels is None else pb.Labels(**asdict(labels))


def _labels_of(ready: pb.Ready) -> Labels | None:
    return Labels(tuple(ready.labels.names), ready.labels.problem) if ready.HasField("labels") else None


def _rules_message(rules: TokenRules) -> pb.TokenRules:
    allowed, banned = rules.allowed_token_ids, rules.banned_token_ids
    return pb.TokenRules(logit_bias=dict(rules.logit_bias), allowed_token_ids=allowed, banned_token_ids=banned)


def step_messages(rows: Sequence[Row], load: Load, num_obeyed: int = 0) -> Iterator[pb.Event]:
    """One step of the engine with all its rows; more than one where what is told of prompts fills a frame."""
    part, told = list[Row](), 0
    for piece in (piece for row in rows for piece in _pieces(row)):
        if part and told + _told(piece) > _MOST_TOLD:
            yield step_message(part, load)
            part, told = [], 0
        part.append(piece)
        told += _told(piece)
    yield step_message(part, load, num_obeyed)


def _told(row: Row) -> int:
    """How many tokens of a prompt it brings, distributions counted as many."""
    return len(row.prompt_logprobs) + -(-sum(map(len, row.distributions)) // _TOLD_BYTES)


def _pieces(row: Row) -> Iterator[Row]:
    """A row as it is, or behind others that bring no more than what its prompt has too much of."""
    told, rest = row.prompt_logprobs, max(0, len(row.prompt_logprobs) - _MOST_TOLD)
    for begin in range(0, rest, _MOST_TOLD):
        part = told[begin : min(begin + _MOST_TOLD, rest)]
        yield Row(row.key, choice=row.choice, cached_tokens=row.cached_tokens, prompt_logprobs=part)
    yield replace(row, prompt_logprobs=told[rest:]) if rest else row


def step_message(rows: Sequence[Row], load: Load, num_obeyed: int = 0) -> pb.Event:
    """Rows of one step; num_obeyed: the commands that had been carried out before it."""
    told = [_row_message(row) for row in rows]
    return pb.Event(step=pb.Step(rows=told, load=load_message(load), num_obeyed=num_obeyed))


def _row_message(row: Row) -> pb.Row:
    message = pb.Row(
        key=row.key, token_ids=row.token_ids, choice=row.choice,
        cached_tokens=row.cached_tokens, operating_point=row.operating_point, embedding=row.embedding,
        distributions=row.distributions,
        logits=row.logits,
    )  # fmt: skip
    message.logprobs.extend(logprobs_message(pb.TokenLogprobs, each) for each in row.logprobs)
    message.prompt_logprobs.extend(logprobs_message(pb.TokenLogprobs, each) for each in row.prompt_logprobs)
    if row.finish is not None:
        message.finish = row.finish.name
        message.error = row.error
        if row.stop_token_id is not None:
            message.stop_token_id = row.stop_token_id
    if row.timing is not None:
        message.queue_seconds = row.timing.queue_seconds
        message.prefill_seconds = row.timing.prefill_seconds
        message.decode_seconds = row.timing.decode_seconds
    if row.shares is not None:
        message.bytes_share, message.neurons_share = row.shares
    return message


def row_of(message: pb.Row) -> Row:
    """The row that the front end hands to its request."""
    timing = None
    if message.queue_seconds or message.prefill_seconds or message.decode_seconds:
        timing = Timing(message.queue_seconds, message.prefill_seconds, message.decode_seconds)
    return Row(
        key=message.key,
        token_ids=tuple(message.token_ids),
        finish=FinishReason[message.finish] if message.finish else None,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        error=message.error,
        timing=timing,
        shares=(message.bytes_share, message.neurons_share) if message.HasField("bytes_share") else None,
        choice=message.choice,
        logprobs=logprobs_of(message.logprobs) if message.logprobs else (),
        prompt_logprobs=logprobs_of(message.prompt_logprobs) if message.prompt_logprobs else (),
        cached_tokens=message.cached_tokens,
        operating_point=message.operating_point if message.HasField("operating_point") else None,
        embedding=tuple(message.embedding) if message.embedding else (),
        distributions=tuple(message.distributions),
        logits=tuple(message.logits) if message.logits else (),
    )


def load_message(load: Load) -> pb.Load:
    """How full the engine is."""
    return pb.Load(**values_of(load))


def ready_message(description: ModelDescription, limits: Limits, load: Load) -> pb.Event:
    """What is sent once, after the warm-up."""
    ready = pb.Ready(
        family=description.family,
        num_parameters=description.num_parameters,
        weight_bytes=description.weight_bytes,
        vocab_size=limits.vocab_size,
        max_context=limits.max_context,
        stages=description.stages,
        tiers=description.tiers,
        dial=[pb.DialPoint(operating_point=point, share=share) for point, share in description.dial.points],
        device=description.device,
        dtype=description.dtype,
        threads=description.threads,
        load=load_message(load),
        kv_tokens=description.kv_tokens,
        kv_bytes=description.kv_bytes,
        kv_cache=description.kv_cache,
        tier_bytes=description.tier_bytes,
        other_bytes=description.other_bytes,
        cache_tokens=limits.cache_tokens,
        num_slots=limits.num_slots,
        block_tokens=limits.block_tokens,
        max_source=limits.max_source,
        pooling=_pooling_message(description.pooling),
        labels=_labels_message(description.labels),
        instead=description.instead,
    )
    return pb.Event(ready=ready)


def limits_of(ready: pb.Ready) -> Limits:
    """What the model and its engine allow."""
    return Limits(
        ready.vocab_size,
        ready.max_context,
        ready.num_slots if ready.HasField("num_slots") else None,
        ready.cache_tokens if ready.HasField("cache_tokens") else None,
        ready.block_tokens,
        ready.max_source if ready.HasField("max_source") else None,
    )


def description_of(ready: pb.Ready) -> ModelDescription:
    """What the front end tells about a model."""
    return ModelDescription(
        family=ready.family,
        num_parameters=ready.num_parameters,
        weight_bytes=ready.weight_bytes,
        vocab_size=ready.vocab_size,
        max_context=ready.max_context,
        stages=tuple(ready.stages),
        dial=Dial(tuple(ready.tiers), tuple((point.operating_point, point.share) for point in ready.dial)),
        device=ready.device,
        dtype=ready.dtype,
        threads=ready.threads,
        num_slots=ready.load.num_slots,
        kv_tokens=ready.kv_tokens,
        kv_bytes=ready.kv_bytes,
        kv_cache=ready.kv_cache,
        tier_bytes=ready.tier_bytes,
        other_bytes=ready.other_bytes,
        pooling=_pooling_of(ready),
        labels=_labels_of(ready),
        instead=ready.instead,
    )

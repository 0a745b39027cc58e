"""The edge between what a caller says of a generation and what the engine is asked, for `LLM` and server. No torch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from ..models.dial import Dial
from ..models.errors import InvalidRequest, Unsupported, Violation
from ..models.suggestion import suggestion
from .constraint import ConstraintSettings, constraint_of, constraint_violations
from .points import ComputeSettings, points_of
from .request import Limits, Request, Stopping, default_max_new_tokens, violations
from .sampling import OPTIONS, Sampling, SamplingSettings, sampling_of
from .standing import PRIORITIES, StandingSettings, priority_of, standing_violations
from .text import Decoder, TextStream, stop_string_violations
from .token_rules import TokenSettings, token_rules_of


class GenerationSettings(
    SamplingSettings, TokenSettings, ConstraintSettings, ComputeSettings, StandingSettings, total=False
):
    """What may be asked of a generation, by name. What is left open comes from the model's generation_config.

    stop: strings that end the answer, which ends before them. The rest is told where the parts of this are.
    """

    max_new_tokens: int | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What a model brings to every request: its sampling defaults, what it allows, its operating points; and of one
    that continues no text, what it is instead: "an encoder".
    """

    defaults: Mapping[str, float | int]
    limits: Limits
    dial: Dial
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can succeed, without a key yet.

    first_token_seconds: from its arrival on, until its first token must be there. continues: whether the answer goes on
    from the prompt's own text, and not from what an encoder has read.
    """

    request: Request
    stop_strings: tuple[str, ...]
    first_token_seconds: float | None = None
    continues: bool = True

    def arrived(self, now: float, seconds_left: float | None = None) -> Request:
        """The request with its deadline: as it was asked for, or what its caller waits, whichever comes first."""
        waits = [each for each in (self.first_token_seconds, seconds_left) if each is not None]
        return replace(self.request, deadline_seconds=now + min(waits)) if waits else self.request

    def text_stream(self, tokenizer: Decoder) -> TextStream:
        """Where the tokens of its answer become text."""
        return TextStream(tokenizer, self.request.prompt_ids if self.continues else (), self.stop_strings)


def asked_of(
    prompt_ids: Sequence[int],
    settings: Mapping[str, object],
    terms: Terms,
    *,
    turn_end_ids: Sequence[int] = (),
    found: Sequence[Violation] = (),
    compute_path: str = "",
) -> Asked:
    """What the engine is asked. settings: by the names of GenerationSettings, absent or None is left open.

    turn_end_ids: of a chat, what ends an answer too. Raises InvalidRequest with what was found wrong before and all
    that is wrong here, tiers and shares named behind `compute_path`; Unsupported for a tier that it does not have,
    and for all of a model that continues no text.
    """
    if terms.instead:
        raise Unsupported(f"this model is {terms.instead}: it makes embeddings of texts and continues none")
    said, wrong = rightly_typed(settings)
    sampling = sampling_of(said, terms.defaults)
    stopping = _stopping(said, len(prompt_ids), terms.limits)
    stop_strings, rules = _strings(said.get("stop")), token_rules_of(said)
    wrong = [*found, *wrong, *violations(prompt_ids, sampling, stopping, terms.limits, rules)]
    continues = terms.limits.max_source is None
    wrong += [*_unasked(sampling, constraint_of(said) is not None, continues)]
    wrong += [*stop_string_violations(stop_strings), *constraint_violations(said), *standing_violations(said)]
    points = points_of(said, terms.dial, compute_path, wrong)
    stopping = stopping.also_at(turn_end_ids)
    request = Request(
        0, tuple(prompt_ids), sampling, stopping,
        operating_point=points.asked, prefill_point=points.prefill, floor=points.floor,
        token_rules=rules, constraint=constraint_of(said),
        priority=priority_of(said), salt=said.get("cache_salt") or "",
    )  # fmt: skip
    return Asked(request, stop_strings, said.get("first_token_seconds"), continues)


def _unasked(sampling: Sampling, constrained: bool, continues: bool) -> Iterator[Violation]:
    """What cannot be asked together, or of a model whose prompts an encoder reads."""
    if constrained and sampling.num_beams > 1:
        message = f"is {sampling.num_beams}, and a search follows no constraint; leave one of them out"
        yield Violation("sampling.num_beams", message)
    if not continues and sampling.prompt_logprobs is not None:
        message = f"is {sampling.prompt_logprobs}, and the encoder that reads a prompt foresees no tokens; leave it out"
        yield Violation("sampling.prompt_logprobs", message)


def check_names(settings: Mapping[str, object]) -> None:
    """Refuses names that do not exist, with a suggestion."""
    known = list(GenerationSettings.__annotations__)
    for name in settings:
        if name not in known:
            raise InvalidRequest([Violation(name, f"there is no such setting; {suggestion(name, known)}")])


def rightly_typed(settings: Mapping[str, object]) -> tuple[dict[str, Any], list[Violation]]:
    """The settings of the right type, and what is wrong with the others: a program may hand over anything."""
    wrong = []
    for name, (is_right, wanted) in _TYPES.items():
        value = settings.get(name)
        if value is not None and not is_right(value):
            wrong.append(Violation(name, f"is {value!r}, it must be {wanted}"))
    names = {violation.field for violation in wrong}
    return {name: value for name, value in settings.items() if name not in names}, wrong


def _stopping(said: Mapping[str, Any], num_prompt_tokens: int, limits: Limits) -> Stopping:
    limit = said.get("max_new_tokens")
    return Stopping(
        default_max_new_tokens(num_prompt_tokens, limits) if limit is None else limit,
        tuple(said.get("stop_token_ids") or ()),
        bool(said.get("ignore_eos")),
    )


def _strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
    return True


def _are_strings(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Sequence) and all(isinstance(item, str) for item in value))


def _are_numbers_by_id(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_whole(key) and _is_number(each) for key, each in value.items())


def _is_schema(value: object) -> bool:
    try:
        return isinstance(value, str) or (isinstance(value, Mapping) and bool(json.dumps(value)))
    except (TypeError, ValueError):
        return False


def _are_whole(value: object) -> bool:
    if not isinstance(value, Sequence):
        return False
    kinds = set(map(type, value))  # few, where a message may hold millions while other streams wait
    return all(issubclass(kind, Integral) and not issubclass(kind, bool) for kind in kinds)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_WHOLE, _NUMBER = (_is_whole, "a whole number"), (_is_number, "a number")
_TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    **{name: _WHOLE if option.kind is int else _NUMBER for name, option in OPTIONS.items()},
    "max_new_tokens": _WHOLE,
    **dict.fromkeys(("share", "floor_share", "first_token_seconds"), _NUMBER),
    **dict.fromkeys(("tier", "floor_tier", "prefill_tier"), (_is_text, "the name of a tier")),
    "priority": (lambda value: _is_text(value) and value in PRIORITIES, " or ".join(PRIORITIES)),
    "cache_salt": (_is_text, "text"),
    "stop": (_are_strings, "a string or a list of strings"),
    "stop_token_ids": (_are_whole, "a list of whole numbers"),
    "logit_bias": (_are_numbers_by_id, "a mapping of token ids to numbers"),
    "allowed_token_ids": (_are_whole, "a list of whole numbers"),
    "banned_token_ids": (_are_whole, "a list of whole numbers"),
    "json_schema": (_is_schema, "a JSON schema, as text or as a mapping"),
    "regex": (_is_text, "text"),
    "grammar": (_is_text, "text"),
    "choices": (lambda value: not _is_text(value) and _are_strings(value), "a list of strings"),
    "ignore_eos": (lambda value: isinstance(value, bool), "True or False"),
}

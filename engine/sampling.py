"""Every sampling option that is one number, described once: its values, its default, its line in a command's help.

A new one is a field of `Sampling` with its description, the same name in `SamplingSettings` and in the two messages
called Sampling of proto/, and what it does in drawing.py or cut.py. Checks, model defaults, command lines and the ways
over the wire are made from these; a test holds all the names equal. Lists and maps are in token_rules.py. No torch.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, TypeVar

from ..models.errors import Violation

T = TypeVar("T")
_MOST_UINT32, _MOST_UINT64 = (1 << 32) - 1, (1 << 64) - 1  # of the fields that carry them
MOST_ALTERNATIVES = 20
MOST_ANSWERS = 128
MOST_BEAMS = 64
MOST_LENGTH_PENALTY = 10.0
SMALLEST_TEMPERATURE = 1e-30  # below it fp32 has no use for the number


@dataclass(frozen=True, slots=True)
class Option:
    """What there is to know of an option beside its name.

    kind: int or float. rule: in words, what `holds` asks of a value; no NaN may pass. help, metavar: of the command
    line. by_model: whether generation_config.json may set it where the caller leaves it open. of_greedy: whether it
    counts where nothing is drawn, too.
    """

    kind: type[int] | type[float]
    rule: str
    holds: Callable[[Any], bool]
    help: str
    metavar: str
    by_model: bool = True
    of_greedy: bool = False


def _option(default: T, option: Option) -> T:
    """A field with this default that carries its description."""
    described: T = field(default=default, metadata={"option": option})
    return described


def _penalty(name: str) -> Option:
    """OpenAI's two differ in what they are times."""
    return Option(float, "from -2 to 2", lambda value: -2 <= value <= 2, name, "X", of_greedy=True)


def _alternatives(help: str) -> Option:
    return Option(
        int, f"from 0 to {MOST_ALTERNATIVES}", lambda value: 0 <= value <= MOST_ALTERNATIVES, help, "N", by_model=False
    )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn from the logits, how often, and what is told of it.

    temperature 0 is greedy; top_k 0 is off. Penalties, then temperature, top_k, top_p, min_p, typical_p. A seed makes
    the draws of this request its own: they do not depend on what else is in the batch. repetition_penalty is of
    prompt and new tokens, the other two of new ones. logprobs and prompt_logprobs are of the model's own distribution,
    before all of this; None tells nothing. num_beams, length_penalty, early_stopping: of beam search, engine/beams.py,
    of which the n best answers are told.
    """

    temperature: float = _option(1.0, Option(
        float, "from 0 (greedy) to 2", lambda value: 0 <= value <= 2, "0 to 2; 0 is greedy", "T"
    ))  # fmt: skip
    top_k: int = _option(0, Option(
        int, f"from 0 (off) to {_MOST_UINT32}", lambda value: 0 <= value <= _MOST_UINT32,
        "only the N likeliest tokens; 0 is off", "N",
    ))  # fmt: skip
    top_p: float = _option(1.0, Option(
        float, "above 0 and at most 1", lambda value: 0 < value <= 1,
        "only the likeliest tokens that hold this probability together", "P",
    ))  # fmt: skip
    min_p: float = _option(0.0, Option(
        float, "from 0 (off) to 1", lambda value: 0 <= value <= 1,
        "only tokens at least this times as likely as the likeliest; 0 is off", "P",
    ))  # fmt: skip
    typical_p: float = _option(1.0, Option(
        float, "above 0 and at most 1", lambda value: 0 < value <= 1,
        "only the tokens nearest to the entropy that hold this probability together", "P",
    ))  # fmt: skip
    repetition_penalty: float = _option(1.0, Option(
        float, "above 0 and at most 10", lambda value: 0 < value <= 10,
        "divides what speaks for a token of prompt or answer; 1 is off", "X", of_greedy=True,
    ))  # fmt: skip
    presence_penalty: float = _option(0.0, _penalty("taken from the logit of a token of the answer; -2 to 2"))
    frequency_penalty: float = _option(0.0, _penalty("the same for each time that it was there; -2 to 2"))
    min_new_tokens: int = _option(0, Option(
        int, f"from 0 to {_MOST_UINT32}", lambda value: 0 <= value <= _MOST_UINT32,
        "no end and no stop token before so many", "N", by_model=False,
    ))  # fmt: skip
    seed: int | None = _option(None, Option(
        int, f"from 0 to {_MOST_UINT64}", lambda value: 0 <= value <= _MOST_UINT64,
        "the same seed gives the same tokens", "N", by_model=False,
    ))  # fmt: skip
    num_beams: int = _option(1, Option(
        int, f"from 1 (no search) to {MOST_BEAMS}", lambda value: 1 <= value <= MOST_BEAMS,
        "search for the likeliest answer with so many beams; needs temperature 0", "N", of_greedy=True,
    ))  # fmt: skip
    length_penalty: float = _option(1.0, Option(
        float, f"from -{MOST_LENGTH_PENALTY:g} to {MOST_LENGTH_PENALTY:g}",
        lambda value: abs(value) <= MOST_LENGTH_PENALTY,
        "of a search: above 0 speaks for long answers, below for short ones", "X", of_greedy=True,
    ))  # fmt: skip
    early_stopping: int = _option(0, Option(
        int, "0, 1 or 2", lambda value: value in (0, 1, 2),
        "of a search: it ends when no beam does better now (0), when there are as many answers as beams (1), or when "
        "none ever could (2)", "N", of_greedy=True,
    ))  # fmt: skip
    n: int = _option(1, Option(
        int, f"from 1 to {MOST_ANSWERS}", lambda value: 1 <= value <= MOST_ANSWERS,
        "so many answers to one prompt", "N", by_model=False,
    ))  # fmt: skip
    logprobs: int | None = _option(None, _alternatives("log probabilities of the tokens and of the N likeliest"))
    prompt_logprobs: int | None = _option(None, _alternatives("the same of the prompt"))


class SamplingSettings(TypedDict, total=False):
    """The same as it may be asked for. temperature: 0 is greedy. seed: makes the draws repeatable."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    min_new_tokens: int | None
    seed: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: int | None
    n: int | None
    logprobs: int | None
    prompt_logprobs: int | None


OPTIONS: Mapping[str, Option] = {each.name: each.metadata["option"] for each in fields(Sampling)}


def sampling_of(settings: Mapping[str, Any], defaults: Mapping[str, float | int]) -> Sampling:
    """What the caller left open, absent or None, is the model's default, else that of `Sampling`.

    Numbers are those that the wire carries, wherever they come from: the same settings give the same draws.
    """
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        value = settings.get(name)
        if value is None and option.by_model:
            value = defaults.get(name)
        if value is not None:
            values[name] = int(value) if option.kind is int else as_carried(value)
    if settings.get("num_beams") is None and not _may_search(values):
        values["num_beams"] = 1  # the model's default is for greedy answers
    return Sampling(**values)


def _may_search(values: Mapping[str, Any]) -> bool:
    beside = any(values.get(name) is not None for name in ("logprobs", "prompt_logprobs"))
    return values.get("temperature") == 0 and not beside and values.get("n", 1) <= values.get("num_beams", 1)


def as_carried(value: float) -> float:
    """A number as a float32 holds it, by the decimal that was typed: 0.7, and not 0.699999988."""
    return float(f"{ctypes.c_float(value).value:.7g}")


def sampling_violations(sampling: Sampling) -> list[Violation]:
    """Every option whose rule its value breaks."""
    found = option_violations({name: getattr(sampling, name) for name in OPTIONS})
    return found or list(_search_violations(sampling))


def _search_violations(sampling: Sampling) -> Iterator[Violation]:
    """What cannot be asked of beam search."""
    if sampling.num_beams == 1:
        return
    asked = f"is {sampling.num_beams}, and a search"
    if sampling.temperature:
        yield Violation("sampling.num_beams", f"{asked} draws nothing; give temperature 0, or 1 for no search")
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        yield Violation("sampling.num_beams", f"{asked} tells no log probabilities; leave them out, or give 1")
    if sampling.n > sampling.num_beams:
        message = f"is {sampling.n}, and a search with num_beams {sampling.num_beams} has no more answers than beams"
        yield Violation("sampling.n", message)


def option_violations(values: Mapping[str, Any]) -> list[Violation]:
    """The same of values by name; None is left open."""
    return [
        Violation(f"sampling.{name}", f"is {value}, it must be {OPTIONS[name].rule}")
        for name, value in values.items()
        if value is not None and not OPTIONS[name].holds(value)
    ]

"""What a level comes to: how long one waits, how much is delivered, how much of it in time, and what failed.

TTFT: from when a request was meant to leave to its first token. ITL: between two messages with tokens. TPOT: from the
first token to the last, by the token after the first. E2E: to the end of the answer. Goodput: answers a second that
kept every limit that was named. Requests that failed have no times; they count as not delivered.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...models.errors import SetupError
from ..figure import Figure, Pooled, rate
from .drive import Driven, Record

SHARES = (0.5, 0.9, 0.95, 0.99)
_CURVE = tuple(i / 50 for i in range(51))
_MOST_SLOTS = 120
_PAGES_SECONDS = 2.0  # that an answer about pages is good for


def first_token(record: Record) -> float:
    """TTFT in seconds."""
    return record.arrivals[0] - record.meant


def whole(record: Record) -> float:
    """E2E in seconds."""
    return record.ended - record.meant


def gaps(record: Record) -> list[float]:
    """ITL in seconds."""
    return [b - a for a, b in zip(record.arrivals, record.arrivals[1:], strict=False)]


def per_token(record: Record) -> float | None:
    """TPOT in seconds; None for one token."""
    return (record.arrivals[-1] - record.arrivals[0]) / (record.tokens - 1) if record.tokens > 1 else None


TIMES: Mapping[str, Callable[[Record], list[float]]] = {
    "ttft": lambda record: [first_token(record)],
    "itl": gaps,
    "tpot": lambda record: [] if (found := per_token(record)) is None else [found],
    "e2e": lambda record: [whole(record)],
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an answer must keep to count as goodput, in seconds; None is no limit. itl: of its longest gap."""

    ttft: float | None = None
    itl: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def read(cls, words: Sequence[str]) -> "Limits":
        """Of `ttft:200ms`, `tpot:0.05s`. Raises SetupError, which says what may be written."""
        return cls(**dict(_limit(word, [each.name for each in fields(cls)]) for word in words))

    def kept(self, record: Record) -> bool:
        """Whether an answer is of use to whoever named them."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return record.ok and all(
            most is None or max(TIMES[name](record), default=0.0) <= most for name, most in named.items()
        )


def _limit(word: str, names: Sequence[str]) -> tuple[str, float]:
    name, _, value = word.partition(":")
    number = value.removesuffix("ms") if value.endswith("ms") else value.removesuffix("s")
    try:
        seconds = float(number) / (1000 if value.endswith("ms") else 1)
    except ValueError:
        seconds = 0.0
    if name not in names or not 0 < seconds < float("inf") or not value.endswith("s"):
        raise SetupError(f"a limit is one of {', '.join(names)} and a time, as ttft:200ms or e2e:2s, not {word!r}")
    return name, seconds


def figures(driven: Driven, limits: Limits) -> dict[str, Any]:
    """All of a level, in plain values."""
    answered = [record for record in driven.records if record.ok]
    found: dict[str, Any] = {
        "complete": not driven.gone, "why": driven.gone, "clock_stepped_seconds": driven.stepped,
        "requests": len(driven.records), "answered": len(answered),
        "errors": dict(Counter(record.outcome for record in driven.records if not record.ok)),
        "tokens": sum(record.tokens for record in answered),
        "prompt_tokens": sum(record.prompt_tokens or 0 for record in answered),
        "seconds": round(driven.seconds, 3), "generator": driven.generator, "joules": driven.joules,
    }  # fmt: skip
    found |= {name: figure.as_json() for name, figure in _rates(driven, answered, limits)}
    pooled = {name: Pooled([times(record) for record in answered]) for name, times in TIMES.items()}
    filled = {name: values for name, values in pooled.items() if not values.empty}
    found["times"] = {name: _as_json(values.percentiles(SHARES)) for name, values in filled.items()}
    found["curves"] = {name: _rounded(1e3 * values.quantiles(_CURVE)) for name, values in filled.items()}
    found["timeline"] = timeline(driven)
    tiers = sorted({record.asked.tier for record in answered} - {""})
    found["tiers"] = {tier: _of_tier(answered, tier) for tier in tiers}
    return found


def _rates(driven: Driven, answered: Sequence[Record], limits: Limits) -> Iterator[tuple[str, Figure]]:
    records, seconds = driven.records, max(driven.seconds, 1e-9)
    ends, answers = ([each.ended / seconds for each in some] for some in (records, answered))
    yield "goodput", rate([limits.kept(record) for record in records], ends, seconds, "answers/s")
    yield "answers_per_second", rate([1.0] * len(answered), answers, seconds, "answers/s")
    yield "tokens_per_second", rate([record.tokens for record in answered], answers, seconds, "tokens/s")
    turns = [i / len(records) for i in range(len(records))]
    yield "failed_share", rate([not record.ok for record in records], turns, len(records) or 1, "", "less")


def _of_tier(answered: Sequence[Record], tier: str) -> dict[str, Any]:
    mine = [record for record in answered if record.asked.tier == tier]
    found: dict[str, Any] = {"answered": len(mine)}
    for name in ("ttft", "tpot"):
        values = Pooled([TIMES[name](record) for record in mine])
        if not values.empty:
            found[name] = _as_json(values.percentiles((0.5, 0.99)))
    return found


def timeline(driven: Driven) -> dict[str, Any]:
    """By the slot of time: requests that wait for their first token, that have tokens coming, and tokens a second; and
    the share of the server's pages that they hold, where it says so.
    """
    slots = max(1, min(_MOST_SLOTS, int(driven.seconds)))
    edges = np.linspace(0.0, driven.seconds, slots + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    begun = np.sort([record.arrivals[0] if record.arrivals else record.ended for record in driven.records])
    meant, ended = (np.sort([getattr(record, name) for record in driven.records]) for name in ("meant", "ended"))
    before = [np.searchsorted(times, middles, side="right") for times in (meant, begun, ended)]
    came = np.histogram([at for record in driven.records for at in record.arrivals], edges)[0]
    return {
        "seconds": _rounded(middles), "waiting": (before[0] - before[1]).tolist(),
        "running": (before[1] - before[2]).tolist(), "messages_per_second": _rounded(came / np.diff(edges)),
        "pages": _pages(middles, driven.held) if driven.held else [],
    }  # fmt: skip


def _pages(moments: Any, seen: Sequence[tuple[float, float]]) -> list[float | None]:
    """None where nobody told for a while."""
    at, shares = np.array(seen).T
    far = np.abs(moments[:, None] - at).min(1) > _PAGES_SECONDS
    between = _rounded(np.interp(moments, at, shares))
    return [None if gap else share for gap, share in zip(far, between, strict=True)]


def _as_json(named: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.as_json() for name, figure in named.items()}


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in values]

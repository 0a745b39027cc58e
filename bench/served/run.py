"""Retention as served: an original and what was made of it, each by its own server, at every tier, on the same text."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...evaluate.statistics import compare_means, compare_perplexities
from ...evaluate.texts import embedded_text, encode_documents, read_documents
from ...models.bounds import Bound
from ...models.errors import SetupError, TextError
from ...models.locate import locate
from ...models.progress import Progress
from ...models.tokenizer import Tokenizer
from ...server.client import Client
from ..figure import Figure, mean_of
from ..local_server import local_server
from ..resumed import begun, key_of, write_report
from .score import Kept, Window, score_tier, windows_of

KIND = "retention"
LENGTH, WINDOWS = Bound(2, 1 << 20, way_out="give tokens of a window"), Bound(1, way_out="give a number of windows")
Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """models: under their names, the original first. held: of a window, tokens of context."""

    models: Mapping[str, str]
    out: Path
    text: tuple[str, ...] = ()
    windows: int | None = None
    length: int = 256
    held: int = 64
    threads: int | None = None
    command: str = ""

    @property
    def key(self) -> str:
        """Of all that decides what is measured."""
        return key_of([*self.models.items()], self.text, self.windows, self.length, self.held)

    def check(self) -> None:
        """Raises SetupError for what makes no sense."""
        LENGTH.check("length", self.length)
        WINDOWS.check("windows", self.windows)
        Bound(1, self.length - 1, way_out="leave tokens to score").check("context", self.held)


def run_retention(plan: RetentionPlan, machine: Callable[[], dict[str, Any]], progress: Progress) -> Report:
    """Scores all and writes the report after each tier; goes on with one that was cut off.

    Raises SetupError where models read text as other tokens than the original.
    """
    plan.check()
    windows = _windows(plan)
    report = begun(plan.out, plan.key) or {
        "kind": KIND, "command": plan.command, "plan": plan.key, "complete": False, "machine": machine(),
        "windows": len(windows), "length": plan.length, "context": plan.held,
        "tokens": sum(window.num_scored for window in windows),
        "models": {name: {"path": path, "tiers": []} for name, path in plan.models.items()},
    }  # fmt: skip
    for name, path in plan.models.items():
        for kept in _kept(name, path, windows, plan, report["models"][name]["tiers"], progress):
            _note(report, name, kept, windows, plan.out)
    report["complete"] = True
    write_report(plan.out, report)
    return report


def _note(report: Report, name: str, kept: Kept, windows: Sequence[Window], out: Path) -> None:
    """Puts a tier into the report, beside the original's full one, which comes first."""
    first = next(iter(report["models"].values()))["tiers"]
    original = kept_of(first[0]) if first else kept
    report["models"][name]["tiers"].append(_beside(kept, original, windows))
    write_report(out, report)


def _windows(plan: RetentionPlan) -> list[Window]:
    documents = read_documents(plan.text or (embedded_text(),))
    (first, ids), *others = ((name, _ids(path, documents)) for name, path in plan.models.items())
    other = next((name for name, each in others if each != ids), None)
    if other is not None:
        raise SetupError(
            f"{other} reads text as other tokens than {first}; only models of one tokenizer can be compared"
        )
    found = windows_of(ids, plan.length, plan.held, plan.windows)
    if not found:
        raise TextError(f"no document has {plan.length} tokens; give longer text, or a smaller --length")
    return found


def _ids(path: str, documents: Sequence[str]) -> list[list[int]]:
    return encode_documents(documents, Tokenizer.open(locate(path)), None)


def _kept(
    name: str, path: str, windows: Sequence[Window], plan: RetentionPlan, done: Sequence[Any], progress: Progress
) -> Iterator[Kept]:
    """At each tier of a model that is not done, the full one first."""
    options = [] if plan.threads is None else ["--threads", str(plan.threads)]
    with local_server({"model": locate(path)}, *options) as address, Client(address) as client:
        for tier in (client.model("model").tiers or ("full",))[len(done) :]:
            yield score_tier(client, "model", tier, windows, partial(progress, f"{name}, {tier}"))


def kept_of(tier: Mapping[str, Any]) -> Kept:
    """A tier of a report, as it was scored."""
    nats, right = ([brought for brought, _ in tier[each]["items"]] for each in ("nats", "top1"))
    return Kept(tier["tier"], tuple(nats), tuple(int(each) for each in right), tier["token_bytes"])


def _beside(kept: Kept, original: Kept, windows: Sequence[Window]) -> dict[str, Any]:
    """A tier in plain values, and beside the original's full one, paired over the windows."""
    scored = [window.num_scored for window in windows]
    nats = mean_of(list(zip(kept.nats, scored, strict=True)), "nats/token", "less")
    right = mean_of(list(zip(kept.right, scored, strict=True)), "", "more")
    top1 = compare_means(kept.right, original.right, scored)
    perplexity = compare_perplexities(kept.nats, original.nats, scored)
    return {
        "tier": kept.tier, "token_bytes": kept.token_bytes, "nats": nats.as_json(), "top1": right.as_json(),
        "perplexity": math.exp(nats.value), "relative_top1": _ratio(top1, "more"),
        "relative_perplexity": _ratio(perplexity, "less"),
    }  # fmt: skip


def _ratio(comparison: Any, better: str) -> dict[str, Any]:
    interval = comparison.ratio_interval
    return Figure(comparison.ratio, interval.low, interval.high, "x", better).as_json()

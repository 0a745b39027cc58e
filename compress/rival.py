"""Whether stages that change what a model computes pay: the result beside its recipe without them, at equal bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..evaluate.compare import AHEAD, BEHIND, NO_DIFFERENCE, PERPLEXITY, compare_scores, verdict
from ..evaluate.statistics import Comparison
from ..models.checkpoint import Checkpoint
from ..models.errors import InvalidRequest, SetupError, Unsupported
from ..models.spec import FULL, TransformerSpec
from .recipe import Recipe, read_recipe, shipped_recipes
from .run import Made, Run

_NOT_REACHED = ""


@dataclass(frozen=True, slots=True)
class _Beside:
    """A tier of the result beside the rival at as many bytes; no comparison where the rival has no such point.

    share: of the FFN's bytes as they were before pruning.
    """

    tier: str
    share: float
    comparison: Comparison | None = None

    @property
    def verdict(self) -> str:
        return verdict(PERPLEXITY, self.comparison) if self.comparison else _NOT_REACHED

    def __str__(self) -> str:
        if self.comparison is None:
            return f"{self.tier} ({self.share:.3f} of the FFN's bytes)"
        times, interval = self.comparison.ratio, self.comparison.ratio_interval
        return (
            f"{self.tier} ({self.share:.3f} of the FFN's bytes) x{times:.4f}, {interval.low:.4f} to {interval.high:.4f}"
        )


def rival_notice(run: Run, made: Made) -> str:
    """At which tiers the recipe without its changing stages keeps more, measured on the same text; and its name.

    "" where those stages lost nothing beyond noise, where they pay at every tier that can be compared, and where
    nothing of equal bytes is left without them. Makes and scores the rival only after a loss was seen.
    """
    changing = [i for i, stage in enumerate(run.stages) if stage.changes_model]
    over, found = compare_scores(made.after[changing[-1]], made.original, run.recipe.seed) if changing else ("", {})
    lost = found.get(PERPLEXITY)
    rest = run.without_changes() if lost and verdict(PERPLEXITY, lost) == BEHIND else None
    if lost is None or rest is None or not _has_equal_bytes(made, rest):
        return ""
    cost = _cost(run, made, changing, lost)
    try:
        held = list(_beside(run, made, rest, rest.checkpoint()))
    except SetupError as error:
        return f"{cost} The recipe without {_names(run)} cannot be measured: {error}"
    if not any(each.verdict == BEHIND for each in held):
        return ""
    return f"{cost} {_told(held, run, rest.recipe)} Paired 95 % intervals over {over}."


def _has_equal_bytes(made: Made, rest: Run) -> bool:
    """Whether it can be set to what the result reads: by its tiers, or since nothing was pruned."""
    return bool(rest.recipe.tiers()) or _neurons(made.checkpoint.spec) == _neurons(rest.planned[-1])


def _cost(run: Run, made: Made, changing: list[int], lost: Comparison) -> str:
    before = [made.original, *made.after]
    each = [made.after[i].nats_per_token - before[i].nats_per_token for i in changing]
    parts = ", ".join(f"{run.stages[i].name} {nats:+.4f}" for i, nats in zip(changing, each, strict=True))
    low, high = lost.difference_interval.low, lost.difference_interval.high
    interval = f"{low:.4f} to {high:.4f}" + (f"; {parts}" if len(changing) > 1 else "")
    return f"On this model {_names(run)} cost {lost.difference:.4f} nats a token ({interval})."


def _told(held: list[_Beside], run: Run, rest: Recipe) -> str:
    name, way = _name_and_way(run, rest)
    groups = {
        f"At equal bytes {name} keeps more; this result's perplexity beside its:": BEHIND,
        "It keeps less:": AHEAD,
        "No difference is shown:": NO_DIFFERENCE,
        "It has no tier as low as": _NOT_REACHED,
    }
    found = {told: [str(each) for each in held if each.verdict == kind] for told, kind in groups.items()}
    return " ".join(f"{told} {'; '.join(each)}." for told, each in found.items() if each) + f" To have it: {way}."


def _name_and_way(run: Run, rest: Recipe) -> tuple[str, str]:
    """The shipped recipe that it is, or this one without its stages."""
    for name, file in shipped_recipes().items():
        shipped = read_recipe(file).model_copy(update={"evaluation": rest.evaluation})
        if shipped.sha256() == rest.sha256():
            return f"the recipe {name!r}", f"--recipe {name}"
    return f"this recipe without {_names(run)}", f"delete {_names(run)} from its stages"


def _names(run: Run) -> str:
    return " and ".join(run.changing)


def _beside(run: Run, made: Made, rest: Run, rival: Checkpoint) -> Iterator[_Beside]:
    kept = _neurons(made.checkpoint.spec) / _neurons(rival.spec)
    shares = {FULL: 1.0} | {tier.name: tier.bytes_share for tier in made.checkpoint.record.tiers}
    for tier, score in made.tiers.items():
        share = kept * shares[tier]
        try:
            point = rival.dial.operating_point(None, share)
        except (InvalidRequest, Unsupported):
            yield _Beside(tier, share)
            continue
        name = f"the recipe without {_names(run)}, {share:.3f} of the FFN's bytes"
        _, found = compare_scores(score, rest.judge.score_at(name, rival, point), run.recipe.seed)
        yield _Beside(tier, share, found.get(PERPLEXITY))


def _neurons(spec: TransformerSpec) -> int:
    return sum(layer.ffn.width for layer in spec.layers)

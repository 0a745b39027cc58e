"""Whether stages that change what a model computes pay: the result beside its recipe without them, at equal bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..evaluate.compare import AHEAD, BEHIND, NO_DIFFERENCE, PERPLEXITY, compare_scores, verdict
from ..evaluate.statistics import Comparison
from ..models.checkpoint import Checkpoint
from ..models.cost import governed_bytes
from ..models.errors import InvalidRequest, SetupError, Unsupported
from ..models.spec import FULL, TransformerSpec
from .recipe import Recipe, read_recipe, shipped_recipes
from .run import Made, Run

_NOT_REACHED = ""
_TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class _Beside:
    """A tier of the result beside the rival at as many bytes; no comparison where the rival has no such point.

    share: of the bytes that tiers govern, as they were before pruning.
    """

    tier: str
    share: float
    comparison: Comparison | None = None

    @property
    def verdict(self) -> str:
        return verdict(PERPLEXITY, self.comparison) if self.comparison else _NOT_REACHED

    def __str__(self) -> str:
        if self.comparison is None:
            return f"{self.tier} ({self.share:.3f} of the bytes)"
        times, interval = self.comparison.ratio, self.comparison.ratio_interval
        return f"{self.tier} ({self.share:.3f} of the bytes) x{times:.4f}, {interval.low:.4f} to {interval.high:.4f}"


def rival_notice(run: Run, made: Made) -> str:
    """At which tiers the recipe without its changing stages keeps more, measured on the same text; and its name.

    "" where none of those stages lost more than noise, where they pay at every tier that can be compared, and where
    nothing of equal bytes is left without them. Makes and scores the rival only after a loss was seen.
    """
    over, found = _compared(run, made)
    rest = run.without_changes() if any(verdict(PERPLEXITY, each) == BEHIND for each in found.values()) else None
    if rest is None or not _has_equal_bytes(made, rest):
        return ""
    cost = _cost(found)
    try:
        held = list(_beside(run, made, rest, rest.checkpoint()))
    except SetupError as error:
        return f"{cost} The recipe without {_names(run)}, which may keep more, cannot be measured: {error}"
    if not any(each.verdict == BEHIND for each in held):
        return ""
    return f"{_told(held, run, rest.recipe)} {cost} Paired 95 % intervals over {over}."


def _has_equal_bytes(made: Made, rest: Run) -> bool:
    """Whether it can be set to what the result reads: by its tiers, or since nothing was pruned."""
    return bool(rest.recipe.tiers()) or _neurons(made.checkpoint.spec) == _neurons(rest.planned[-1])


def _compared(run: Run, made: Made) -> tuple[str, dict[str, Comparison]]:
    """What the comparisons are over; each changing stage beside the model before it, and all beside the original."""
    changing = [i for i, stage in enumerate(run.stages) if stage.changes_model]
    before, unit = [made.original, *made.after], ""
    pairs = {run.stages[i].name: (made.after[i], before[i]) for i in changing}
    if len(changing) > 1:
        pairs[_TOGETHER] = (made.after[changing[-1]], made.original)
    found = dict[str, Comparison]()
    for name, pair in pairs.items():
        unit, comparisons = compare_scores(*pair, run.recipe.seed)
        found |= {name: comparisons[PERPLEXITY]} if comparisons else {}
    return unit, found


def _cost(found: Mapping[str, Comparison]) -> str:
    """In nats a token."""
    parts = [
        f"{name} {each.difference:+.4f} ({each.difference_interval.low:+.4f} to {each.difference_interval.high:+.4f})"
        for name, each in found.items()
    ]
    return f"Stages on this model, nats a token: {', '.join(parts)}."


def _told(held: list[_Beside], run: Run, rest: Recipe) -> str:
    name, way = _name_and_way(run, rest)
    groups = {
        f"At equal bytes {name} keeps more than this result, whose perplexity beside its is:": BEHIND,
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
    kept = _governed(made.checkpoint.spec) / _governed(rival.spec)
    shares = {FULL: 1.0} | {tier.name: tier.bytes_share for tier in made.checkpoint.record.tiers}
    for tier, score in made.tiers.items():
        share = kept * shares[tier]
        try:
            point = rival.dial.operating_point(None, share)
        except (InvalidRequest, Unsupported):
            yield _Beside(tier, share)
            continue
        name = f"the recipe without {_names(run)}, {share:.3f} of the bytes"
        _, found = compare_scores(score, rest.judge.score_at(name, rival, point), run.recipe.seed)
        yield _Beside(tier, share, found.get(PERPLEXITY))


def _governed(spec: TransformerSpec) -> int:
    """What shares are shares of: bytes of graded linears, or neurons."""
    return governed_bytes(spec, 2) if spec.is_graded else _neurons(spec)


def _neurons(spec: TransformerSpec) -> int:
    return sum(layer.ffn.width for layer in spec.layers)

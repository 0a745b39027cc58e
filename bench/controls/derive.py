"""Recipes made of a recipe: what its tiers must be held against to mean anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...compress.distill.stage import DistillStage
from ...compress.moefy.settings import MoefySettings
from ...compress.moefy.stage import MoefyStage
from ...compress.prune.stage import PruneSettings, PruneStage
from ...compress.quantize.stage import QuantizeStage
from ...compress.recipe import Recipe
from ...compress.stage import Stage
from ...models.errors import RecipeError
from ...models.suggestion import suggestion
from .random_experts import RandomExpertsStage

ALONE, STATIC, STATIC_DISTILLED, EXPERTS_OF_64, RANDOM_EXPERTS, ROUTERS = GROUPS = (
    "alone", "static", "static-distilled", "experts-of-64", "random-experts", "routers",
)  # fmt: skip
_OF_TIERS = (EXPERTS_OF_64, RANDOM_EXPERTS, ROUTERS)
FLAP, MAGNITUDE, RANDOM = METHODS = ("flap", "magnitude", "random")
_STATIC_NAMES = {
    FLAP: "static pruning", MAGNITUDE: "static pruning by magnitude", RANDOM: "static pruning by chance",
}  # fmt: skip
_PUBLISHED_SIZE = 64  # neurons of an expert: what tensor cores want, and about what the literature compares


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe to run for comparison. tiers: those of it that are scored; none is the model as a whole."""

    group: str
    name: str
    recipe: Recipe
    tiers: tuple[str, ...] = ()


def moefy_settings(recipe: Recipe) -> MoefySettings | None:
    """The settings of the recipe's experts, where it makes any."""
    return next((stage.settings for stage in recipe.stages if isinstance(stage, MoefyStage)), None)


def groups_for(recipe: Recipe, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The wanted groups (None: all) that say something of this recipe, in the order of GROUPS.

    Raises RecipeError for a name that is not among GROUPS, and for a wanted group that needs what the recipe lacks.
    """
    for name in wanted or ():
        if name not in GROUPS:
            raise RecipeError(f"there are no controls {name!r}; {suggestion(name, list(GROUPS))}")
    lacking: dict[str, str] = {}
    if moefy_settings(recipe) is None:
        lacking |= dict.fromkeys(_OF_TIERS, "tiers; a stage moefy makes them")
        if PruneStage.name not in _names(recipe):
            lacking |= dict.fromkeys((STATIC, STATIC_DISTILLED), "tiers and no pruning; a stage moefy or prune does it")
    settings = moefy_settings(recipe)
    if settings is not None and settings.grain == "inputs":
        of_neurons = [name for name in GROUPS if name != ALONE]
        lacking |= dict.fromkeys(of_neurons, "tiers of neurons; a stage moefy with grain: neurons makes them")
    if DistillStage.name not in _names(recipe):
        lacking[STATIC_DISTILLED] = "distillation; a stage distill does it"
    for name in wanted or ():
        if name in lacking:
            possible = ", ".join(each for each in GROUPS if each not in lacking)
            raise RecipeError(f"controls {name!r}: this recipe has no {lacking[name]}; choose among {possible}")
    return tuple(name for name in GROUPS if name not in lacking and (wanted is None or name in wanted))


def each_alone(recipe: Recipe) -> list[Variant]:
    """Every method of the recipe by itself; with experts that int8 weights route to, int8 as well."""
    settings = moefy_settings(recipe)
    variants = []
    for name in dict.fromkeys(_names(recipe)):
        needed = {name}
        if name == MoefyStage.name and settings and settings.by_planes:
            needed |= {QuantizeStage.name} & set(_names(recipe))
        tiers = tuple(settings.tiers) if name == MoefyStage.name and settings else ()
        shown = " with ".join(sorted(needed, key=lambda each: each != name))
        variants.append(Variant(ALONE, f"only {shown}", _with_stages(recipe, _stages(recipe, *needed)), tiers))
    return variants


def static_pruning(recipe: Recipe, remove: float, method: str = FLAP, distilled: bool = False) -> Variant:
    """Prunes by one of METHODS, with a bias for what went, and distils and makes int8 where the recipe does.

    flap: An et al. 2024.
    """
    settings = PruneSettings.model_validate({"method": method, "remove": remove, "compensate": True})
    rest = (DistillStage.name, QuantizeStage.name) if distilled else (QuantizeStage.name,)
    name = f"{_STATIC_NAMES[method]}, distilled" if distilled else _STATIC_NAMES[method]
    group = STATIC_DISTILLED if distilled else STATIC
    return Variant(group, name, _with_stages(recipe, [PruneStage(settings), *_without_tier(_stages(recipe, *rest))]))


def experts_of_64(recipe: Recipe, tiers: Sequence[str], group: str = EXPERTS_OF_64) -> Variant:
    """The recipe with experts of 64 neurons that fire together, or random ones, and a norm-regression router."""
    settings = moefy_settings(recipe)
    if settings is None:
        raise ValueError("this recipe makes no experts")
    changed = {
        "split": None if group == RANDOM_EXPERTS else "coactivation",
        "expert_size": _PUBLISHED_SIZE,
        "router": "norm_regression",
        "router_width": settings.router_width,
        "tiers": {name: settings.tiers[name] for name in tiers},
        "allocation": None if settings.allocation == "global" else settings.allocation,
        "compensate": settings.compensate,
    }
    kind = RandomExpertsStage if group == RANDOM_EXPERTS else MoefyStage
    experts = kind(MoefySettings.model_validate(changed))
    stages = [experts if isinstance(each, MoefyStage) else each for each in _without_tier(recipe.stages)]
    name = "random experts of 64" if group == RANDOM_EXPERTS else "experts of 64"
    return Variant(group, name, _with_stages(recipe, stages), tuple(tiers))


def _without_tier(stages: Sequence[Stage]) -> list[Stage]:
    """Drops the tier that a stage distils at: what has no bit planes has nothing to learn there."""
    return [
        DistillStage(each.settings.model_copy(update={"at": None})) if isinstance(each, DistillStage) else each
        for each in stages
    ]


def _names(recipe: Recipe) -> list[str]:
    return [stage.name for stage in recipe.stages]


def _stages(recipe: Recipe, *names: str) -> list[Stage]:
    return [stage for stage in recipe.stages if stage.name in names]


def _with_stages(recipe: Recipe, stages: Sequence[Stage]) -> Recipe:
    return recipe.model_copy(update={"stages": list(stages)})

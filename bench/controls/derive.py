"""Recipes made of a recipe: what its tiers must be held against to mean anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...compress.moefy.settings import MoefySettings
from ...compress.recipe import Recipe
from ...models.errors import RecipeError
from ...models.suggestion import suggestion

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
    """Of the recipe's experts, where it makes any."""
    found = [MoefySettings.model_validate(entry["moefy"]) for entry in recipe.stages if "moefy" in entry]
    return found[0] if found else None


def groups_for(recipe: Recipe, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Those of GROUPS that say something of this recipe, of the wanted ones (None: of all), in the order of GROUPS.

    Raises RecipeError for a name that is not among GROUPS, and for a wanted group that needs what the recipe lacks.
    """
    for name in wanted or ():
        if name not in GROUPS:
            raise RecipeError(f"there are no controls {name!r}; {suggestion(name, list(GROUPS))}")
    lacking: dict[str, str] = {}
    if moefy_settings(recipe) is None:
        lacking |= dict.fromkeys(_OF_TIERS, "tiers; a stage moefy makes them")
        if not any("prune" in entry for entry in recipe.stages):
            lacking |= dict.fromkeys((STATIC, STATIC_DISTILLED), "tiers and no pruning; a stage moefy or prune does it")
    if not any("distill" in entry for entry in recipe.stages):
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
    for name in dict.fromkeys(key for entry in recipe.stages for key in entry):
        needed = {name}
        if name == "moefy" and settings and settings.by_planes:
            needed |= {"quantize"} & {key for entry in recipe.stages for key in entry}
        tiers = tuple(settings.tiers) if name == "moefy" and settings else ()
        shown = " with ".join(sorted(needed, key=lambda each: each != name))
        variants.append(Variant(ALONE, f"only {shown}", _with_stages(recipe, _stages(recipe, *needed)), tiers))
    return variants


def static_pruning(recipe: Recipe, remove: float, method: str = FLAP, distilled: bool = False) -> Variant:
    """One of METHODS with a bias for what went, then int8 where the recipe has it; distilled in between as there.

    flap: An et al. 2024.
    """
    prune = {"prune": {"method": method, "remove": remove, "compensate": True}}
    rest = ("distill", "quantize") if distilled else ("quantize",)
    name = f"{_STATIC_NAMES[method]}, distilled" if distilled else _STATIC_NAMES[method]
    group = STATIC_DISTILLED if distilled else STATIC
    return Variant(group, name, _with_stages(recipe, [prune, *_without_tier(_stages(recipe, *rest))]))


def experts_of_64(recipe: Recipe, tiers: Sequence[str], group: str = EXPERTS_OF_64) -> Variant:
    """The recipe with experts of 64 neurons that fire together, or random ones, and a norm-regression router."""
    settings = moefy_settings(recipe)
    if settings is None:
        raise ValueError("this recipe makes no experts")
    changed = {
        "split": "random" if group == RANDOM_EXPERTS else "coactivation",
        "expert_size": _PUBLISHED_SIZE,
        "router": "norm_regression",
        "router_width": settings.router_width,
        "tiers": {name: settings.tiers[name] for name in tiers},
        "allocation": None if settings.allocation == "global" else settings.allocation,
        "compensate": settings.compensate,
    }
    stages = [{"moefy": changed} if "moefy" in entry else entry for entry in _without_tier(recipe.stages)]
    name = "random experts of 64" if group == RANDOM_EXPERTS else "experts of 64"
    return Variant(group, name, _with_stages(recipe, stages), tuple(tiers))


def _without_tier(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Distilled in full alone: what has no bit planes has nothing to learn at a tier of theirs."""
    found = []
    for entry in stages:
        settings = entry.get("distill")
        found.append({"distill": {**settings, "at": None}} if settings and settings.get("at") else dict(entry))
    return found


def _stages(recipe: Recipe, *names: str) -> list[dict[str, Any]]:
    return [entry for entry in recipe.stages if entry.keys() <= set(names)]


def _with_stages(recipe: Recipe, stages: Sequence[Mapping[str, Any]]) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), "stages": list(stages)})

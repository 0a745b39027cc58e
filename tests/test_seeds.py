"""Two seeds that are accepted never draw the same, and a recipe that was copied is checked like a new one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moesaic.bench.retention.run import CurvePlan, draw_curves
from moesaic.compress.moefy.stage import MoefyStage
from moesaic.compress.pipeline import compress
from moesaic.compress.prune.scores import random_scores
from moesaic.compress.recipe import Recipe, read_recipe
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.models.errors import RecipeError, SetupError
from moesaic.models.seeds import SEED_LIMIT, folded

FAR = [1, 1 << 29, 1 << 32, (1 << 61) - 1, 1 << 62, 1 << 63]


def test_torch_draws_alike_from_the_limit_on() -> None:
    """Else the limit could go."""
    first, same = (torch.Generator().manual_seed(seed) for seed in (1, 1 + SEED_LIMIT))
    assert torch.equal(torch.randperm(99, generator=first), torch.randperm(99, generator=same))


@pytest.mark.parametrize("far", FAR)
def test_seeds_far_apart_are_folded_apart(far: int) -> None:
    assert folded(3, 5) == folded(3, 5) != folded(3 + far, 5) != folded(3, 5 + far)
    assert folded(3, 5) % SEED_LIMIT != folded(3 + far, 5) % SEED_LIMIT and folded(3, 5) < 1 << 63
    assert not torch.equal(random_scores(64, folded(3, 0)), random_scores(64, folded(3 + far, 0)))


@pytest.mark.parametrize("far", FAR)
def test_requests_and_engines_of_seeds_far_apart_draw_apart(far: int) -> None:
    def drawn(engine: int, request: int | None) -> tuple[int, ...]:
        llm = LLM("stories260k", EngineOptions(seed=engine, num_slots=1))
        return tuple(llm.generate(["Once"], max_new_tokens=16, temperature=1.5, seed=request)[0].token_ids)

    assert drawn(3, None) == drawn(3, None) != drawn(3 + far, None)
    assert drawn(0, 3) != drawn(0, 3 + far)


@pytest.mark.parametrize("far", FAR[2:])
@pytest.mark.parametrize("place", ["recipe", "calibration", "curves"])
def test_a_seed_that_would_draw_as_another_is_refused(tmp_path: Path, far: int, place: str) -> None:
    recipe: dict[str, Any] = {"stages": [{"quantize": {"linears": "int8"}}], "seed": 3 + far}
    if place == "calibration":
        recipe = {"stages": recipe["stages"], "calibration": {"seed": 3 + far}}
    with pytest.raises(SetupError, match="seed.*(less than 4294967296|at most 4,294,967,295)"):
        if place == "curves":
            draw_curves(CurvePlan("stories260k", tmp_path, ("black_beauty",), seed=3 + far), lambda *_: None)
        read_recipe(recipe)


@pytest.mark.parametrize("most", [1, 2**31, (1 << 64) - 1, 10**18])
def test_a_limit_is_shown_to_the_last_digit(most: int) -> None:
    from moesaic.models.bounds import Bound

    assert f"at most {most:,}" in Bound(0, most).rule


# --- copies of recipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": []},
        {"stages": None},
        {"stages": ["quantize"]},
        {"stages": [{"quantize": {"linears": "int4"}}]},
        {"seed": -1},
        {"seed": "x"},
        {"calibration": {"sequences": 0}},
        {"evaluation": None},
        {"nonsense": 1},
    ],
)
def test_a_copy_with_other_values_is_checked_as_a_new_recipe_is(tmp_path: Path, changes: dict[str, Any]) -> None:
    copied = read_recipe("int8").model_copy(update=changes)
    with pytest.raises(RecipeError, match="^recipe: "):
        compress("stories260k", tmp_path / "out", copied)
    assert not list(tmp_path.iterdir())


def test_settings_that_were_copied_are_checked_too(tmp_path: Path) -> None:
    recipe = read_recipe("moe")
    [stage] = [each for each in recipe.stages if isinstance(each, MoefyStage)]
    wrong = MoefyStage(stage.settings.model_copy(update={"tiers": {"low": 2.0}}))
    with pytest.raises(RecipeError, match="stage 1, moefy.*tier 'low' is 2.0"):
        read_recipe(recipe.model_copy(update={"stages": [wrong, *recipe.stages[1:]]}))


def test_a_good_copy_means_what_it_says() -> None:
    recipe = read_recipe("all-four")
    assert read_recipe(recipe) == recipe and read_recipe(recipe).sha256() == recipe.sha256()
    one = recipe.model_copy(update={"stages": [{"quantize": {"linears": "int8"}}]})
    assert isinstance(read_recipe(one), Recipe) and [each.name for each in read_recipe(one).stages] == ["quantize"]

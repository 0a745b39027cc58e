"""A recipe: which stages, in which order, on which text they are judged. YAML outside, checked settings inside."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from ..models.errors import RecipeError
from ..models.suggestion import suggestion
from .calibration import CalibrationSettings
from .distill.relufy import RelufySettings, RelufyStage
from .distill.stage import DistillSettings, DistillStage
from .material import Stage
from .moefy.calibrate import CalibrateStage
from .moefy.settings import MoefySettings
from .moefy.stage import MoefyStage
from .prune.stage import PruneSettings, PruneStage
from .quantize.stage import QuantizeSettings, QuantizeStage
from .strict import Strict, as_recipe_error

STAGES: Mapping[str, tuple[type[Strict], type[Any]]] = {
    "prune": (PruneSettings, PruneStage),
    "relufy": (RelufySettings, RelufyStage),
    "distill": (DistillSettings, DistillStage),
    "moefy": (MoefySettings, MoefyStage),
    "quantize": (QuantizeSettings, QuantizeStage),
}


@dataclass(frozen=True, slots=True)
class NamedStage:
    """A stage of a recipe: its name, all its settings with defaults, and what does the work."""

    name: str
    settings: Mapping[str, Any]
    work: Stage


class EvaluationSettings(Strict):
    """What the result is scored on: files, or the text that ships when none is named; of each the first documents."""

    text: list[str] = []
    documents: int = Field(default=16, ge=1)
    truncate: int = Field(default=512, ge=2)


class Recipe(Strict):
    """stages: a list of {name: settings}, run in this order."""

    calibration: CalibrationSettings = CalibrationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    stages: list[dict[str, Any]] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=1 << 63)

    @field_validator("stages", mode="after")
    @classmethod
    def _known_stages(cls, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for i, stage in enumerate(stages):
            if len(stage) != 1:
                raise ValueError(f"stage {i + 1} names {len(stage)} methods, it must name one: {{name: settings}}")
            (name, settings) = next(iter(stage.items()))
            if name not in STAGES:
                raise ValueError(f"stage {i + 1} is {name!r}; {suggestion(str(name), list(STAGES))}")
            try:
                STAGES[name][0].model_validate(settings)
            except ValidationError as error:
                raise ValueError(str(as_recipe_error(error, f"stage {i + 1}, {name}"))) from None
        return stages

    def built_stages(self) -> list[NamedStage]:
        """The stages in order; experts are calibrated last, on the weights as they will be served."""
        built = []
        for entry in self.stages:
            name, values = next(iter(entry.items()))
            settings = STAGES[name][0].model_validate(values)
            built.append(NamedStage(name, settings.model_dump(), STAGES[name][1](settings)))
        last = [MoefySettings.model_validate(stage.settings) for stage in built if stage.name == "moefy"]
        return [*built, *(NamedStage("calibrate", each.model_dump(), CalibrateStage(each)) for each in last)]

    def tiers(self) -> dict[str, float]:
        """The tiers that the result will have beside the full one, with their shares of the FFN's bytes."""
        settings = [stage.settings for stage in self.built_stages() if stage.name == "calibrate"]
        return dict(settings[0]["tiers"]) if settings else {}

    def sha256(self) -> str:
        """Equal for recipes that mean the same."""
        stages = [(stage.name, stage.settings) for stage in self.built_stages()]
        values = {**self.model_dump(), "stages": stages}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files(__package__) / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def read_recipe(recipe: str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe from a shipped name, a YAML file or a mapping. Raises RecipeError with every mistake and its place."""
    where, values = ("recipe", recipe) if isinstance(recipe, Mapping) else _read_yaml(recipe)
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise as_recipe_error(error, where) from None


def _read_yaml(recipe: str | Path) -> tuple[str, Mapping[str, Any]]:
    shipped = shipped_recipes()
    file = shipped.get(str(recipe), Path(recipe))
    if not file.is_file():
        raise RecipeError(f"there is no recipe {str(recipe)!r}; {suggestion(str(recipe), list(shipped))}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{file} must hold a mapping with the key 'stages'")
    return str(file), values

"""A recipe: which stages, in which order, on which text they are judged. YAML outside, checked settings inside."""

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator

from ..models.errors import RecipeError
from ..models.seeds import SEED_LIMIT
from ..models.suggestion import suggestion
from ..models.yaml_file import read_mapping
from .calibration import CalibrationSettings
from .distill.relufy import RelufyStage
from .distill.stage import DistillStage
from .moefy.stage import MoefyStage
from .prune.stage import PruneStage
from .quantize.stage import QuantizeStage
from .stage import Stage
from .strict import Strict, as_recipe_error

DEVICE_WAY_OUT = "give --device cpu, or lower calibration.sequences or evaluation.truncate"
STAGES: Mapping[str, type[Stage]] = {
    stage.name: stage for stage in (PruneStage, RelufyStage, DistillStage, MoefyStage, QuantizeStage)
}


class EvaluationSettings(Strict):
    """What the result is scored on: files, or the text that ships when none is named; of each the first documents.

    tasks: at the end the original and each tier answer the first `limit` items of each, a path or a name in tasks_dir.
    """

    text: list[str] = []
    documents: int = Field(default=16, ge=1)
    truncate: int = Field(default=512, ge=2)
    tasks: list[str] = []
    tasks_dir: str | None = None
    limit: int = Field(default=200, ge=1)


class Recipe(Strict):
    """stages: a list of {name: settings}, run in this order; here each is a Stage already, its settings checked.

    device: where all of it is computed, such as cuda; by default a GPU where there is one. It decides no result.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    calibration: CalibrationSettings = CalibrationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    stages: list[Stage] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=SEED_LIMIT)
    device: str | None = None

    @field_validator("stages", mode="before")
    @classmethod
    def _parsed(cls, stages: Any) -> Any:
        if not isinstance(stages, list):
            return stages
        return [_stage(f"stage {i}", each) for i, each in enumerate(stages, 1)]

    @field_serializer("stages")
    def _as_given(self, stages: list[Stage]) -> list[dict[str, Any]]:
        return [{stage.name: stage.settings.model_dump(exclude_unset=True)} for stage in stages]

    @property
    def all_stages(self) -> list[Stage]:
        """The stages in order, and after them what they ask for: tiers are calibrated on the weights as served."""
        asked = [stage.follow_up() for stage in self.stages]
        return [*(stage.beside(self.stages) for stage in self.stages), *(stage for stage in asked if stage is not None)]

    def tiers(self) -> dict[str, float]:
        """The tiers that the result will have beside the full one, with their shares of the bytes that they govern."""
        found = [stage.settings.tiers for stage in self.stages if isinstance(stage, MoefyStage)]
        return dict(found[0]) if found else {}

    def sha256(self) -> str:
        """Equal for recipes that mean the same."""
        stages = [(stage.name, stage.values) for stage in self.all_stages]
        values = {**self.model_dump(exclude={"device"}), "stages": stages}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files(__package__) / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def read_recipe(recipe: "str | Path | Mapping[str, Any] | Recipe") -> Recipe:
    """A recipe from a shipped name, a YAML file or a mapping. Raises RecipeError with every mistake and its place."""
    if isinstance(recipe, Recipe):
        where, values = "recipe", _as_values(recipe)
    else:
        where, values = ("recipe", recipe) if isinstance(recipe, Mapping) else _read_yaml(recipe)
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise as_recipe_error(error, where) from None


def _as_values(recipe: Recipe) -> Mapping[str, Any]:
    """For a second check: a copy with other values (`model_copy`) was never checked."""
    return {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value for name, value in recipe
    }


def _stage(where: str, entry: Any) -> Stage:
    """The stage of {name: settings}. Raises ValueError with what is wrong, and where."""
    if isinstance(entry, Stage):
        return _with_settings(where, type(entry), entry.settings.model_dump(exclude_unset=True))
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r}, it must be {{name: settings}}")
    if len(entry) != 1:
        raise ValueError(f"{where} names {len(entry)} methods, it must name one: {{name: settings}}")
    name, settings = next(iter(entry.items()))
    if name not in STAGES:
        raise ValueError(f"{where} is {name!r}; {suggestion(str(name), list(STAGES))}")
    return _with_settings(where, STAGES[name], settings)


def _with_settings(where: str, stage: type[Stage], settings: Any) -> Stage:
    try:
        return stage(stage.settings_type.model_validate(settings))
    except ValidationError as error:
        raise ValueError(str(as_recipe_error(error, f"{where}, {stage.name}"))) from None


def _read_yaml(recipe: str | Path) -> tuple[str, Mapping[str, Any]]:
    shipped = shipped_recipes()
    file = shipped.get(str(recipe), Path(recipe))
    if not file.is_file():
        raise RecipeError(f"there is no recipe {str(recipe)!r}; {suggestion(str(recipe), list(shipped))}")
    try:
        return str(file), read_mapping(file, "with the key 'stages'")
    except ValueError as error:
        raise RecipeError(str(error)) from None

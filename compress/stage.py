"""One step of a recipe: a checkpoint in, a checkpoint out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..models.checkpoint import Checkpoint
from ..models.spec import TransformerSpec
from .calibration import Calibration
from .material import Material, Workshop
from .strict import Strict


class FewTokensWarning(UserWarning):
    """A statistic is fitted on fewer tokens than are enough for it."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a stage learns from the calibration text, how many tokens are enough, and what is known then."""

    what: str
    tokens: int
    reason: str

    def __str__(self) -> str:
        return f"{self.what} ({self.tokens:,} are enough: {self.reason})"


@dataclass(frozen=True, slots=True)
class Stage(ABC):
    """A method with its settings in it. It joins recipes by its place in STAGES (recipe.py).

    name: what recipes call it; settings_type: what its settings are checked by; rounds_weights: whether weights that
    it leaves are less exact than those that it was given; changes_model: whether it makes another model, where others
    only round or arrange what is there; takes_mixtures: whether FFNs may be mixtures of experts; sources:
    what decides its bytes beside stage_cache.DECIDING.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Strict]]
    rounds_weights: ClassVar[bool] = False
    changes_model: ClassVar[bool] = False
    takes_mixtures: ClassVar[bool] = False
    sources: ClassVar[tuple[str, ...]] = ()

    settings: Strict

    @property
    def values(self) -> dict[str, Any]:
        """All its settings, defaults too, as plain values."""
        return self.settings.model_dump()

    @abstractmethod
    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """Foretells what the model will be after it. Raises RecipeError where it makes no sense on such a model."""

    def check_end(self, own: TransformerSpec, end: TransformerSpec) -> None:  # noqa: B027 (few stages care)
        """Raises RecipeError where it makes no sense in a recipe that ends in such a model. own: its own plan."""

    @abstractmethod
    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        """About how many tokens go through the model, for an estimate of the time; a backward pass counts twice."""

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        """What it learns from the calibration text of such a model, the planned one; by default nothing."""
        return ()

    @abstractmethod
    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        """The model after this stage."""

    def memory(self, original: int, planned: int, spec: TransformerSpec, calibration: Calibration) -> int:
        """Bytes that it takes beside Python and torch, for weights of so many bytes before the recipe and after it; 0
        where it does not say. spec: the planned one. calibration: who needs none of it must not look, it may be long.
        """
        return 0

    def beside(self, stages: "Sequence[Stage]") -> "Stage":
        """Itself among the stages of a recipe: what it leaves open may follow from them."""
        return self

    def follow_up(self) -> "Stage | None":
        """What has to run after all stages of the recipe, since it reads the weights as they will be served."""
        return None

"""What a stage takes and gives: a spec and the tensors that go with it, read when they are asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..models.checkpoint import Checkpoint
from ..models.spec import TransformerSpec


@dataclass(frozen=True, slots=True)
class Material:
    """A model between stages. `tensors` starts a fresh pass over (our name, tensor), one at a time."""

    source: Checkpoint
    spec: TransformerSpec
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]


class Stage(Protocol):
    """One step of a recipe, with its settings in it."""

    def check(self, material: Material) -> None:
        """Raises RecipeError, before any work, where this stage makes no sense on this model."""
        ...

    def run(self, material: Material) -> Material:
        """The model after this stage."""
        ...

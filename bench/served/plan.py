"""What is asked of a measurement of retention as served: models, text, tasks, and who is asked in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...models.bounds import Bound
from ...models.errors import SetupError
from ..resumed import key_of

FLOOR = "original in bf16"
LENGTH, WINDOWS = Bound(2, 1 << 20, way_out="give tokens of a window"), Bound(2, way_out="an interval needs two")
_LIMIT, _KL = Bound(2, way_out="an interval needs two questions"), Bound(0, 4096, way_out="0 compares none")


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """models: under their names, the original first; of several directories each is a seed of the same. held: of a
    window, tokens of context. places: of each window, where whole distributions are compared. tasks: the first `limit`
    questions of each. floor: the original served in bf16 as well: what lies below it means nothing.
    """

    models: Mapping[str, Sequence[str]]
    out: Path
    text: tuple[str, ...] = ()
    windows: int | None = None
    length: int = 256
    held: int = 64
    threads: int | None = None
    command: str = ""
    places: int = 16
    tasks: tuple[str, ...] = ()
    tasks_dir: str | None = None
    limit: int | None = None
    floor: bool = False

    @property
    def key(self) -> str:
        """Of all that decides what is measured."""
        models = [[name, *paths] for name, paths in self.models.items()]
        asked = (self.text, self.windows, self.length, self.held, self.places, self.tasks, self.tasks_dir, self.limit)
        return key_of(models, *asked, self.floor)

    @property
    def original(self) -> str:
        return next(iter(self.models))

    def check(self) -> None:
        """Raises SetupError for what makes no sense."""
        LENGTH.check("length", self.length)
        WINDOWS.check("windows", self.windows)
        _LIMIT.check("limit", self.limit)
        _KL.check("kl", self.places)
        Bound(1, self.length - 1, way_out="leave tokens to score").check("context", self.held)
        if len(self.models[self.original]) > 1:
            raise SetupError(f"{self.original} has several directories, and an original is one; name it alone, first")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server to ask. of: the name that seeds of the same share; options: of its server."""

    name: str
    of: str
    path: str
    options: tuple[str, ...] = ()


def contestants(plan: RetentionPlan) -> list[Contestant]:
    """The original first, then its cast, then each seed of each model."""
    found = [
        Contestant(name if len(paths) == 1 else f"{name}, seed {seed}", name, path)
        for name, paths in plan.models.items() for seed, path in enumerate(paths)
    ]  # fmt: skip
    cast = Contestant(FLOOR, FLOOR, found[0].path, ("--dtype", "bfloat16"))
    return [found[0], *([cast] if plan.floor else []), *found[1:]]

"""Numbers that whoever runs a program gives, and what each may be. Imports no torch."""

import math
import os
from dataclasses import dataclass
from typing import Any

from .errors import SetupError

PROCESSORS = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Bound:
    """What a number may be: from `least` (or `above` it) to `most`, whole or finite; None is left open.

    way_out: what to do about one that is not, as the end of a sentence.
    """

    least: float
    most: float | None = None
    whole: bool = True
    above: bool = False
    way_out: str = "give one, or leave it out"

    def check(self, name: str, value: Any) -> None:
        """Raises SetupError, with name, value, limit and way out, for what no number of this kind may be."""
        if value is not None and not self.holds(value):
            raise SetupError(f"{name} is {value}, it must be {self.rule}; {self.way_out}")

    @property
    def rule(self) -> str:
        """The rule in words."""
        kind = "" if self.whole else "a finite number, "
        least = f"above {_shown(self.least)}" if self.above else f"at least {_shown(self.least)}"
        return f"{kind}{least}" + ("" if self.most is None else f" and at most {_shown(self.most)}")

    def holds(self, value: Any) -> bool:
        """Whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        enough = value > self.least if self.above else value >= self.least
        return enough and (value < math.inf if self.most is None else value <= self.most)  # no NaN is enough


def _shown(limit: float) -> str:
    return f"{int(limit):,}" if limit == int(limit) else f"{limit:g}"


_CHOOSE = f"there are {PROCESSORS} processors: leave it out to have it chosen"
THREADS = Bound(1, max(16, 4 * PROCESSORS), way_out=_CHOOSE)
SECONDS_TO_WAIT = Bound(0, 1e9, whole=False, way_out="leave it out to wait as long as it takes")

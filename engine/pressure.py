"""How far requests that allow it are lowered on the dial while others wait. No torch."""

_STEP = 0.5  # of an operating point
_RAISE_STEPS, _LOWER_STEPS = 4, 32  # that somebody, or nobody, waited: slower back, so that it does not swing


class Pressure:
    """A number that rises while requests wait and falls, more slowly, when none do."""

    def __init__(self) -> None:
        self.level = 0.0
        self._waited = self._calm = 0

    def note(self, waiting: int, highest: float) -> None:
        """Takes in, before each step, how many wait and the level that lowers everybody to the floor."""
        if waiting:
            self._waited, self._calm = self._waited + 1, 0
        else:
            self._waited, self._calm = 0, self._calm + 1
        if self._waited >= _RAISE_STEPS:
            self.level, self._waited = min(self.level + _STEP, highest), 0
        if self._calm >= _LOWER_STEPS:
            self.level, self._calm = max(self.level - _STEP, 0.0), 0

    def lowered(self, asked: float, floor: float | None) -> float:
        """The operating point of a request that asks for one and allows another, never beyond that."""
        return asked if floor is None else max(asked, min(asked + self.level, floor))

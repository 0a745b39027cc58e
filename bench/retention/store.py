"""Points kept as they are measured, so that a run that ends goes on."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ...models.files import append_line


class Keyed(Protocol):
    """A method at a share."""

    @property
    def method(self) -> str: ...

    @property
    def share(self) -> float: ...

    def to_json(self) -> dict[str, object]: ...


P = TypeVar("P", bound=Keyed)


class PointStore(Generic[P]):
    """points-KEY.jsonl of a folder, a line each: another key begins another file."""

    def __init__(self, folder: Path, key: str, point: Callable[..., P]) -> None:
        self._file = folder / f"points-{key[:12]}.jsonl"
        text = self._file.read_text() if self._file.exists() else ""
        self._end_of_last = "" if not text or text.endswith("\n") else "\n"  # a kill may have cut it off
        found = (point(**each) for each in map(_parsed, text.splitlines()) if each)
        self.points = {(each.method, each.share): each for each in found}

    def missing(self, wanted: Collection[tuple[str, float]]) -> bool:
        """Whether one of these is not there."""
        return any(each not in self.points for each in wanted)

    def add(self, point: P) -> None:
        self.points[point.method, point.share] = point
        append_line(self._file, f"{self._end_of_last}{json.dumps(point.to_json())}")
        self._end_of_last = ""


def _parsed(line: str) -> dict[str, Any] | None:
    """The object of a line, or None for one that a kill cut off."""
    try:
        found: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found

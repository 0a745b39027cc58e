"""What a section of the GPU script has found so far: a line of JSON a row, which whoever is killed leaves behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """Appends rows to a file. A row that has `failed` makes its section a failed one; one with `skipped` does not.

    Processes that take turns may share a file: a line is written in one go.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, **values: Any) -> None:
        with self.file.open("a") as lines:
            lines.write(json.dumps(values, default=str) + "\n")

    def __iter__(self) -> Iterator[Row]:
        return iter(read_rows(self.file))


def read_rows(file: Path) -> list[Row]:
    """Every whole line; what was cut off in the middle is left out. No file is no rows."""
    found: list[Row] = []
    for line in file.read_text(errors="replace").splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def figures(rows: list[Row]) -> list[Row]:
    """The rows that say something beside what went wrong."""
    return [row for row in rows if not row.keys() & {"failed", "skipped", "cut"}]

"""The most telling figures of all sections, as plain text: what is printed last, and so is seen first."""

from collections.abc import Sequence
from typing import Any

from .rows import Row


def summary(reports: Sequence[dict[str, Any]]) -> str:
    """A few lines a section."""
    lines = [f"{report['section']}: {report['state']}" for report in reports]
    return "\n".join(lines) + "\n"

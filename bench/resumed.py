"""A report that is written while it is measured, and gone on with by the same command when that was cut off."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..models.errors import SetupError
from ..models.files import write_whole


def key_of(*asked: Any) -> str:
    """Of all that decides what is measured, in plain values."""
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()[:16]


def begun(file: Path, key: str) -> dict[str, Any] | None:
    """The report of this plan that was begun; None where there is none. Raises SetupError for one of another plan."""
    if not file.exists():
        return None
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        same = report["plan"] == key
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise SetupError(f"{file}: is there already, and is of something else; name another file or delete it")
    return report


def cut_off(file: Path, key: str) -> dict[str, Any] | None:
    """The report of this plan that was cut off; None of anything else, which may be written over."""
    try:
        found = begun(file, key)
    except SetupError:
        return None
    return None if found is None or found["complete"] else found


def write_report(file: Path, report: dict[str, Any]) -> None:
    """Writes all of it."""
    write_whole(file, (json.dumps(report, indent=1) + "\n").encode())

"""Operations beside their peers: a section of a report that `moesaic bench ops` wrote."""

from collections.abc import Mapping
from typing import Any

from ..ops.run import notes, rows
from .section import Section, Table, machine_line


def operations(report: Mapping[str, Any], anchor: str, file: str) -> Section:
    """One report, as it stands in a file."""
    return Section(
        anchor, "Operations beside their peers", (), [], [Table("By shape and peer", rows(report))],
        list(notes(report)), report["command"], [f"{file}: {machine_line(report['machine'])}"],
    )  # fmt: skip

"""What tiers keep as they are served: a section of a report that `moesaic bench retention` wrote."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..served.page import control_rows, notes, picture, rows, task_rows
from .chart import Drawn, digest_of
from .section import Section, Table, machine_line


def as_served(report: Mapping[str, Any], name: str, file: str) -> Section:
    """One report, as it stands in a file."""
    table = rows(report)
    seen = "; ".join(f"{row[0]} {row[1]}: {row[2]} MB, {row[5]} of top-1" for row in table[1])
    title = "What is kept against the bytes of weights that a token reads"
    drawn = Drawn(f"{name}-kept", title, f"{title}. {seen}.", digest_of(report), partial(picture, report))
    others = [("At no more bytes than a control", control_rows(report)), ("Tasks", task_rows(report))]
    tables = [Table("By model and tier", table), *(Table(caption, each) for caption, each in others if each[1])]
    return Section(
        name, f"What is kept, as it is served: {', '.join(report['kept'])}", (), [drawn] if table[1] else [],
        tables, list(notes(report)), report["command"], [f"{file}: {machine_line(report['machine'])}"],
    )  # fmt: skip

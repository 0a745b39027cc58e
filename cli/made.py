"""A report that a command makes: how it was made, and how it is shown."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .terminal import print_table

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["moesaic", *sys.argv[1:]])


def machine_facts() -> dict[str, Any]:
    """Device, versions and commit; torch is imported when they are asked for."""
    from ..evaluate.provenance import provenance

    return provenance()


def show(out: Path, table: Table, notes: Iterable[str]) -> None:
    """Prints the table of a report and what one must know to read it, writes its page beside it, and names both."""
    from ..bench.evidence.own import write_own

    print_table(*table)
    for line in notes:
        print(line)
    page = out.with_suffix(".html")
    write_own([out], page)
    print(f"written: {out}, {page}")

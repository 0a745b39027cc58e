"""docs/http.md says what the HTTP door does, and all of it."""

import re
from types import SimpleNamespace
from typing import Any

from house import ROOT

from moesaic.models.sentences import POOLINGS
from moesaic.server.access import Access
from moesaic.server.exchange import TimeLimits
from moesaic.server.http import fields
from moesaic.server.http.app import HttpApp
from moesaic.server.http.errors import CODES
from moesaic.server.options import HTTP_PORT

PAGE = (ROOT / "docs/http.md").read_text()


def cells(heading: str, column: int = 0) -> list[str]:
    """What stands in backticks in a column of the table below a line that begins with these words."""
    table = PAGE.split(f"| {heading} |")[1].split("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[column])]


def test_every_route_is_there() -> None:
    none: Any = SimpleNamespace(responded=None, tracing=None, budget=None)
    guard: Any = HttpApp(none, none, none, TimeLimits(1, 1, 1)).guarded(Access())
    told = {tuple(cell.split(" ")) for cell in cells("route")}
    assert told == {(route.methods.copy().pop() if route.methods == {"POST"} else "GET", route.path)
                    for route in guard._app.routes}  # fmt: skip


def test_every_field_is_there() -> None:
    known = {*fields.COMMON, *fields.LABELS, *(name for names in fields.OF_DOORS.values() for name in names)}
    assert set(cells("field")) == known
    ours = PAGE.split("`moesaic` may hold ")[1].split(", by the names")[0]
    assert set(re.findall(r"`(\w+)`", ours)) == set(fields.OURS)
    of_embeddings = PAGE.split("labels, and under `moesaic` ")[1].split(";")[0]
    assert set(re.findall(r"`(\w+)`", of_embeddings)) - {*POOLINGS} == set(fields.OURS_OF_EMBEDDINGS)
    of_labels = PAGE.split("bookkeeping, and under `moesaic` ")[1].split(".")[0]
    assert set(re.findall(r"`(\w+)`", of_labels)) == set(fields.OURS_OF_CLASSIFICATION)


def test_every_field_that_is_refused_is_there() -> None:
    table = PAGE.split("| field | values that ask for nothing |")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" |") for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set(fields.NOTHING)


def test_codes_and_the_port_are_those_of_the_code() -> None:
    told = {int(code) for code in re.findall(r"\b[45]\d\d\b", PAGE.split("| code | when |")[1].split("\n\n")[0])}
    assert {code for code, _ in CODES.values()} - {501} <= told
    assert f"http://127.0.0.1:{HTTP_PORT}" in PAGE

"""How a figure is written in Markdown, and the templates that write it: bench/published/templates/."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ...evaluate.pages import environment
from ..load import run as load
from ..peers import texts
from ..retention.encoders import page as encoders
from ..served import page as served
from . import beside, costs, figures

TEMPLATES = Path(__file__).parent / "templates"
# absolute, above the project or at home; no address, whose slashes follow a colon or a word
_OUTSIDE = re.compile(r"(?<![\w.:/])(?:\.\./|~/|/)(?:[^,=/]*/)*([^,=/]+)/?")
_EMPTY_LINES = re.compile(r"\n{3,}")


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def times(value: float) -> str:
    """A ratio: x1.049."""
    return f"x{value:.3f}" if value < 10 else f"x{value:.2f}"


def percents(figure: figures.Figure) -> str:
    """An interval: 96.8 to 99.4."""
    return f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"


def ratios(figure: figures.Figure) -> str:
    """An interval: 0.968 to 0.994."""
    return f"{figure.low:.3f} to {figure.high:.3f}"


def top1(found: figures.Kept) -> str:
    """98.0 %, and the bytes read where they are not those asked for."""
    return percent(found.top1.value) + _at(found)


def kept(found: figures.Kept | None, interval: bool = False) -> str:
    """98.0 % (96.8 to 99.4), x1.049 at 0.54; nothing where there is no figure."""
    if found is None:
        return ""
    spread = f" ({percents(found.top1)})" if interval else ""
    return f"{percent(found.top1.value)}{spread}, {times(found.perplexity.value)}{_at(found)}"


def _at(found: figures.Kept) -> str:
    read, asked = fixed(found.bytes, 2), fixed(found.share, 2)
    return f" at {read}" if read != asked else ""


def count(value: float) -> str:
    return f"{value:,.0f}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


def fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def short(value: float) -> str:
    """A number in as few digits as say it: 0.002."""
    return f"{value:g}"


def perplexity(nats: float) -> str:
    return f"{math.exp(min(nats, 700)):,.2f}"


def versions(machine: Mapping[str, Any]) -> str:
    """Python, the packages and the commit."""
    found = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"python {machine['python']}, {found}; commit {machine['commit']}"


def command(result: Mapping[str, Any]) -> str:
    """What made a result, as its file holds it; of a path outside the project the last part alone."""
    return shlex.join(_OUTSIDE.sub(r"\1", word) for word in shlex.split(result["command"]))


def measured_on(provenance: Mapping[str, Any]) -> str:
    """Device, torch and commit, as far as they were noted; the file has the other versions."""
    device = [f"{provenance['device']}, {provenance['processors']} processors"] if "device" in provenance else []
    torch = [f"torch {provenance['versions']['torch']}"] if "versions" in provenance else []
    return ", ".join([*device, *torch, f"commit {provenance['commit']}"])


def render(template: str, **content: object) -> str:
    """A page of Markdown. A name that has no value is an error, and so is a figure that no file holds."""
    page = _environment().get_template(f"{template}.md.j2").render(**content)
    return _EMPTY_LINES.sub("\n\n", page).rstrip("\n") + "\n"


def load_table(report: Mapping[str, Any]) -> str:
    """A report on load as a table, a row for each level and server."""
    return _table(*load.rows(dict(report)))


def encoder_table(report: Mapping[str, Any], share: float) -> str:
    """What methods keep of a model with an encoder at a share, best first."""
    return _table(*encoders.rows(report, share))


def encoder_summary(report: Mapping[str, Any]) -> str:
    """The best of each kind of method at each share."""
    return _table(*encoders.in_short(report))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def kept_tables(report: Mapping[str, Any]) -> list[str]:
    """A report on what is kept as it is served: by tier, beside controls, and by task, as far as there is any."""
    found = (served.rows(report), served.control_rows(report), served.task_rows(report))
    return [_table(*each) for each in found if each[1]]


def kept_notes(report: Mapping[str, Any]) -> list[str]:
    """What it comes to, and what one must know of it."""
    return list(served.notes(report))


def whole_table(report: Mapping[str, Any]) -> str:
    """Encoders and encoder-decoders beside their peers, a table for each."""
    return texts.as_text(dict(report)).strip()


def goodput_limits(limits: Mapping[str, float]) -> str:
    """TTFT at most 500 ms."""
    kept = [f"{name.upper()} at most {1e3 * most:g} ms" for name, most in limits.items()]
    return " and ".join(kept) or "no limit: every answer counts"


def load_notes(report: Mapping[str, Any]) -> list[str]:
    """What one must know of it."""
    return list(load.notes(dict(report)))


FILTERS = (
    percent, times, percents, ratios, top1, kept, count, megabytes, fixed, short, perplexity, versions, measured_on,
    command, load_table, load_notes, whole_table, goodput_limits, kept_tables, kept_notes,
    encoder_table, encoder_summary, encoders.beside_planes, encoders.notes, encoders.shares_of,
    costs.instructions, costs.compiled_for,
)  # fmt: skip
LOOKUPS = (
    figures.result, figures.loads, figures.kept_as_served, figures.whole_calls, figures.same_tokens, figures.same_files,
    figures.classifications, figures.headings, figures.encoder_runs, figures.curves, figures.pooled, figures.recipe,
    costs.costs, costs.cost, costs.time, beside.beside,
)  # fmt: skip


@cache
def _environment() -> Environment:
    found = environment(TEMPLATES, autoescape=False)
    found.filters.update({each.__name__: each for each in FILTERS})
    found.globals.update({each.__name__: each for each in LOOKUPS})
    return found

"""Pictures as data: what is drawn, told in words for whoever cannot see it, and drawn for light and for dark pages."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ...evaluate.files import as_png

LIGHT, DARK = "light", "dark"
THEMES: Mapping[str, Mapping[str, str]] = {
    LIGHT: {"page": "#ffffff", "ink": "#1f2328", "line": "#d1d9e0"},
    DARK: {"page": "#14171a", "ink": "#e6e8eb", "line": "#343a41"},
}
COLOURS: Mapping[str, tuple[str, ...]] = {
    LIGHT: ("#0f7b6c", "#b7791f", "#7a5ea8", "#c2543d", "#2f6fae", "#6b7280"),
    DARK: ("#4fc3ae", "#e6bb66", "#b79fe0", "#ee8f78", "#7fb3e6", "#a8b0b9"),
}
_MARKS = "osD^vP"
_BESIDE = ((6, 4), (-6, 5), (6, -12))  # where words stand, so that those of near points miss each other
_MOST_COUNTED = 16  # numbers of streams and the like, each a tick


@dataclass(frozen=True, slots=True)
class Point:
    """A place, with the interval of its height where it has one, and a word beside it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name. joined: by a line. colour: its place in the palette, and its mark."""

    name: str
    points: tuple[Point, ...]
    colour: int
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel. upright: names with an x alone, where no height was measured; level: a height that none exceeds;
    places: names of x = 0, 1, 2 ...
    """

    name: str
    title: str
    across: str
    up: str
    series: tuple[Series, ...]
    upright: tuple[tuple[str, float], ...] = ()
    level: tuple[str, float] | None = None
    places: tuple[str, ...] = ()
    from_zero: bool = False

    @property
    def alt(self) -> str:
        """What is seen, in words."""
        lines = [f"{each.name}: {_told(each)}" for each in self.series]
        lines += [f"{name}: at {value:.4g}, no height measured" for name, value in self.upright]
        lines += [f"a line at {self.level[1]:.4g}: {self.level[0]}"] if self.level else []
        lines += [f"places: {', '.join(self.places)}"] if self.places else []
        return f"{self.title}. Across: {self.across}; up: {self.up}. {'; '.join(lines)}."

    @property
    def digest(self) -> str:
        """Of what is drawn, so that a file tells which figures it was drawn of."""
        return digest_of(asdict(self))

    def draw(self, theme: str) -> bytes:
        """PNG, for one theme."""
        return in_theme(theme, lambda: _drawn(self, COLOURS[theme]), self.digest)


class Picture(Protocol):
    """What a page shows: a chart, or a picture that others draw."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def alt(self) -> str: ...
    @property
    def digest(self) -> str: ...
    def draw(self, theme: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture that a function draws of some values."""

    name: str
    title: str
    alt: str
    digest: str
    panels: Callable[[], bytes]

    def draw(self, theme: str) -> bytes:
        """PNG, for one theme."""
        return in_theme(theme, self.panels, self.digest)


def digest_of(values: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def in_theme(theme: str, panels: Callable[[], bytes], digest: str) -> bytes:
    """What a function draws, in the colours of a theme, in few colours, with the digest as a note in the file."""
    import io

    import matplotlib
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    page, ink, line = (THEMES[theme][name] for name in ("page", "ink", "line"))
    edges = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = dict.fromkeys(edges, ink) | {"figure.facecolor": page, "axes.facecolor": page}
    with matplotlib.rc_context({**settings, "grid.color": line, "font.size": 10.5}):
        drawn = Image.open(io.BytesIO(panels()))
    note, stream = PngInfo(), io.BytesIO()
    note.add_text("digest", digest)
    drawn.convert("RGB").quantize(64).save(stream, format="png", optimize=True, pnginfo=note)
    return stream.getvalue()


def _drawn(chart: Chart, colours: tuple[str, ...]) -> bytes:
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(5.2, 4.5), dpi=144, layout="constrained")
    panel = sheet.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(linewidth=0.6)
    panel.set_axisbelow(True)
    for each in chart.series:
        _series(panel, each, colours[each.colour % len(colours)])
    for name, value in chart.upright:
        panel.axvline(value, color=colours[-1], linewidth=1, linestyle=":")
        panel.text(value, 0.02, f" {name}", transform=panel.get_xaxis_transform(), rotation=90, fontsize=8, va="bottom")
    if chart.level:
        panel.axhline(chart.level[1], color=colours[-1], linewidth=1, linestyle="--", label=chart.level[0])
    _axes(panel, chart)
    sheet.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return as_png(sheet)


def _axes(panel: Any, chart: Chart) -> None:
    panel.set_xlabel(chart.across)
    panel.set_ylabel(chart.up)
    panel.margins(x=0.09, y=0.1)
    across = sorted({point.x for each in chart.series for point in each.points})
    if chart.places:
        panel.set_xticks(range(len(chart.places)), chart.places, fontsize=9)
    elif across[-1] <= _MOST_COUNTED and all(x == int(x) for x in across):
        panel.set_xticks(across)
    if chart.from_zero:
        panel.set_ylim(bottom=0)


def _series(panel: Any, series: Series, colour: str) -> None:
    points = series.points
    spread = None
    if any(point.low is not None for point in points):
        below = [point.y - (point.y if point.low is None else point.low) for point in points]
        spread = [below, [(point.y if point.high is None else point.high) - point.y for point in points]]
    panel.errorbar(
        [point.x for point in points], [point.y for point in points], yerr=spread, color=colour, label=series.name,
        marker=_MARKS[series.colour % len(_MARKS)], markersize=5, capsize=2, linewidth=1.4, elinewidth=1,
        linestyle="-" if series.joined else "none",
    )  # fmt: skip
    for i, point in enumerate(points):
        across, up = _BESIDE[i % len(_BESIDE)]
        panel.annotate(
            point.label, (point.x, point.y), xytext=(across, up), textcoords="offset points", fontsize=8.5,
            ha="right" if across < 0 else "left",
        )  # fmt: skip


def _told(series: Series) -> str:
    points = series.points if len(series.points) <= 6 or not series.joined else (series.points[0], series.points[-1])
    between = " to " if len(points) < len(series.points) else ", "
    return between.join(f"{point.label + ' ' if point.label else ''}{point.y:.4g} at {point.x:.4g}" for point in points)

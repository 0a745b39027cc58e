"""How the settings of a server are written: at its start, as a file to keep, and as a page."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..models.files import write_whole
from ..models.setting import Setting
from .config import ENGINE, SERVER, Configuration, variable

_DEFAULTS = "defaults"
PAGE_BEGIN, PAGE_END = "<!-- made by make settings -->\n", "<!-- end -->\n"


def start_lines(configuration: Configuration) -> Iterator[str]:
    """What is said at the start: a line for each place that settings come from. None of them is a secret itself."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in all_values(configuration).items():
        place = configuration.origins.get(name, _DEFAULTS)
        kind = place.partition(" ")[0]
        found[place if kind == "file" else kind].append(f"{name}={value}")
    for place in sorted(found, key=lambda place: place == _DEFAULTS):
        yield f"configuration from {place}: {' '.join(found[place])}"


def config_file(configuration: Configuration) -> str:
    """A file for --config that says the same, each value with where it comes from."""
    options, origins = configuration.options, configuration.origins
    lines = [f"models: {_flow(dict(options.models))}  # {origins.get('models', 'default')}"]
    lines += [_line(name, getattr(options, name), origins) for name in SERVER]
    inner = [f"  {_line(name, getattr(options.engine, name), origins)}" for name in ENGINE]
    return "\n".join([*lines, "engine:", *inner, ""])


def settings_page() -> str:
    """The table of all settings."""
    head = ["| flag | environment | key of the file | left out | what it is |", "| --- | --- | --- | --- | --- |"]
    rows = [*_rows(SERVER, ""), *_rows(ENGINE, "engine.")]
    models = (
        f"| PATH ... | `{variable('models')}` | `models` | | NAME=PATH, or PATH alone; as many as are to be served |"
    )
    return "\n".join([*head, models, *rows, ""])


def _rows(known: Mapping[str, Setting], place: str) -> Iterable[str]:
    for name, each in known.items():
        choices = f": {', '.join(each.choices)}" if each.choices else ""
        flag = f"{each.flag}, --no-{each.flag[2:]}" if each.is_switch else each.flag
        default = each.shown_default or "chosen" if place else each.shown_default or "none"
        yield f"| `{flag}` | `{variable(name)}` | `{place}{name}` | {default} | {each.help}{choices} |"


def all_values(configuration: Configuration) -> dict[str, Any]:
    """What is in effect, by name."""
    options = configuration.options
    models = {"models": ",".join(f"{name}={path}" for name, path in options.models)}
    return {
        **models,
        **{name: getattr(options, name) for name in SERVER},
        **{name: getattr(options.engine, name) for name in ENGINE},
    }


def _line(name: str, value: Any, origins: Mapping[str, str]) -> str:
    return f"{name}: {_flow(value)}  # {origins.get(name, 'default')}"


def _flow(value: Any) -> str:
    """One line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()


def write_page(file: Path) -> None:
    """Puts the table where the page has it."""
    before, _, rest = file.read_text().partition(PAGE_BEGIN)
    after = rest.partition(PAGE_END)[2]
    write_whole(file, f"{before}{PAGE_BEGIN}\n{settings_page()}\n{PAGE_END}{after}".encode())


if __name__ == "__main__":
    write_page(Path(sys.argv[1]))

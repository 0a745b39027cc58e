"""YAML as its users write it: 2e-5, 1E4 and .5e-3 are numbers. No torch.

YAML 1.1, which the library reads, takes a number with an exponent for one only where it has a point and the exponent
a sign; YAML 1.2 and JSON do not ask for these. Text in quotes stays text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

_FLOAT = "tag:yaml.org,2002:float"
_WITH_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z")
_LARGEST_EXACT = 1 << 53  # of the whole numbers that a float tells apart


class _Loader(yaml.SafeLoader):
    """The safe loader: it makes plain values and never runs anything."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> float | int:
    """1e6 is a whole number: a count may be written so."""
    value: float = loader.construct_yaml_float(node)
    is_count = "e" in node.value.lower() and value.is_integer() and abs(value) < _LARGEST_EXACT
    return int(value) if is_count else value


_Loader.add_implicit_resolver(_FLOAT, _WITH_EXPONENT, list("-+.0123456789"))
_Loader.add_constructor(_FLOAT, _number)


def read_yaml(file: str | Path) -> Any:
    """What a file holds. Raises ValueError with one sentence where it is not YAML, OSError where it cannot be read."""
    try:
        return yaml.load(Path(file).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_mapping(file: str | Path, keys: str) -> dict[str, Any]:
    """The keys and values of a file. Raises ValueError that names it; `keys` says what it should hold."""
    try:
        values = read_yaml(file)
    except ValueError as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a mapping {keys}")
    return values

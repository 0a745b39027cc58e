"""generation_config.json: the sampling that a model's makers ask for. No torch."""

import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError


def generation_defaults(folder: Path) -> dict[str, float | int]:
    """The numbers that a model directory sets, by name; {"temperature": 0} where the file says do_sample false."""
    values = read_optional_json(folder / "generation_config.json")
    if values.get("do_sample") is False:
        return {"temperature": 0.0}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    }


def read_optional_json(file: Path) -> dict[str, Any]:
    """The object in a small JSON file, or {} where there is none. Raises CheckpointError for a damaged one."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return values

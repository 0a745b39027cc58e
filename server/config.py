"""The options of a server from a YAML file.

models: {small: ./out/small, stories: stories260k}
port: 50051
engine: {threads: 2, max_context: 1024}
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..engine.options import EngineOptions
from ..models.errors import SetupError
from ..models.suggestion import suggestion
from ..models.yaml_file import read_yaml
from .options import ServeOptions, check_numbers


def read_config(file: str | Path) -> ServeOptions:
    """The options that a file holds; keys are the fields of ServeOptions, models map names to paths.

    Raises SetupError that names the file and the key for what is unknown or of the wrong kind.
    """
    try:
        values = read_yaml(file)
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read: {error}") from None
    _refuse_unknown(file, values, ServeOptions)
    _refuse_unknown(file, values.get("engine", {}), EngineOptions)
    models = values.get("models", {})
    if not isinstance(models, dict):
        raise SetupError(f"{file}: models must map names to paths, for example {{small: ./out/small}}")
    try:
        options = TypeAdapter(ServeOptions).validate_python({**values, "models": tuple(models.items())})
        check_numbers(options)
        return options
    except SetupError as error:
        raise type(error)(f"{file}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SetupError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _refuse_unknown(file: str | Path, values: Any, kind: type[Any]) -> None:
    if not isinstance(values, Mapping):
        raise SetupError(f"{file} must hold keys and values, it holds {type(values).__name__}")
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise SetupError(f"{file}: there is no setting {key!r}; {suggestion(str(key), known)}")

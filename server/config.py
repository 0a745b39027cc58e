"""What a server is started with, from flags, the environment, a file and defaults; the first that says it counts.

models: {small: ./out/small, stories: stories260k}
port: 50051
engine: {threads: 2, max_context: 1024}
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..engine.options import EngineOptions
from ..models.errors import SetupError
from ..models.setting import Setting, settings
from ..models.suggestion import suggestion
from ..models.yaml_file import read_yaml
from .options import ServeOptions, check_numbers

PREFIX = "MOESAIC_SERVE_"
CONFIG = f"{PREFIX}CONFIG"
SERVER: Mapping[str, Setting] = settings(ServeOptions)
ENGINE: Mapping[str, Setting] = settings(EngineOptions)
SETTINGS: Mapping[str, Setting] = {**SERVER, **ENGINE}
_MODELS = "models"
_ENGINE = "engine"
_TYPES: Mapping[str, Any] = {field.name: field.type for kind in (ServeOptions, EngineOptions) for field in fields(kind)}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The options, and where each comes from: "flag --port", "environment MOESAIC_SERVE_PORT", "file serve.yaml".

    What `origins` does not name is a default.
    """

    options: ServeOptions
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one place says, by the names of settings. prefix: what a sentence about a wrong value begins with."""

    values: Mapping[str, Any]
    origin: Callable[[str], str]
    prefix: Callable[[str], str]


def configuration(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: str | Path | None = None
) -> Configuration:
    """All places together. flags: values by name; models as (name, path) pairs.

    Raises SetupError that names the place and the key for what is unknown, of the wrong kind or out of bounds.
    """
    file = file or environment.get(CONFIG)
    layers = [*([_from_file(file)] if file else []), _from_environment(environment), _from_flags(flags)]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _judge(layer)
        values |= layer.values
        origins |= {name: layer.origin(name) for name in layer.values}
    return Configuration(_options(values), origins)


def variable(name: str) -> str:
    """The environment's name of a setting."""
    flag = SETTINGS[name].flag if name in SETTINGS else name
    return PREFIX + flag.removeprefix("--").replace("-", "_").upper()


def flag_of(name: str) -> str:
    """The command line's name of a setting."""
    return "PATH" if name == _MODELS else SETTINGS[name].flag


def named_model(text: str) -> tuple[str, str]:
    """NAME=PATH, or PATH, whose last part is the name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else (Path(text).resolve().name, text)


def _options(values: Mapping[str, Any]) -> ServeOptions:
    engine = EngineOptions(**{name: value for name, value in values.items() if name in ENGINE})
    models = tuple(values.get(_MODELS, ()))
    own = {name: value for name, value in values.items() if name in SERVER}
    return ServeOptions(models=models, engine=engine, **own)


def _judge(layer: _Layer) -> None:
    """Raises SetupError for the first value that can have no effect as it stands."""
    for name, value in layer.values.items():
        try:
            _check_choice(name, value)
            check_numbers(_options({name: value}))
        except SetupError as error:
            raise type(error)(f"{layer.prefix(name)}{error}") from None


def _check_choice(name: str, value: Any) -> None:
    setting = SETTINGS.get(name)
    if setting is not None and setting.choices and value is not None and value not in setting.choices:
        raise SetupError(f"{name} is {value!r}; {suggestion(str(value), setting.choices)}")


def _from_flags(flags: Mapping[str, Any]) -> _Layer:
    return _Layer(flags, lambda name: f"flag {flag_of(name)}", lambda name: "")


# --- the environment -----------------------------------------------------------------------------------------------


def _from_environment(environment: Mapping[str, str]) -> _Layer:
    names = {variable(name): name for name in (_MODELS, *SETTINGS)}
    given = {name: text for name, text in environment.items() if name.startswith(PREFIX) and name != CONFIG and text}
    for name in given:
        if name not in names:
            raise SetupError(f"environment: there is no setting {name}; {suggestion(name, [*names, CONFIG])}")
    values = {names[name]: _read(name, names[name], text) for name, text in given.items()}
    return _Layer(values, lambda name: f"environment {variable(name)}", lambda name: f"environment {variable(name)}: ")


def _read(name: str, setting: str, text: str) -> Any:
    if setting == _MODELS:
        return tuple(named_model(each.strip()) for each in text.split(",") if each.strip())
    try:
        return SETTINGS[setting].read(text)
    except ValueError as error:
        raise SetupError(f"environment {name}: {error}") from None


# --- a file --------------------------------------------------------------------------------------------------------


def _from_file(file: str | Path) -> _Layer:
    try:
        values = read_yaml(file)
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read: {error}") from None
    found = dict(_file_values(file, values))
    return _Layer(found, lambda name: f"file {file}", lambda name: f"{file}: ")


def _file_values(file: str | Path, values: Any) -> Iterator[tuple[str, Any]]:
    _refuse_unknown(file, values, (_MODELS, _ENGINE, *SERVER))
    for name, value in values.items():
        if name == _ENGINE:
            _refuse_unknown(file, value, ENGINE)
            yield from ((inner, _typed(file, f"{_ENGINE}.{inner}", inner, each)) for inner, each in value.items())
        elif name == _MODELS:
            if not isinstance(value, dict):
                raise SetupError(f"{file}: models must map names to paths, for example {{small: ./out/small}}")
            yield name, _typed(file, name, name, tuple(value.items()))
        else:
            yield name, _typed(file, name, name, value)


def _typed(file: str | Path, place: str, name: str, value: Any) -> Any:
    """The value in the type of its field; bytes may be written as on a command line."""
    setting = SETTINGS.get(name)
    try:
        if isinstance(value, str) and setting is not None and setting.metavar == "BYTES":
            return setting.read(value)
        return TypeAdapter(_TYPES[name]).validate_python(value)
    except ValidationError as error:
        raise SetupError(f"{file}: {place}: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise SetupError(f"{file}: {place}: {error}") from None


def _refuse_unknown(file: str | Path, values: Any, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if not isinstance(values, Mapping):
        raise SetupError(f"{file} must hold keys and values, it holds {type(values).__name__}")
    for key in values:
        if key not in known:
            raise SetupError(f"{file}: there is no setting {key!r}; {suggestion(str(key), known)}")

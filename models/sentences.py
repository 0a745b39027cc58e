"""How an encoder makes one vector of a text, as sentence-transformers writes it beside a model. No torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .links import check_inside
from .optional_json import read_optional_json

MEAN, CLS, LAST = "mean", "cls", "last"
POOLINGS = (MEAN, CLS, LAST)  # the mean of all tokens' states, the first one's, the last one's
FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
FOLDER_FILE = "config.json"  # of a module's folder
_MODES = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": CLS, "pooling_mode_lasttoken": LAST}
_FURTHEST = 1 << 31


@dataclass(frozen=True, slots=True)
class Pooling:
    """What becomes of the states of a text's tokens. normalised: to length 1."""

    kind: str = MEAN
    normalised: bool = True


@dataclass(frozen=True, slots=True)
class Sentences:
    """What a directory says of texts. window: tokens that the model was made for, where it says so."""

    pooling: Pooling = Pooling()
    window: int | None = None

    @classmethod
    def open(cls, folder: Path) -> "Sentences":
        """Reads modules.json and what it names; without one, the mean of all tokens at length 1.

        Raises CheckpointError for modules that are not built.
        """
        window = read_optional_json(folder / "sentence_bert_config.json").get("max_seq_length")
        if window is not None and (type(window) is not int or not 0 < window < _FURTHEST):
            raise CheckpointError(
                f"sentence_bert_config.json: max_seq_length is {window!r}, it must be a positive integer"
            )
        if not (folder / "modules.json").is_file():
            return cls(window=window)
        modules = _modules(folder)
        kinds = [kind for kind, _ in modules]
        pooling = next((path for kind, path in modules if kind == "Pooling"), None)
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or pooling is None:
            raise CheckpointError(
                f"modules.json: the modules are {', '.join(kinds)[:200] or 'none'}; moesaic computes Transformer, "
                "Pooling and Normalize, in this order, the last one or not"
            )
        return cls(Pooling(_kind(read_optional_json(folder / pooling / FOLDER_FILE)), len(kinds) == 3), window)

    def window_within(self, most: int) -> int:
        """The tokens of a text that a model with so many positions reads."""
        return min(self.window or most, most)


def pooling_files(folder: Path) -> list[str]:
    """The files of a directory that say how it embeds, as paths below it."""
    there = [name for name in FILES if (folder / name).is_file()]
    paths = [path for kind, path in _modules(folder) if kind == "Pooling"] if "modules.json" in there else []
    return [*there, *(f"{path}/{FOLDER_FILE}" for path in paths if (folder / path / FOLDER_FILE).is_file())]


def write_pooling(folder: Path, pooling: Pooling) -> None:
    """Writes modules.json and what it names, as sentence-transformers does."""
    paths = {"Transformer": "", "Pooling": "1_Pooling", **({"Normalize": "2_Normalize"} if pooling.normalised else {})}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(paths.items())
    ]
    mode = next(mode for mode, kind in _MODES.items() if kind == pooling.kind)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / FOLDER_FILE).write_text(json.dumps({mode: True}, indent=2) + "\n")
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module."""
    try:
        found = json.loads((folder / "modules.json").read_bytes())
        modules = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in found]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        raise CheckpointError(f"{folder / 'modules.json'} is no list of modules with type and path") from None
    for kind, path in modules:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise CheckpointError(f"modules.json: {kind} lies outside the directory, in {path[:80]!r}")
        check_inside(folder, folder / path / FOLDER_FILE)
    return modules


def _kind(config: Mapping[str, Any]) -> str:
    """The one mode that a Pooling module has turned on, or names."""
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    named = config.get("pooling_mode")
    found = [named] if isinstance(named, str) else [_MODES.get(mode, mode) for mode in modes]
    known = {"lasttoken": LAST}.get(found[0], found[0]) if len(found) == 1 else None
    if known not in POOLINGS:
        asked = " and ".join(map(str, found)) or "none"
        raise CheckpointError(f"Pooling asks for {asked[:200]}; moesaic computes one of {', '.join(POOLINGS)}")
    return known

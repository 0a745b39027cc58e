"""A setting of a program, said once where its dataclass has the field. Imports no torch.

Its flag, its place in a file, its name in the environment, its help and its row of a page are made from this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, get_args

from .bounds import Bound

_KEY = "setting"
_WORDS: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one field.

    read: makes its value of a text. written: how its default is shown, where that is not as it is. flag: on the command
    line; metavar and choices as argparse takes them.
    """

    name: str
    help: str
    default: Any
    read: Callable[[str], Any]
    bound: Bound | None
    written: str
    flag: str
    metavar: str
    choices: Sequence[str] | None

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.read is on_or_off

    @property
    def shown_default(self) -> str:
        """Its default in words; empty where none stands for itself."""
        if self.is_switch:
            return "on" if self.default else "off"
        plain = "" if self.default is None else f"{self.default:g}" if self._is_real else str(self.default)
        return self.written or plain

    @property
    def _is_real(self) -> bool:
        return isinstance(self.default, float)


def setting(
    default: Any,
    help: str,
    bound: Bound | None = None,
    *,
    read: Callable[[str], Any] | None = None,
    written: str = "",
    flag: str = "",
    metavar: str = "",
    choices: Sequence[str] | None = None,
) -> Any:
    """A field of a dataclass with its Setting; what is left out follows from the field's name and type."""
    told = {"help": help, "bound": bound, "read": read, "written": written, "flag": flag, "metavar": metavar}
    return field(default=default, metadata={_KEY: {**told, "choices": choices}})


def settings(kind: type[Any]) -> dict[str, Setting]:
    """The settings of a dataclass, by name, in its order."""
    return {each.name: each for each in _settings(kind)}


def bounds(kind: type[Any]) -> dict[str, Bound]:
    """What the numbers of a dataclass may be, by name."""
    return {name: each.bound for name, each in settings(kind).items() if each.bound is not None}


def _settings(kind: type[Any]) -> Iterator[Setting]:
    for each in fields(kind):
        if _KEY in each.metadata:
            told = dict(each.metadata[_KEY])
            told["read"] = told["read"] or _reader(each.type)
            told["flag"] = told["flag"] or f"--{each.name.replace('_', '-')}"
            told["metavar"] = told["metavar"] or _placeholder(each.name, told["read"])
            yield Setting(name=each.name, default=each.default, **told)


def _reader(kind: Any) -> Callable[[str], Any]:
    """What makes a value of this type of a text; of `int | None`, as of int."""
    plain = next(each for each in get_args(kind) if each is not type(None)) if isinstance(kind, UnionType) else kind
    readers: Mapping[Any, Callable[[str], Any]] = {int: whole_number, float: real_number, bool: on_or_off}
    return readers.get(plain, str)


def _placeholder(name: str, read: Callable[[str], Any]) -> str:
    """What stands for a value of it in the help."""
    if name.endswith("_seconds"):
        return "SECONDS"
    kinds: Mapping[Any, str] = {whole_number: "N", real_number: "X", byte_count: "BYTES"}
    return kinds.get(read, name.upper())


def whole_number(text: str) -> int:
    """A whole number. Raises ValueError with the end of a sentence, as the others do."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def real_number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def on_or_off(text: str) -> bool:
    """true, yes, 1 or false, no, 0."""
    if text.lower() not in _WORDS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _WORDS[text.lower()]


def byte_count(text: str) -> int:
    """1500, 500M, 2G as bytes."""
    factor = _FACTORS.get(text[-1:].upper(), 1)
    try:
        count = int(float(text if factor == 1 else text[:-1]) * factor)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(f"{text!r} is not a number of bytes such as 500M or 2G")
    return count

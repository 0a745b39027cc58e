"""Reading a Hugging Face config.json: every value checked, every complaint a sentence that names the key."""

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import CheckpointError
from .foreign import is_foreign, meant_by

_LARGEST = 1 << 31
_LARGEST_NUMBER = 1e30
MAX_LAYERS = 1 << 16
T = TypeVar("T")


ACTIVATIONS = {  # the names that transformers has for a function that is built
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_python_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}  # fmt: skip


class Config:
    """A config.json as families read it. All methods raise CheckpointError for what they cannot take.

    It remembers which keys were read, so that `check_others` can judge those that were not.
    """

    def __init__(self, values: Mapping[str, Any], place: str = "") -> None:
        self.values = values
        self._place = place  # of a nested object: its key and a point
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether it is there and not null."""
        self._read.add(key)
        return self.values.get(key) is not None

    def count(self, key: str, default: int | None = None, limit: int = _LARGEST) -> int:
        """A positive integer below `limit`."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < limit:
            raise self.wrong(key, f"it must be a positive integer below {limit:,}", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST_NUMBER:
            raise self.wrong(key, "it must be a positive number below 1e30", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "it must be true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """One of the names in `choices`, as what it stands for."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(key, f"moesaic knows {', '.join(sorted(choices))}")
        return choices[value]

    def only(self, key: str, allowed: Any, default: Any) -> None:
        """Refuses a feature that is not built: any value of `key` but `allowed`."""
        value = self._value(key, default)
        if value != allowed:
            raise self.wrong(key, f"moesaic can only run {allowed!r}")

    def section(self, key: str) -> "Config":
        """A nested object; absent or null is an empty one."""
        self._read.add(key)
        value = self.values.get(key) or {}
        if not isinstance(value, Mapping):
            raise self.wrong(key, "it must be an object")
        return Config(value, f"{self._place}{key}.")

    def check_others(self) -> None:
        """Refuses a key that was not read, and that asks for something else than what was."""
        unset = {key for key in self._read if self.values.get(key) is None}
        for key, value in self.values.items():
            if key in self._read or value is None:
                continue
            if is_foreign(key, self.values):
                raise self.wrong(key, "which moesaic does not compute; delete it if the weights were made without it")
            if meant := meant_by(key, unset):
                raise self.wrong(key, f"and nothing reads this key; did you mean {meant}?")

    def wrong(self, key: str, why: str, value: Any = None) -> CheckpointError:
        """The complaint about a key and its value, or the one that stands for it."""
        value = self.values.get(key) if value is None else value
        shown = "missing" if value is None else _shown(value)
        return CheckpointError(f"config.json: {self._place}{key} is {shown}, {why}")

    def _value(self, key: str, default: Any) -> Any:
        self._read.add(key)
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"config.json: {self._place}{key} is missing")
        return value


def _shown(value: Any) -> str:
    """A value as JSON users know it, cut to what fits a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Reading a Hugging Face config.json: every value checked, every complaint a sentence that names the key."""

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import CheckpointError

_LARGEST = 1 << 31
_LARGEST_NUMBER = 1e30
MAX_LAYERS = 1 << 16
T = TypeVar("T")


class Config:
    """A config.json as families read it. All methods raise CheckpointError for what they cannot take."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def count(self, key: str, default: int | None = None, limit: int = _LARGEST) -> int:
        """A positive integer below `limit`."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < limit:
            raise CheckpointError(
                f"config.json: {key} is {_shown(value)}, it must be a positive integer below {limit:,}"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST_NUMBER:
            raise CheckpointError(f"config.json: {key} is {_shown(value)}, it must be a positive number below 1e30")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"config.json: {key} is {_shown(value)}, it must be true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """One of the names in `choices`, as what it stands for."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in choices:
            known = ", ".join(sorted(choices))
            raise CheckpointError(f"config.json: {key} is {_shown(value)}; moesaic knows {known}")
        return choices[value]

    def only(self, key: str, allowed: Any, default: Any) -> None:
        """Refuses a feature that is not built: any value of `key` but `allowed`."""
        value = self._value(key, default)
        if value != allowed:
            raise CheckpointError(f"config.json: {key} is {_shown(value)}, moesaic can only run {allowed!r}")

    def section(self, key: str) -> "Config":
        """A nested object; absent or null is an empty one."""
        value = self.values.get(key) or {}
        if not isinstance(value, Mapping):
            raise CheckpointError(f"config.json: {key} is {_shown(value)}, it must be an object")
        return Config(value)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"config.json: {key} is missing")
        return value


def _shown(value: Any) -> str:
    """A value as JSON users know it, cut to what fits a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

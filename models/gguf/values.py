"""Reading a GGUF header's values: each checked, every complaint a sentence that names the key."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .header import GGUFHeader

_LARGEST = 1 << 31


class Values:
    """The values of one file. All methods raise CheckpointError for what they cannot take.

    A key that begins with a point is one of the file's architecture: `.block_count` is `llama.block_count`.
    """

    def __init__(self, header: GGUFHeader) -> None:
        self.file = header.file
        self._values = header.values
        self.architecture = self.text("general.architecture", "")

    def has(self, key: str) -> bool:
        """Whether the file has a value of this key."""
        return self._full(key) in self._values

    def asks(self, key: str) -> bool:
        """Whether the file has a number of this key that is not 0."""
        return type(value := self._values.get(self._full(key))) is int and value > 0

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer; an array of one value for all layers counts as that value."""
        value = self._values.get(self._full(key), default)
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or not 0 < value < _LARGEST:
            raise self.wrong(key, value, f"a positive integer below {_LARGEST:,}, the same for all layers")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number, in the shortest form that is this fp32: 1e-05, not 9.999999747378752e-06."""
        value = self._values.get(self._full(key), default)
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise self.wrong(key, value, "a positive number below 1e30")
        return float(str(np.float32(value)))

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._values.get(self._full(key), default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._values.get(self._full(key), default)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a string")
        return value

    def texts(self, key: str) -> Sequence[str]:
        """An array of strings."""
        value = self._values.get(self._full(key))
        if not isinstance(value, list):
            raise self.wrong(key, value, "an array of strings")
        return value

    def numbers(self, key: str, length: int) -> npt.NDArray[np.generic]:
        """An array of so many finite numbers."""
        value = self._values.get(self._full(key))
        if not isinstance(value, np.ndarray) or len(value) != length or not np.isfinite(value).all():
            raise self.wrong(key, value, f"an array of {length:,} finite numbers")
        return value

    def data(self, key: str) -> bytes:
        """An array of bytes, or none of them where the file has none."""
        value = self._values.get(self._full(key), np.empty(0, np.uint8))
        if not isinstance(value, np.ndarray) or value.dtype.itemsize != 1:
            raise self.wrong(key, value, "an array of bytes")
        return value.tobytes()

    def token_id(self, key: str, num_tokens: int, default: int | None = None) -> int | None:
        """The id of a token, or None where the file names none and the default is none of its tokens."""
        value = self._values.get(self._full(key), default if default is not None and default < num_tokens else None)
        if value is None or type(value) is int and value in (0xFFFF_FFFF, -1):
            return None
        if type(value) is not int or not 0 <= value < num_tokens:
            raise self.wrong(key, value, f"the id of one of {num_tokens:,} tokens")
        return value

    def same(self, key: str, wanted: int, what: str) -> None:
        """Refuses a count that is there and another than this one, which `what` names."""
        if self.count(key, wanted) != wanted:
            raise CheckpointError(f"{self.file}: {self._full(key)} is not {what}, {wanted}; moesaic cannot run it")

    def slides(self, num_layers: int, period: int) -> list[bool]:
        """Whether each layer has the window: a flag each, or all but the last of every so many in a row."""
        key = ".attention.sliding_window_pattern"
        value = self._values.get(self._full(key))
        if isinstance(value, np.ndarray) and value.dtype == np.bool_ and len(value) == num_layers:
            return [bool(each) for each in value]
        period = self.count(key, period)
        return [i % period < period - 1 for i in range(num_layers)]

    def refuse(self, key: str, neutral: Sequence[Any], why: str) -> None:
        """Raises where the file asks for a feature that is not built: any value but those of `neutral`."""
        value = self._values.get(self._full(key))
        if value is not None and value not in neutral:
            raise CheckpointError(f"{self.file}: {self._full(key)} is {_shown(value)}: {why}, which moesaic cannot run")

    def wrong(self, key: str, value: Any, wanted: str) -> CheckpointError:
        """A sentence for a value that cannot stand there."""
        found = "missing" if value is None else _shown(value)
        return CheckpointError(f"{self.file}: {self._full(key)} is {found}, it must be {wanted}")

    def _full(self, key: str) -> str:
        return f"{self.architecture}{key}" if key.startswith(".") else key


def _shown(value: Any) -> str:
    text = f"an array of {len(value):,}" if isinstance(value, list | np.ndarray) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

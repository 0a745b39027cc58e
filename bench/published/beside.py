"""What a run beside peers says, by contestant, threads and streams."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from .figures import result


class Beside:
    """The JSON of `python -m moesaic.bench.peers.run`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self._decode = {(each["contestant"], each["threads"], each["batch"]): each for each in values["decode"]}
        self._first = {(each["contestant"], each["threads"]): each for each in values["first_token"]}

    def rate(self, name: str, streams: int, threads: int = 2) -> float:
        """Tokens per second, the median of the rounds."""
        found: float = self._decode[name, threads, streams]["tokens_per_second"]
        return found

    def times(self, name: str, other: str, streams: int, threads: int = 2) -> float:
        """How many times as fast as another in the same run."""
        return self.rate(name, streams, threads) / self.rate(other, streams, threads)

    def of_limit(self, name: str, streams: int = 1, threads: int = 2) -> float:
        """The part of what reading the weights once a step would allow."""
        limit: float = self._decode[name, threads, streams]["limit_tokens_per_second"]
        return self.rate(name, streams, threads) / limit

    def first(self, name: str, threads: int = 2) -> float:
        """Seconds to the first token of the long prompt."""
        found: float = self._first[name, threads]["seconds"]
        return found

    def bytes(self, name: str) -> int:
        """Weights that a token reads."""
        found: int = self.values["contestants"][name]["token_bytes"]
        return found


@cache
def beside(name: str) -> Beside:
    """The run of this name below bench/results/peers/."""
    return Beside(result(f"peers/{name}"))

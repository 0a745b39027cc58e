"""What a run beside peers says, by contestant and streams, each at the number of threads that suits it best."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from .figures import result


class Beside:
    """The JSON of `python -m moesaic.bench.peers.run`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self._decode = {(each["contestant"], each["batch"], each["threads"]): each for each in values["decode"]}
        self._first = {(each["contestant"], each["threads"]): each["seconds"] for each in values["first_token"]}

    @property
    def peers(self) -> list[str]:
        """Those that took part, in the order of their turns."""
        return list(self.values["peers"])

    @property
    def streams(self) -> list[int]:
        """How many streams ran together, where it is more than one."""
        return [batch for batch in self.values["batches"] if batch > 1]

    @property
    def makers(self) -> list[str]:
        """Peers by the name before the quantization."""
        return list(dict.fromkeys(name.rpartition(" ")[0] for name in self.peers))

    def rate(self, name: str, streams: int, threads: int | None = None) -> float:
        """Tokens per second, the median of the rounds; of the best number of threads where none is named."""
        counts = [threads] if threads else self.values["threads"]
        return max(float(self._decode[name, streams, count]["tokens_per_second"]) for count in counts)

    def times(self, name: str, other: str, streams: int, threads: int | None = None) -> float:
        """How many times as fast as another in the same run."""
        return self.rate(name, streams, threads) / self.rate(other, streams, threads)

    def of_limit(self, name: str, threads: int) -> float:
        """The part of what reading the weights once a step would allow, with one stream."""
        return self.rate(name, 1, threads) / float(self._decode[name, 1, threads]["limit_tokens_per_second"])

    def first(self, name: str) -> float:
        """Seconds to the first token of the long prompt."""
        return min(float(self._first[name, count]) for count in self.values["threads"])

    def bytes(self, name: str) -> int:
        """Weights that a token reads."""
        return int(self.values["contestants"][name]["token_bytes"])


@cache
def beside(name: str) -> Beside:
    """The run of this name below bench/results/peers/."""
    return Beside(result(f"peers/{name}"))

"""Requests of a load that never happened, for tests of what is made of them."""

from array import array

from moesaic.bench.load.arrivals import Asked
from moesaic.bench.load.door import OK
from moesaic.bench.load.drive import Driven, Record


def record(meant: float, arrivals: list[float], end: str = OK, tier: str = "") -> Record:
    asked = Asked(8, len(arrivals), tier, meant)
    return Record(asked, meant, array("d", arrivals), len(arrivals), 8, arrivals[-1] if arrivals else meant + 1, end)


def driven(*records: Record, gone: str = "", stepped: float = 0.0, limit: bool = False) -> Driven:
    return Driven([*records], 10.0, {"was_the_limit": limit}, gone, stepped)

"""How far a sum over a run may be off by chance, where what is near in time is alike: a batch, a slow spell.

The run is cut into blocks of time, and how blocks differ tells how the whole would, had it been measured again (batch
means; Law and Carson 1979). Blocks that are shorter than what ties requests together tell too little (Flyvbjerg and
Petersen 1989), so that few long and many short ones are tried and the widest interval is taken; of so many blocks each
is as wide as Student's t. What lasts longer than a sixth of the run is not seen.
"""

import numpy as np
from numpy.typing import NDArray

from ..evaluate.statistics import Interval

TWO_SIDED = 1.96
_STUDENT = {6: 2.571, 12: 2.201, 24: 2.069}  # blocks: t of one fewer at 97.5 %
Floats = NDArray[np.float64]


def reach_of_sum(values: Floats, places: Floats, expected: float = 0.0) -> float:
    """Half of the 95 % interval of a sum. places: of each value in the run, from 0 to 1. expected: of the whole sum."""
    return max(
        student
        * float(np.sqrt(count / (count - 1) * np.square(_blocks(values, places, count) - expected / count).sum()))
        for count, student in _STUDENT.items()
    )


def counted_interval(values: Floats, places: Floats) -> Interval:
    """95 % of a sum of what events bring, each as it comes: at least the noise of so many events of a Poisson process.

    Gamma, by as many events as have this relative variance (Fay and Feuer 1997), in the form of Byar.
    """
    total = float(values.sum())
    variance = max(float(np.square(values).sum()), (reach_of_sum(values, places, total) / TWO_SIDED) ** 2)
    if not total:
        return Interval(0.0, _above(0.0))
    count = total * total / variance
    return Interval(total * _below(count) / count, total * _above(count) / count)


def _blocks(values: Floats, places: Floats, count: int) -> Floats:
    numbers = np.clip((places * count).astype(np.int64), 0, count - 1)
    return np.bincount(numbers, values, count).astype(np.float64)


def _below(count: float) -> float:
    return float(count * max(0.0, 1 - 1 / (9 * count) - TWO_SIDED / (3 * count**0.5)) ** 3)


def _above(count: float) -> float:
    more = count + 1
    return float(more * (1 - 1 / (9 * more) + TWO_SIDED / (3 * more**0.5)) ** 3)

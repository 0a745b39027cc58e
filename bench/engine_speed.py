"""Tokens per second of the engine beside its peers: same prompts, same lengths, rounds taken in turn."""

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

from ..models.progress import Progress
from .contestants import Contestant, Prompts
from .energy import energy_of
from .figure import ratio_of_rounds

BATCHES = (1, 8)


def measure_speed(
    contestants: Sequence[Contestant], prompts: Prompts, num_new: int, rounds: int, progress: Progress
) -> dict[str, dict[str, dict[str, Any]]]:
    """{contestant: {batch: tokens_per_second, best and median of the rounds}}; each is warmed up once per batch.

    Each one's time is also told beside that of the last contestant, round by round, which two runs may be compared by.
    Contestants alternate within a round, so that a machine whose speed drifts favours nobody. Energy is of calls of its
    own, since counters need longer than a round.
    """
    seconds: dict[tuple[str, int], list[float]] = {}
    total, done = len(BATCHES) * (rounds + 1), 0
    for batch in BATCHES:
        for turn in range(rounds + 1):
            for contestant in contestants:
                taken = contestant.generate(prompts[:batch], num_new if turn else 2)
                if turn:
                    seconds.setdefault((contestant.name, batch), []).append(taken)
            done += 1
            progress("rounds of tokens per second", done, total)
    last = contestants[-1].name  # a peer, where there is one
    return {
        contestant.name: {
            str(batch): _rates(seconds[contestant.name, batch], seconds[last, batch], batch * num_new)
            | energy_of(partial(contestant.generate, prompts[:batch], num_new), batch * num_new)
            for batch in BATCHES
        }
        for contestant in contestants
    }


def _rates(seconds: Sequence[float], theirs: Sequence[float], num_tokens: int) -> dict[str, Any]:
    return {
        "tokens_per_second": round(num_tokens / median(seconds), 2),
        "best_tokens_per_second": round(num_tokens / min(seconds), 2),
        "time_beside_the_last": ratio_of_rounds(seconds, theirs).as_json(),
    }

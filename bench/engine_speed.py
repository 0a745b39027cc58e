"""Tokens per second of the engine beside its peers: same prompts, same lengths, rounds taken in turn."""

from collections.abc import Sequence
from statistics import median

from ..models.progress import Progress
from .contestants import Contestant, Prompts

BATCHES = (1, 8)


def measure_speed(
    contestants: Sequence[Contestant], prompts: Prompts, num_new: int, rounds: int, progress: Progress
) -> dict[str, dict[str, dict[str, float]]]:
    """{contestant: {batch: tokens_per_second, best and median of the rounds}}; each is warmed up once per batch.

    Contestants alternate within a round, so that a machine whose speed drifts favours nobody.
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
    return {
        contestant.name: {str(batch): _rates(seconds[contestant.name, batch], batch * num_new) for batch in BATCHES}
        for contestant in contestants
    }


def _rates(seconds: Sequence[float], num_tokens: int) -> dict[str, float]:
    return {
        "tokens_per_second": round(num_tokens / median(seconds), 2),
        "best_tokens_per_second": round(num_tokens / min(seconds), 2),
    }

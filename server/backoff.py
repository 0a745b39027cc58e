"""The pauses between tries: each about twice as long as the one before, up to a limit, none two alike."""

import random

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 60.0


def pause_seconds(tries: int) -> float:
    """For how long to wait after so many tries in a row that failed: half of the longest pause at least."""
    longest = min(FIRST_SECONDS * 2.0 ** min(tries, 32), LONGEST_SECONDS)
    return longest * random.uniform(0.5, 1.0)

"""How much of the prompts a step may read, so that it ends in time. No torch."""

_LONGEST_STEP_SECONDS = 0.25  # of a step in which nobody decodes: a new or cancelled request waits no longer
_STALL = 0.6  # what reading may add to a step of those who decode, as a part of its length
_LEAST_TOKENS, _FIRST_TOKENS = 8, 64
_WEIGHT = 0.2  # of the newest measurement


class Pace:
    """Learns seconds = decoding(rows) + reading * tokens from the steps that were, each as a mean that forgets."""

    def __init__(self) -> None:
        self._decoding: dict[int, float] = {}  # by rows
        self._reading: float | None = None  # seconds a token

    def allowance(self, rows: int, most: int) -> int:
        """Tokens of prompts that a step beside so many decoding rows may read, at most `most`."""
        decoding = self._decoding_seconds(rows)
        if self._reading is None or decoding is None:
            return min(most, _FIRST_TOKENS) if rows else most
        limit = _STALL * decoding if rows else _LONGEST_STEP_SECONDS
        return most if self._reading <= 0 else max(min(most, _LEAST_TOKENS), min(most, int(limit / self._reading)))

    def first_token_seconds(self, tokens: int, rows: int) -> float:
        """What a prompt of so many tokens takes at least beside so many decoding rows; 0 while nothing is known."""
        steps = -(-tokens // max(1, self.allowance(rows, tokens)))
        return (self._reading or 0.0) * tokens + steps * (self._decoding_seconds(rows) or 0.0)

    def learn(self, rows: int, tokens: int, seconds: float) -> None:
        """Learns from one step: rows that decoded, tokens of prompts that were read, its length."""
        if not tokens:
            self._decoding[rows] = _mean(self._decoding.get(rows), seconds)
            return
        rest = seconds - (self._decoding_seconds(rows) or 0.0)
        self._reading = _mean(self._reading, max(rest, 0.0) / tokens)

    def _decoding_seconds(self, rows: int) -> float | None:
        """The seconds of a step of as many rows, or of the nearest number that was seen."""
        if not rows:
            return 0.0
        nearest = min(self._decoding, key=lambda seen: abs(seen - rows), default=None)
        return None if nearest is None else self._decoding[nearest]


def _mean(known: float | None, new: float) -> float:
    return new if known is None else known + _WEIGHT * (new - known)

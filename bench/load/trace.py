"""Requests as they once came: a CSV of times, prompt tokens and answer tokens, replayed as fast as one likes."""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ...models.errors import TextError
from .arrivals import Asked, Lengths, Level, tier_of

# The columns of the Azure LLM inference traces (Patel et al. 2024), of BurstGPT (Wang et al. 2024), and plain ones.
_TIMES = ("timestamp", "seconds")
_PROMPTS = ("contexttokens", "request tokens", "prompt_tokens")
_ANSWERS = ("generatedtokens", "response tokens", "new_tokens")
_MOST_TOKENS = 1 << 20


def replay(file: Path, speed: float, seconds: float, longest: int, tiers: Mapping[str, float], seed: int) -> Level:
    """The first `seconds` of a trace that is played `speed` times as fast, lengths cut to `longest` tokens in all.

    Raises TextError, which names the line, for a file that is no such table, or has a row that is no request.
    """
    draw = random.Random(seed)
    rows = [row for row in _rows(file) if row[0] / speed < seconds]
    requests = tuple(Asked(*_cut(prompt, new, longest), tier_of(tiers, draw), at / speed) for at, prompt, new in rows)
    if not requests:
        raise TextError(f"{file}: there is no request in the first {seconds * speed:g} s of this trace")
    return Level(f"{file.name} x{speed:g}", requests, seconds)


def lengths_of(file: Path, longest: int) -> Lengths:
    """Those of all requests of a trace, a prompt with its answer, cut as `replay` does. Raises TextError as it does."""
    pairs = tuple(_cut(prompt, new, longest) for _, prompt, new in _rows(file))
    if not pairs:
        raise TextError(f"{file}: there is no request in this trace, so no length to draw")
    return Lengths(pairs=pairs)


def _cut(prompt: int, new: int, longest: int) -> tuple[int, int]:
    new = max(1, min(new, longest - 1))
    return max(1, min(prompt, longest - new)), new


def _rows(file: Path) -> Iterator[tuple[float, int, int]]:
    """Seconds since the first, prompt and answer tokens, in the order of time."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TextError(f"{file}: is not UTF-8 text; a trace is a CSV file") from None
    lines = csv.reader(text.splitlines())
    columns = _columns(file, next(lines, []))
    found = sorted(_row(file, number, line, columns) for number, line in enumerate(lines, 2) if line)
    return ((at - found[0][0], prompt, new) for at, prompt, new in found)


def _columns(file: Path, head: Sequence[str]) -> tuple[int, int, int]:
    names = [name.strip().lower() for name in head]
    at, prompt, new = (
        next((names.index(one) for one in known if one in names), None) for known in (_TIMES, _PROMPTS, _ANSWERS)
    )
    if at is None or prompt is None or new is None:
        raise TextError(
            f"{file}: the first line must name a time ({', '.join(_TIMES)}), prompt tokens ({', '.join(_PROMPTS)}) and "
            f"answer tokens ({', '.join(_ANSWERS)}); it names {', '.join(head) or 'nothing'}"
        )
    return at, prompt, new


def _row(file: Path, number: int, line: Sequence[str], columns: tuple[int, int, int]) -> tuple[float, int, int]:
    try:
        at, prompt, new = (line[column].strip() for column in columns)
        row = _seconds(at), int(prompt), int(new)
    except (ValueError, IndexError):
        raise TextError(f"{file}, line {number}: is no request: {','.join(line)[:80]!r}; mend or delete it") from None
    if not 0 <= row[0] < 1e12 or not 0 <= row[1] <= _MOST_TOKENS or not 0 <= row[2] <= _MOST_TOKENS:
        raise TextError(
            f"{file}, line {number}: a time is from 0 on and tokens are at most {_MOST_TOKENS:,}, not as in "
            f"{','.join(line)[:80]!r}; mend or delete it"
        )
    return row


def _seconds(text: str) -> float:
    """A number of seconds, or a date and time; what is finer than a microsecond is left out."""
    try:
        return float(text)
    except ValueError:
        whole, _, part = text.partition(".")
        return datetime.fromisoformat(f"{whole}.{part[:6]:0<6}+00:00").timestamp()

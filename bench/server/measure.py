"""What all parts of a run measure by: shares of values, growth, and whether the generator was itself the limit."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..serving import percentile

_BUSY, _LATE_SECONDS = 0.9, 0.005


def milliseconds(values: Sequence[float], *shares: float) -> dict[str, float]:
    """{p50: ...} of seconds; nothing where there are none."""
    return {f"p{100 * share:g}": round(percentile(values, share) * 1e3, 3) for share in shares} if values else {}


def factor(counts: Mapping[int, int]) -> float | None:
    """The largest over the smallest; None where somebody got nothing."""
    least = min(counts.values(), default=0)
    return round(max(counts.values()) / least, 2) if least else None


def growth(before: int, after: int) -> dict[str, float]:
    """Of memory, from bytes to bytes."""
    return {
        "before_mb": round(before / 1e6, 1), "after_mb": round(after / 1e6, 1),
        "grown_mb": round((after - before) / 1e6, 2), "grown_share": round(after / before - 1, 4) if before else 0.0,
    }  # fmt: skip


@dataclass(slots=True)
class Generator:
    """Looks at this process while it measures: its processor time, and how late it did what it meant to do."""

    began: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.process_time)
    lateness: list[float] = field(default_factory=list)

    def late(self, seconds: float) -> None:
        """Notes how much later than it was meant to something was sent."""
        self.lateness.append(max(0.0, seconds))

    def figures(self) -> dict[str, object]:
        """Since it was made. was_the_limit: it had no time left, or was late at p99."""
        share = (time.process_time() - self.used) / max(time.monotonic() - self.began, 1e-9)
        late = percentile(self.lateness, 0.99) if self.lateness else 0.0
        return {
            "busy_share": round(share, 3), "late_ms_p99": round(late * 1e3, 3),
            "was_the_limit": share > _BUSY or late > _LATE_SECONDS,
        }  # fmt: skip

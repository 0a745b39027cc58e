"""What is known of a request that has texts read and nothing written: a span, if somebody asked for those."""

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from ..engine.completion import Usage
from .request_log import names_of, outcome_of
from .running import Running

if TYPE_CHECKING:
    from .tracing import Tracing


class ReadingRecord(AbstractContextManager["ReadingRecord"]):
    """Told as a span when the block ends, however it ends. operation: what was asked for, as the span is named.

    model: the name of the one that is served, once it is found. tier: at which texts are read; empty is full.
    """

    def __init__(self, operation: str, request_id: str, model: str, tier: str, tracing: "Tracing | None") -> None:
        self.model = ""
        self.arrived = time.monotonic()
        self._operation, self._tier, self._tracing = operation, tier or "full", tracing
        self._names = names_of(request_id, model)
        self._usages: list[Usage] = []  # of the texts that were read

    def note(self, running: Running) -> None:
        """Takes in what one text has cost, once it is read."""
        self._usages.append(running.receipt.usage(0))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracing is None:
            return
        outcome, seconds = outcome_of(error, answered=error is None), time.monotonic() - self.arrived
        figures = self._figures() if error is None else {}
        self._tracing.ended(self._operation, {**self._names, "model": self.model}, outcome, figures, seconds)

    def _figures(self) -> dict[str, str | int | float]:
        """Sums over the texts, and the mean of the shares that were told."""
        usages = self._usages
        shares = {
            f"moesaic.{name}": [share for usage in usages if (share := getattr(usage, name)) is not None]
            for name in ("bytes_share", "neurons_share")
        }
        return {
            "gen_ai.usage.input_tokens": sum(usage.prompt_tokens for usage in usages),
            "moesaic.cached_prompt_tokens": sum(usage.cached_prompt_tokens for usage in usages),
            "moesaic.texts": len(usages),
            "moesaic.tier_asked": self._tier,
            "moesaic.tier_used": self._tier,
            **{name: sum(told) / len(told) for name, told in shares.items() if told},
        }

"""What is known of one request: a JSON line in the log and a span, if asked for, and figures. Never the prompt, never
the text.
"""

import json
import logging
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from ..models.errors import MoesaicError
from ..proto import generation_pb2 as pb
from .caller import this_caller
from .status import code_of

if TYPE_CHECKING:
    from .metrics import Metrics
    from .tracing import Tracing

_MAX_NAME_CHARACTERS = 64

requests_log = logging.getLogger("moesaic.requests")


class RequestRecord(AbstractContextManager["RequestRecord"]):
    """What is known of one request; logged, counted and told as a span when the block ends, however it ends.

    model: the name of the one that is served, once it is found; until then the log has what was asked for.
    """

    def __init__(
        self, request_id: str, model: str, enabled: bool, metrics: "Metrics | None" = None,
        tracing: "Tracing | None" = None,
    ) -> None:  # fmt: skip
        self.model = ""
        self.last: pb.GenerateChunk | None = None  # the chunk with usage and timing
        self.arrived = time.monotonic()
        self._told_at: float | None = None  # the newest tokens
        self._names = names_of(request_id, model)
        self._enabled, self._metrics, self._tracing = enabled, metrics, tracing

    def note(self, chunk: pb.GenerateChunk) -> None:
        """Takes in a part of the answer on its way to the caller."""
        if chunk.HasField("timing"):
            self.last = chunk
        if self._metrics is None or not chunk.token_ids:
            return
        now = time.monotonic()
        if self._told_at is None:
            self._metrics.first_token(self.model, now - self.arrived)
        else:
            self._metrics.next_tokens(self.model, len(chunk.token_ids), now - self._told_at)
        self._told_at = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome, seconds = outcome_of(error, self.last is not None), time.monotonic() - self.arrived
        if self._metrics is not None:
            self._metrics.ended(self.model, outcome, self.last, seconds)
        if self._tracing is not None:
            figures = {} if self.last is None else receipt_figures(self.last)
            self._tracing.ended("generate", {**self._names, "model": self.model}, outcome, figures, seconds)
        if self._enabled:
            self._names["model"] = self.model or self._names["model"]
            requests_log.info(json.dumps({**self._names, **outcome, **self._figures()}))

    def _figures(self) -> dict[str, str | int | float]:
        total = round(time.monotonic() - self.arrived, 6)
        if self.last is None:
            return {"total_seconds": total}
        usage, timing = self.last.usage, self.last.timing
        return {
            "tier_asked": usage.tier_asked,
            "tier": usage.tier_used,
            "cached_prompt_tokens": usage.cached_prompt_tokens,
            **({"bytes_share": round(usage.bytes_share, 6)} if usage.HasField("bytes_share") else {}),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "finish": pb.Finish.Reason.Name(self.last.finish.reason),
            "queue_seconds": round(timing.queue_seconds, 6),
            "prefill_seconds": round(timing.prefill_seconds, 6),
            "decode_seconds": round(timing.decode_seconds, 6),
            "total_seconds": total,
        }


def names_of(request_id: str, model: str) -> dict[str, str]:
    """Which request it is, of which model and whose, cut where a caller writes too much."""
    names = {"request_id": request_id[:_MAX_NAME_CHARACTERS], "model": model[:_MAX_NAME_CHARACTERS]}
    caller = this_caller().name
    return {**names, "caller": caller} if caller else names


def outcome_of(error: BaseException | None, answered: bool) -> dict[str, str]:
    """The status that a caller sees, and the reason where it was refused. answered: whether all of it was told."""
    if isinstance(error, MoesaicError):
        code, reason = code_of(error)
        return {"status": code.name, "reason": reason}
    if isinstance(error, Exception):
        return {"status": "INTERNAL"}
    return {"status": "OK" if answered else "CANCELLED"}


def receipt_figures(last: pb.GenerateChunk) -> dict[str, str | int | float]:
    """The receipt of an answer as attributes, and under the names that others have for some of it.

    last: the chunk with usage and timing.
    """
    usage, timing = last.usage, last.timing
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "moesaic.finish": pb.Finish.Reason.Name(last.finish.reason).lower(),
        **{f"moesaic.{field.name}": value for field, value in (*usage.ListFields(), *timing.ListFields())},
    }

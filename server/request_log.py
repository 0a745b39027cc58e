"""One JSON line per request in the log, if asked for. Never the prompt, never the text."""

import json
import logging
import time
from contextlib import AbstractContextManager
from types import TracebackType

from ..models.errors import MoesaicError
from ..proto import generation_pb2 as pb
from .caller import this_caller
from .status import refusal

_MAX_NAME_CHARACTERS = 64

requests_log = logging.getLogger("moesaic.requests")


class RequestRecord(AbstractContextManager["RequestRecord"]):
    """What is known of one request; written when the block ends, however it ends."""

    def __init__(self, request_id: str, model: str, enabled: bool) -> None:
        self.last: pb.GenerateChunk | None = None  # the chunk with usage and timing
        self.arrived = time.monotonic()
        self._names = {"request_id": request_id[:_MAX_NAME_CHARACTERS], "model": model[:_MAX_NAME_CHARACTERS]}
        if caller := this_caller().name:
            self._names["caller"] = caller
        self._enabled = enabled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            requests_log.info(json.dumps({**self._names, **self._outcome(error), **self._figures()}))

    def _outcome(self, error: BaseException | None) -> dict[str, str]:
        if isinstance(error, MoesaicError):
            told = refusal(error)
            return {"status": told.code.name, "reason": told.reason}
        if isinstance(error, Exception):
            return {"status": "INTERNAL"}
        return {"status": "OK" if self.last is not None else "CANCELLED"}

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

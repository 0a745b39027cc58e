"""From the tokens of one running request to the chunks that its caller sees."""

import time
from collections.abc import AsyncIterator

from ..engine.request import FinishReason, Row
from ..engine.settings import Asked
from ..engine.text import TextStream
from ..models.errors import RequestFailed
from ..models.tokenizer import Tokenizer
from ..proto import generation_pb2 as pb
from .running import Running


async def answer(
    running: Running, asked: Asked, tokenizer: Tokenizer, arrived: float
) -> AsyncIterator[pb.GenerateChunk]:
    """Chunks up to the one with finish, usage and timing. What waits while a chunk is sent goes out as one.

    Raises RequestFailed when the engine failed on this request. `arrived` is a time.monotonic().
    """
    text = asked.text_stream(tokenizer)
    last: Row | None = None
    while last is None and text.stopped is None:
        token_ids, last = await running.take()
        if last is not None and last.finish is FinishReason.FAILED:
            raise RequestFailed(last.error)
        start = text.num_tokens_used
        shown = text.push(token_ids)
        used = token_ids[: text.num_tokens_used - start]
        chunk = pb.GenerateChunk(text=shown, token_ids=used, first_token_index=start)
        if last is not None or text.stopped is not None:
            chunk.text += text.finish()
            _close(chunk, text, last)
            chunk.usage.prompt_tokens = len(asked.request.prompt_ids)
            chunk.usage.completion_tokens = text.num_tokens_used
            chunk.usage.tier_used = asked.tier
            if running.shares is not None:
                chunk.usage.ffn_bytes_share, chunk.usage.ffn_neurons_share = running.shares
            _time(chunk.timing, running, arrived)
        yield chunk


def _close(chunk: pb.GenerateChunk, text: TextStream, last: Row | None) -> None:
    """Says why the answer ends here; a stop string comes first, it may cut off what the engine said later."""
    if text.stopped is not None:
        chunk.finish.reason = pb.Finish.STOP_STRING
        chunk.finish.text = text.stopped
    elif last is not None and last.finish is not None:
        chunk.finish.MergeFrom(pb.Finish(reason=last.finish.name))
        if last.stop_token_id is not None:
            chunk.finish.token_id = last.stop_token_id


def _time(timing: pb.Timing, running: Running, arrived: float) -> None:
    known = running.timing
    timing.queue_seconds = known.queue_seconds
    timing.prefill_seconds = known.prefill_seconds
    timing.decode_seconds = known.decode_seconds
    timing.total_seconds = time.monotonic() - arrived

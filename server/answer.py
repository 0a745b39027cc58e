"""From the tokens of one running request to the chunks that its caller sees."""

import time
from collections.abc import AsyncIterator

from ..engine.request import FinishReason, Row
from ..engine.settings import Asked
from ..engine.text import TextStream
from ..models.errors import RequestFailed
from ..models.tokenizer import Tokenizer
from ..proto import generation_pb2 as pb
from .fields import logprobs_message
from .running import Running


async def answer(
    running: Running, asked: Asked, tokenizer: Tokenizer, arrived: float
) -> AsyncIterator[pb.GenerateChunk]:
    """Chunks up to the one with usage and timing. What waits while a chunk is sent goes out as one.

    Raises RequestFailed when the engine failed on this request. `arrived` is a time.monotonic().
    """
    texts = {choice: asked.text_stream(tokenizer) for choice in range(asked.request.sampling.n)}
    waiting = set(texts)  # for their ends
    while waiting:
        for row in await running.take():
            if row.finish is FinishReason.FAILED:
                raise RequestFailed(row.error)
            if row.choice not in waiting:  # a stop string has ended it, which the engine does not know
                continue
            chunk = _chunk(row, texts[row.choice])
            if chunk.HasField("finish"):
                waiting.discard(row.choice)
            if not waiting:
                _use(chunk.usage, running, asked, sum(text.num_tokens_used for text in texts.values()))
                _time(chunk.timing, running, arrived)
            yield chunk


def _chunk(row: Row, text: TextStream) -> pb.GenerateChunk:
    """What a row adds to its answer; with its end, where this is it."""
    start = text.num_tokens_used
    shown = text.push(row.token_ids)
    used = text.num_tokens_used - start
    chunk = pb.GenerateChunk(
        text=shown,
        token_ids=row.token_ids[:used],
        first_token_index=start,
        choice=row.choice,
        logprobs=[logprobs_message(pb.TokenLogprobs, each) for each in row.logprobs[:used]],
        prompt_logprobs=[logprobs_message(pb.TokenLogprobs, each) for each in row.prompt_logprobs],
    )
    if row.finish is not None or text.stopped is not None:
        chunk.text += text.finish()
        _close(chunk, text, row)
    return chunk


def _close(chunk: pb.GenerateChunk, text: TextStream, row: Row) -> None:
    """Says why the answer ends here; a stop string comes first, it may cut off what the engine said later."""
    if text.stopped is not None:
        chunk.finish.reason = pb.Finish.STOP_STRING
        chunk.finish.text = text.stopped
    elif row.finish is not None:
        chunk.finish.MergeFrom(pb.Finish(reason=row.finish.name))
        if row.stop_token_id is not None:
            chunk.finish.token_id = row.stop_token_id


def _use(usage: pb.Usage, running: Running, asked: Asked, num_tokens: int) -> None:
    usage.prompt_tokens, usage.completion_tokens = len(asked.request.prompt_ids), num_tokens
    usage.tier_used = asked.tier
    if running.shares is not None:
        usage.ffn_bytes_share, usage.ffn_neurons_share = running.shares


def _time(timing: pb.Timing, running: Running, arrived: float) -> None:
    known = running.timing
    timing.queue_seconds = known.queue_seconds
    timing.prefill_seconds = known.prefill_seconds
    timing.decode_seconds = known.decode_seconds
    timing.total_seconds = time.monotonic() - arrived

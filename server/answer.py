"""From the tokens of one running request to the chunks that its caller sees."""

import time
from collections.abc import AsyncIterator, Callable

from ..engine.completion import check_row
from ..engine.request import Row
from ..engine.settings import Asked
from ..engine.text import TextStream
from ..models.tokenizer import Tokenizer
from ..proto import generation_pb2 as pb
from .fields import logprobs_message, usage_message
from .running import Running

_ROWS_AT_ONCE = 64  # whose text is made in one go


async def answer(
    running: Running,
    asked: Asked,
    tokenizer: Tokenizer,
    arrived: float,
    end: Callable[[Running, int], None],
    counting: bool = False,
    together: bool = False,
) -> AsyncIterator[pb.GenerateChunk]:
    """Chunks up to the one with usage and timing. What waits while a chunk is sent goes out as one.

    Raises what `check_row` raises. `arrived` is a time.monotonic(). end: called with the number of an answer that a
    stop string ends before others. counting: every chunk says what was used so far. together: all chunks go to the
    caller at once, so that after the first few rows wait for one another where no stop string may come.
    """
    texts = {choice: asked.text_stream(tokenizer) for choice in range(asked.request.sampling.n)}
    waiting = set(texts)  # for their ends
    while waiting:
        for row in await running.take():
            check_row(row, asked.request)
            if row.choice not in waiting:  # a stop string has ended it, which the engine did not know
                continue
            chunk = _chunk(row, texts[row.choice])
            if chunk.HasField("finish"):
                waiting.discard(row.choice)
                if waiting:
                    end(running, row.choice)
            if counting or not waiting:
                tokens = sum(text.num_tokens_used for text in texts.values())
                chunk.usage.CopyFrom(usage_message(running.receipt.usage(tokens)))
            if not waiting:
                _time(chunk.timing, running, arrived)
            yield chunk
        if together and not asked.stop_strings:
            running.at_once = _ROWS_AT_ONCE


def _chunk(row: Row, text: TextStream) -> pb.GenerateChunk:
    """What a row adds to its answer; with its end, where this is it."""
    start = text.num_tokens_used
    shown = text.push(row.token_ids)
    used = text.num_tokens_used - start
    chunk = pb.GenerateChunk(
        text=shown, token_ids=row.token_ids[:used], first_token_index=start, choice=row.choice
    )  # fmt: skip
    if row.logprobs:
        chunk.logprobs.extend(logprobs_message(pb.TokenLogprobs, each) for each in row.logprobs[:used])
    if row.prompt_logprobs:
        chunk.prompt_logprobs.extend(logprobs_message(pb.TokenLogprobs, each) for each in row.prompt_logprobs)
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


def _time(timing: pb.Timing, running: Running, arrived: float) -> None:
    known = running.timing
    timing.queue_seconds = known.queue_seconds
    timing.prefill_seconds = known.prefill_seconds
    timing.decode_seconds = known.decode_seconds
    timing.total_seconds = time.monotonic() - arrived

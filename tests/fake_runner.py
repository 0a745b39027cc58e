"""A model that is a sum over all tokens so far, read back from the blocks in which they were put."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moesaic.engine.engine import Engine
from moesaic.engine.request import Request, Row, Stopping
from moesaic.engine.runner import Forward, Span
from moesaic.engine.sampling import Sampling

VOCABULARY = 97
CONTEXT = 40
BREAKS, NOT_A_NUMBER = 90, 91  # tokens of which the one ends a pass with an exception, the other gives logits of NaN


def after(tokens: Sequence[int]) -> int:
    return sum((i + 1) * token for i, token in enumerate(tokens)) % 89


def expected(prompt: Sequence[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(after(tokens))
    return tokens[len(prompt) :]


class FakeRunner:
    """Blocks of four tokens that remember what was put in them."""

    max_context, vocab_size, block_tokens = CONTEXT, VOCABULARY, 4

    def __init__(self, num_blocks: int = 30) -> None:
        self.num_blocks = num_blocks
        self.blocks: list[list[int]] = [[-1] * self.block_tokens for _ in range(num_blocks)]
        self.steps: list[list[Span]] = []

    def forward(self, spans: Sequence[Span]) -> Forward:
        assert spans, "a step of nothing"
        self.steps.append([Span(tuple(s.token_ids), s.start, tuple(s.table), s.operating_point) for s in spans])
        if any(BREAKS in span.token_ids for span in spans):
            raise RuntimeError("the pass broke")
        for span in spans:
            for position, token in enumerate(span.token_ids, span.start):
                self.blocks[span.table[position // self.block_tokens]][position % self.block_tokens] = token
        rows = [self.logits(span, before) for span in spans for before in reversed(range(span.scored))]
        return Forward(torch.stack(rows))

    def logits(self, span: Span, before: int) -> Tensor:
        """The logits after the last token of a span but `before`."""
        held = [token for block in span.table for token in self.blocks[block]]
        end = span.start + len(span.token_ids)
        seen = held[: end - before]
        assert len(held) >= end <= CONTEXT and -1 not in seen, "a block is lost"
        found = torch.arange(VOCABULARY).float() / 100
        found[after(seen)] = 9.0
        return found * float("nan") if NOT_A_NUMBER in seen else found

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.blocks[target] = [*self.blocks[source]]

    @property
    def read(self) -> list[int]:
        """Tokens of each step."""
        return [sum(len(span.token_ids) for span in step) for step in self.steps]


def request(
    key: int, prompt: Sequence[int], new: int = 5, stopping: dict[str, Any] | None = None, n: int = 1, **more: Any
) -> Request:
    return Request(key, tuple(prompt), Sampling(temperature=0, n=n), Stopping(new, **(stopping or {})), **more)


def finish(engine: Engine, limit: int = 10_000) -> dict[int, list[Row]]:
    """Steps until nothing is left; the rows of each request. No block may be lost on the way."""
    rows: dict[int, list[Row]] = {}
    while engine.has_work:
        limit -= 1
        assert limit, "the engine does not come to an end"
        for row in engine.step():
            rows.setdefault(row.key, []).append(row)
        assert engine.scheduler.differences() == []
    return rows


def tokens_of(rows: Sequence[Row], choice: int = 0) -> list[int]:
    return [token for row in rows for token in row.token_ids if row.choice == choice]


def idle(engine: Engine) -> bool:
    load = engine.load
    books = engine.scheduler.differences()
    return (
        not books and (load.free_slots, load.free_blocks) == (load.num_slots, load.num_blocks) and not engine.has_work
    )

"""Sequences that advance together, without a scheduler: for whoever times the model and not the engine."""

from collections.abc import Sequence

from .runner import Forward, ModelRunner, Span


class Lockstep:
    """`rows` sequences of at most `context` tokens, each over blocks of its own."""

    def __init__(self, runner: ModelRunner, rows: int, context: int) -> None:
        each = self.blocks(context, 1)
        self.runner = runner
        self._tables = [range(row * each, (row + 1) * each) for row in range(rows)]

    @staticmethod
    def blocks(context: int, rows: int) -> int:
        """The number of blocks that a runner needs for it."""
        return rows * -(-context // ModelRunner.block_tokens)

    def prefill(self, row: int, token_ids: Sequence[int], operating_point: float = 0.0) -> Forward:
        """Reads a prompt; logits [1, vocab] after the last of its tokens."""
        return self.runner.forward([Span(token_ids, 0, self._tables[row], operating_point)])

    def decode(self, token_ids: Sequence[int], position: int, operating_point: float = 0.0) -> Forward:
        """The next token of the first rows, all at this position; logits [rows, vocab]."""
        return self.runner.forward(self.spans(token_ids, position, operating_point))

    def spans(self, token_ids: Sequence[int], position: int, operating_point: float = 0.0) -> list[Span]:
        """What `decode` computes."""
        return [
            Span([token], position, table, operating_point, decodes=True)
            for token, table in zip(token_ids, self._tables, strict=False)
        ]

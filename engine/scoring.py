"""Reading text to score it: states of all tokens of one sequence, through the blocks and kernels that serve.

As when it is served, what is scored is computed at the model's operating point and what stands before it, as a prompt
would, at the full tier.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.paged_attention import BLOCK_TOKENS, gathered
from ..kernels.weighing import PLAIN, Weighing, mixed
from ..models.spec import INT8
from ..models.transformer import Transformer
from .pages import Pages
from .runner import ModelRunner, Span

READ_TOKENS = 512  # that go through the model together


class Reader:
    """One sequence of at most `max_context` tokens, its keys and values kept as an engine would by default.

    scored: of all that was computed at the model's operating point, (tokens, bytes, neurons), the last two as sums
    of each token's share.
    """

    def __init__(self, model: Transformer, max_context: int) -> None:
        self._table = range(-(-max_context // BLOCK_TOKENS))
        int8 = model.spec.kv_cache == INT8  # as it is served
        dtype = model.norm.weight.dtype
        self._runner = ModelRunner(model, len(self._table), max_context, dtype, int8_pages=int8, programmed=False)
        self.model, self.max_context, self.device = model, max_context, self._runner.device
        self.vocab_size = self._runner.vocab_size
        self.scored = (0, 0.0, 0.0)

    def read(self, token_ids: Sequence[int], start: int, context: int = 0) -> Tensor:
        """States [tokens, hidden] of these, behind the first `start` that were read before.

        context: tokens of the whole sequence that are read at the full tier.
        """
        point, states = self.model.operating_point, []
        split = min(max(context - start, 0), len(token_ids)) if point else 0
        for first, some, at in ((start, token_ids[:split], 0.0), (start + split, token_ids[split:], point)):
            if some:
                found, compute = self._runner.states([Span(some, first, self._table, at)])
                states.append(found)
                if at == point:
                    self._note(compute.spent.columns(1, self.device) if compute else None, len(some))
        return torch.cat(states)

    @torch.inference_mode()
    def branches(self, branches: Sequence[Sequence[int]], start: int, contexts: Sequence[int] | None = None) -> Tensor:
        """States [all tokens of all branches, hidden] of several ways to go on behind the first `start` tokens.

        One pass; no branch sees another, and what was read stays as it is. contexts: of each branch, how many tokens
        are read at the full tier.
        """
        lengths = [len(branch) for branch in branches]
        ids = torch.tensor([[token] for branch in branches for token in branch], device=self.device)
        positions = torch.cat([torch.arange(start, start + length) for length in lengths]).to(self.device)
        before = contexts or [0] * len(branches)
        point = self.model.operating_point
        points = [
            0.0 if i < held else point for length, held in zip(lengths, before, strict=True) for i in range(length)
        ]
        compute = self.model.compute_of(points) if self.model.spec.num_tiers > 1 else None
        context = _BranchContext(self._runner.pages, self._table, start, lengths)
        states = self.model.hidden(ids, positions.unsqueeze(1), context, compute)[:, 0]
        own = [row for row, each in enumerate(points) if each == point]
        self._note(compute.spent.columns(1, self.device)[own] if compute else None, len(own))
        return states

    @torch.inference_mode()
    def head(self, states: Tensor) -> Tensor:
        """Logits [tokens, vocab] of states [tokens, hidden], at the model's operating point."""
        point = self.model.operating_point
        if not point or self.model.thresholds is None:
            return self.model.head(states)
        compute = self.model.compute_of([point] * len(states))
        logits = self.model.head(states, compute)
        read = compute.spent.columns(1, self.device)[:, 0]
        tokens, num_bytes, neurons = self.scored
        self.scored = (tokens, num_bytes + float(read.sum()), neurons)
        return logits

    def _note(self, shares: Tensor | None, tokens: int) -> None:
        """shares: [tokens, 2] of bytes and neurons; None is all of them."""
        num_bytes, neurons = (tokens, tokens) if shares is None else shares.sum(0).tolist()
        before = self.scored
        self.scored = (before[0] + tokens, before[1] + num_bytes, before[2] + neurons)


class _BranchContext:
    """Sequences of these lengths, one after the other, each going on behind the first `start` tokens of a table."""

    def __init__(self, pages: Pages, table: Sequence[int], start: int, lengths: list[int]) -> None:
        self._pages, self._start = pages, start
        device = pages.layers[0].keys.device
        self._blocks = torch.tensor([list(table[: -(-start // BLOCK_TOKENS)])], device=device)
        branch = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
        own = branch == branch.unsqueeze(1)
        self._mask = torch.cat([own.new_ones(len(branch), start), own], dim=1)  # [tokens, start + tokens]
        self._own = start + torch.cat([torch.arange(length, device=device) for length in lengths])
        self._all = torch.cat([torch.arange(start, device=device), self._own])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        """Attends over what is held and the branch itself; stores nothing. query: [tokens, heads, 1, size]."""
        query, key, value = (each[:, :, 0].transpose(0, 1).unsqueeze(0) for each in (query, key, value))
        if self._start:
            held = gathered(self._pages.layers[layer], self._blocks, key.shape[-1], key.dtype)
            key, value = (
                torch.cat([old[:, :, : self._start], new], dim=2) for old, new in zip(held, (key, value), strict=True)
            )
        seen = self._mask & weighing.seen(self._own, self._all)
        return mixed(query, key, value, seen, weighing)[0].transpose(0, 1).unsqueeze(2)

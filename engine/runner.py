"""What the scheduler needs of a model: prefill a slot, decode all running slots, move a slot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.compute import Compute
from ..models.step_share import StepShare
from ..models.transformer import Transformer
from .slots import BranchContext, DecodeContext, PrefillContext, SlotCache


@dataclass(frozen=True, slots=True)
class Forward:
    """logits [vocab] of a prefill, [rows, vocab] of a decode step.

    shares: for each row the shares of the FFN's bytes and of its neurons that its tokens used, a mean over them; empty
    where the model has one tier only.
    """

    logits: Tensor
    shares: Sequence[tuple[float, float]] = ()


class Runner(Protocol):
    """A model with slots. Twenty lines make a fake one, and the scheduler is tested with that."""

    num_slots: int
    max_context: int
    vocab_size: int

    def prefill(self, slot: int, token_ids: Sequence[int], start: int, operating_point: float) -> Forward:
        """Puts tokens at start, start+1 ... of a slot, at this operating point; logits after the last of them."""
        ...

    def decode(self, token_ids: Sequence[int], positions: Sequence[int], operating_points: Sequence[float]) -> Forward:
        """One token for each of the slots 0 .. n-1, at its position and operating point."""
        ...

    def move(self, source: int, target: int, num_tokens: int) -> None:
        """Makes the first num_tokens of slot `target` those of slot `source`."""
        ...


class ModelRunner:
    """The Transformer over a slot cache. Rows of a batch do not see each other, unless they choose together.

    step: what the rows of a decode step may read together. scored: of what `prefill_states` and `branch_states`
    computed, (tokens, FFN bytes, neurons), the last two as sums of each token's share.
    """

    def __init__(
        self, model: Transformer, num_slots: int, max_context: int, dtype: torch.dtype, step: StepShare | None = None
    ) -> None:
        self.model, self._step = model, step
        self.num_slots, self.max_context, self.vocab_size = num_slots, max_context, model.spec.vocab_size
        self.device = model.norm.weight.device
        self.cache = SlotCache(model.spec, num_slots, max_context, dtype, self.device)
        self.scored = (0, 0.0, 0.0)

    @torch.inference_mode()
    def prefill(self, slot: int, token_ids: Sequence[int], start: int, operating_point: float = 0) -> Forward:
        compute = self._compute([operating_point])
        states = self._prefill(slot, token_ids, start, compute)
        return Forward(self.head(states[-1:])[0], compute.spent.shares(len(token_ids)) if compute else ())

    @torch.inference_mode()
    def prefill_states(self, slot: int, token_ids: Sequence[int], start: int) -> Tensor:
        """`prefill` for whoever scores: the states of all its tokens, [tokens, hidden], at the model's own tier."""
        compute = self._compute([self.model.operating_point])
        states = self._prefill(slot, token_ids, start, compute)
        self._note(compute, len(token_ids))
        return states

    @torch.inference_mode()
    def branch_states(self, slot: int, branches: Sequence[Sequence[int]], start: int) -> Tensor:
        """States [all tokens of all branches, hidden] of several ways to go on after `start` tokens of a slot.

        One pass; no branch sees another, and the slot stays as it is.
        """
        lengths = [len(branch) for branch in branches]
        ids = torch.tensor([[token for branch in branches for token in branch]], device=self.device)
        positions = torch.cat([torch.arange(start, start + length) for length in lengths]).to(self.device)
        context = BranchContext(self.cache, slot, start, lengths)
        compute = self._compute([self.model.operating_point])
        states = self.model.hidden(ids, positions.unsqueeze(0), context, compute)[0]
        self._note(compute, sum(lengths))
        return states

    @torch.inference_mode()
    def head(self, states: Tensor) -> Tensor:
        """Logits [tokens, vocab] of states [tokens, hidden]."""
        return self.model.head(states)

    @torch.inference_mode()
    def decode(
        self, token_ids: Sequence[int], positions: Sequence[int], operating_points: Sequence[float] = ()
    ) -> Forward:
        compute = self._compute(operating_points or [0] * len(token_ids), self._step)
        ids = torch.tensor(list(token_ids), device=self.device).unsqueeze(1)
        column = torch.tensor(list(positions), device=self.device).unsqueeze(1)
        context = DecodeContext(self.cache, list(positions))
        logits = self.model.head(self.model.hidden(ids, column, context, compute)[:, 0])
        return Forward(logits, compute.spent.shares(1) if compute else ())

    @torch.inference_mode()
    def move(self, source: int, target: int, num_tokens: int) -> None:
        self.cache.move(source, target, num_tokens)

    def _prefill(self, slot: int, token_ids: Sequence[int], start: int, compute: Compute | None) -> Tensor:
        ids = torch.tensor([list(token_ids)], device=self.device)
        positions = torch.arange(start, start + len(token_ids), device=self.device).unsqueeze(0)
        context = PrefillContext(self.cache, slot, start, len(token_ids))
        return self.model.hidden(ids, positions, context, compute)[0]

    def _compute(self, operating_points: Sequence[float], step: StepShare | None = None) -> Compute | None:
        """An account, where there is something to account for."""
        if self.model.spec.num_tiers == 1:
            return None
        return self.model.compute_of(operating_points, step.factors(operating_points) if step else ())

    def _note(self, compute: Compute | None, tokens: int) -> None:
        num_bytes, neurons = compute.spent.shares(1)[0] if compute else (tokens, tokens)
        before = self.scored
        self.scored = (before[0] + tokens, before[1] + num_bytes, before[2] + neurons)

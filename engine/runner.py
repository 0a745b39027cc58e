"""What the scheduler needs of a model: prefill a slot, decode all running slots, move a slot."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..models.transformer import Transformer
from .slots import BranchContext, DecodeContext, PrefillContext, SlotCache


class Runner(Protocol):
    """A model with slots. Twenty lines make a fake one, and the scheduler is tested with that."""

    num_slots: int
    max_context: int
    vocab_size: int

    def prefill(self, slot: int, token_ids: Sequence[int], start: int) -> Tensor:
        """Puts tokens at start, start+1 ... of a slot; logits [vocab] after the last of them."""
        ...

    def decode(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One token for each of the slots 0 .. n-1 at its position; logits [n, vocab]."""
        ...

    def move(self, source: int, target: int, num_tokens: int) -> None:
        """Makes the first num_tokens of slot `target` those of slot `source`."""
        ...


class ModelRunner:
    """The Transformer over a slot cache. Rows of a batch do not see each other."""

    def __init__(self, model: Transformer, num_slots: int, max_context: int, dtype: torch.dtype) -> None:
        self.model = model
        self.num_slots, self.max_context, self.vocab_size = num_slots, max_context, model.spec.vocab_size
        self.device = model.norm.weight.device
        self.cache = SlotCache(model.spec, num_slots, max_context, dtype, self.device)

    @torch.inference_mode()
    def prefill(self, slot: int, token_ids: Sequence[int], start: int) -> Tensor:
        return self.head(self.prefill_states(slot, token_ids, start)[-1:])[0]

    @torch.inference_mode()
    def prefill_states(self, slot: int, token_ids: Sequence[int], start: int) -> Tensor:
        """`prefill` for whoever scores: the states of all its tokens, [tokens, hidden], for `head`."""
        ids = torch.tensor([list(token_ids)], device=self.device)
        positions = torch.arange(start, start + len(token_ids), device=self.device).unsqueeze(0)
        context = PrefillContext(self.cache, slot, start, len(token_ids))
        return self.model.hidden(ids, positions, context)[0]

    @torch.inference_mode()
    def branch_states(self, slot: int, branches: Sequence[Sequence[int]], start: int) -> Tensor:
        """States [all tokens of all branches, hidden] of several ways to go on after `start` tokens of a slot.

        One pass; no branch sees another, and the slot stays as it is.
        """
        lengths = [len(branch) for branch in branches]
        ids = torch.tensor([[token for branch in branches for token in branch]], device=self.device)
        positions = torch.cat([torch.arange(start, start + length) for length in lengths]).to(self.device)
        context = BranchContext(self.cache, slot, start, lengths)
        return self.model.hidden(ids, positions.unsqueeze(0), context)[0]

    @torch.inference_mode()
    def head(self, states: Tensor) -> Tensor:
        """Logits [tokens, vocab] of states [tokens, hidden]."""
        return self.model.head(states)

    @torch.inference_mode()
    def decode(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        ids = torch.tensor(list(token_ids), device=self.device).unsqueeze(1)
        places = torch.tensor(list(positions), device=self.device).unsqueeze(1)
        context = DecodeContext(self.cache, list(positions))
        return self.model.head(self.model.hidden(ids, places, context)[:, 0])

    @torch.inference_mode()
    def move(self, source: int, target: int, num_tokens: int) -> None:
        self.cache.move(source, target, num_tokens)

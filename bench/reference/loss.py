"""Next-token loss and attention as training wants them on a CPU: large multiplications, little memory in between.

Both are exact, and deterministic for a number of threads. torch's own cross-entropy holds all logits and their
gradient at once; its CPU attention is several times slower than two plain multiplications at these sizes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ...kernels.weighing import PLAIN, Weighing

_MASKED = -1e30


class _TokenLoss(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
        """Makes the gradients on the way, while a chunk's probabilities are at hand."""
        low_states, low_weight = states.to(dtype), weight.to(dtype)
        states_grad = torch.empty_like(low_states)
        weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        total = torch.zeros((), dtype=torch.float64, device=weight.device)
        for begin in range(0, len(targets), rows):
            part = slice(begin, begin + rows)
            chances = torch.softmax((low_states[part] @ low_weight.t()).float(), dim=-1)  # [rows, vocab]
            target = targets[part].unsqueeze(1)
            total -= chances.gather(1, target).clamp_min_(1e-38).log_().sum(dtype=torch.float64)
            chances.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
            logits_grad = chances.to(dtype)
            torch.mm(logits_grad, low_weight, out=states_grad[part])
            weight_grad += logits_grad.t() @ low_states[part]
        ctx.save_for_backward(states_grad, weight_grad)
        ctx.states_dtype = states.dtype
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        states_grad, weight_grad = ctx.saved_tensors
        return states_grad.to(ctx.states_dtype) * grads[0], weight_grad * grads[0], None, None, None


def token_loss(states: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, rows: int = 256) -> Tensor:
    """Sum of -log softmax(states W^T)[target] in nats, a scalar. states: [tokens, hidden], weight: [vocab, hidden].

    Multiplies in `dtype`; softmax and sums are fp32. `rows` tokens have their logits in memory at once.
    """
    loss: Tensor = _TokenLoss.apply(states, weight, targets, rows, dtype)  # type: ignore[no-untyped-call]
    return loss


class _CausalAttention(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One sequence at a time, so that its scores stay in the cache. [batch, heads, tokens, size] each."""
        batch, heads, tokens, size = query.shape
        mask = torch.full((tokens, tokens), _MASKED).triu_(1)
        chances = query.new_empty(batch, heads, tokens, tokens)
        mixed = query.new_empty(batch, tokens, heads, size).transpose(1, 2)
        for i in range(batch):
            scores = torch.matmul(query[i] * size**-0.5, key[i].mT).float().add_(mask)
            chances[i] = torch.softmax(scores, dim=-1)
            mixed[i] = torch.matmul(chances[i], value[i])
        ctx.save_for_backward(query, key, value, chances, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, chances, mixed = ctx.saved_tensors
        grad, scale = grads[0], query.shape[-1] ** -0.5
        query_grad, key_grad, value_grad = (torch.empty_like(x) for x in (query, key, value))
        # sum_j P_ij dP_ij = dO_i . O_i (FlashAttention, Dao et al. 2022, appendix B)
        shared = (grad.float() * mixed.float()).sum(-1, keepdim=True).to(query.dtype)
        for i in range(len(query)):
            value_grad[i] = torch.matmul(chances[i].mT, grad[i])
            scores_grad = torch.matmul(grad[i], value[i].mT).sub_(shared[i]).mul_(chances[i])
            query_grad[i] = torch.matmul(scores_grad, key[i]) * scale
            key_grad[i] = torch.matmul(scores_grad.mT, query[i]) * scale
        return query_grad, key_grad, value_grad


class TrainingContext:
    """A `Context` like CausalContext, for a CPU: every token sees itself and those before it in its window."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        if weighing != PLAIN:
            raise ValueError(f"models are trained here with plain attention, not with {weighing}")
        dtype, groups = value.dtype, query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        mixed: Tensor = _CausalAttention.apply(query.to(dtype), key.to(dtype), value)  # type: ignore[no-untyped-call]
        return mixed

"""How far a student is from its teacher: at the logits, a chunk of tokens at a time, and at hidden states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node
from torch.nn import functional

Head = Callable[[Tensor], Tensor]  # states [tokens, hidden] -> logits [tokens, vocab]


def forward_kl(
    student_states: Tensor,
    student_head: Head,
    teacher_states: Tensor,
    teacher_head: Head,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    rows: int = 256,
) -> Tensor:
    """T^2 sum_v p_t log(p_t / p_s) in nats, p = softmax(logits / T), the mean over the tokens that count; fp32.

    states: [..., hidden] in front of the heads, with the same tokens on both sides; mask: [...], true where a token
    counts, by default everywhere. Where none counts, the loss is 0 and nothing gets a gradient but zeros for the
    states. Vocabularies that differ are cut to the shorter one, and the rest is a distribution again.
    `rows` tokens have their logits in memory at once. The gradients, with respect to the student's states and to
    all that its head learns, are made on the way, so that no logits are kept or made twice; it cannot be derived a
    second time. Nothing flows to the teacher. Hinton, Vinyals and Dean 2015, section 2.
    """
    states, targets = _that_count(student_states, teacher_states, mask)
    return _Comparison(student_head, teacher_head, temperature).mean(states, targets, rows)


def hidden_ratio(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """||h_s - h_t||^2 / ||h_t||^2, the mean over the tokens that count; fp32. student and teacher: [..., hidden].

    As a ratio it is of one size in every layer. Tokens whose h_t is 0 do not count. Nothing flows to the teacher.
    """
    ours, theirs = student.flatten(0, -2).float(), teacher.detach().flatten(0, -2).float()
    size = theirs.square().sum(dim=-1)
    counts = (size > 0) if mask is None else (size > 0) & mask.flatten().bool()
    ratios = (ours[counts] - theirs[counts]).square().sum(dim=-1) / size[counts]
    return ratios.sum() / max(len(ratios), 1)


def _divergence(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence sum_v p_t (l_t - l_s) of two log-probabilities, with d/dz = p_s - p_t."""
    chances = teacher.exp()
    value = (teacher - student).mul_(chances).sum(dim=-1)
    return value, student.exp().sub_(chances)


def _that_count(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both sides as [tokens, hidden]. Padding is left out rather than multiplied by 0, which would keep its NaN."""
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"student and teacher have other tokens: {list(student.shape)}, {list(teacher.shape)}")
    ours, theirs = student.flatten(0, -2), teacher.detach().flatten(0, -2)
    if mask is None:
        return ours, theirs
    counts = mask.flatten().bool()
    return ours[counts], theirs[counts]


@dataclass(frozen=True, slots=True)
class _Comparison:
    student_head: Head
    teacher_head: Head
    temperature: float

    def mean(self, states: Tensor, targets: Tensor, rows: int) -> Tensor:
        """A scalar that carries its gradients with respect to the states and to what the head learns."""
        inputs = [states, *_learned_by(self.student_head, states)] if torch.is_grad_enabled() else []
        inputs = inputs if any(each.requires_grad for each in inputs) else []
        gradients = [torch.zeros_like(each, dtype=torch.float32) for each in inputs]  # sums of chunks: not in bf16
        total = torch.zeros((), dtype=torch.float64, device=states.device)
        for begin in range(0, len(states), rows):
            part = slice(begin, begin + rows)
            value, found = self._chunk(states[part].detach(), targets[part], inputs[1:], bool(inputs))
            total += value
            for gathered, each in zip([gradients[0][part], *gradients[1:]] if found else [], found, strict=True):
                gathered += each
        count = max(len(states), 1)
        value = (total / count).float()
        return _with_gradients(value, [each.div_(count) for each in gradients], inputs) if inputs else value

    def _chunk(
        self, states: Tensor, targets: Tensor, parameters: Sequence[Tensor], learns: bool
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The sum over some tokens, and its gradients with respect to their states and the parameters."""
        with torch.no_grad():
            target = self.teacher_head(targets).float()
        with torch.set_grad_enabled(learns):
            states.requires_grad_(learns)
            logits = self.student_head(states)
        value, slope = self._of_logits(logits.detach().float(), target)
        total = value.sum(dtype=torch.float64)
        return total, torch.autograd.grad(logits, [states, *parameters], slope.to(logits.dtype)) if learns else ()

    def _of_logits(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """T^2 times the divergence of each token, [tokens], and its gradient with respect to all logits."""
        vocab = min(logits.shape[-1], target.shape[-1])
        ours = torch.log_softmax(logits[:, :vocab] / self.temperature, dim=-1)
        theirs = torch.log_softmax(target[:, :vocab] / self.temperature, dim=-1)
        value, slope = _divergence(ours, theirs)
        slope = functional.pad(slope, (0, logits.shape[-1] - vocab))
        return value.mul_(self.temperature**2), slope.mul_(self.temperature)


def _learned_by(head: Head, states: Tensor) -> list[Tensor]:
    """The leaves that need a gradient and that the head's logits come from, found in the graph of one token."""
    waiting = [head(states[:1].detach()).grad_fn] if len(states) else []
    seen: set[Node] = set()
    leaves = []
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            waiting += [before for before, _ in node.next_functions]
    return leaves


class _Known(Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [each.dtype for each in inputs]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *((each * grad).to(dtype) for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))


def _with_gradients(value: Tensor, gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    loss: Tensor = _Known.apply(value, gradients, *inputs)  # type: ignore[no-untyped-call]
    return loss

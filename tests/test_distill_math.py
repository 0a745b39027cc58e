"""Distillation without a model: the chunked losses are the plain ones, with the plain gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moesaic.compress.distill.loss import forward_kl, hidden_ratio


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """[tokens], by the definition."""
    ours, theirs = (torch.log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1)


class Sides:
    """A student and a teacher of other widths, with 2 sequences of 11 tokens."""

    def __init__(self, vocab: int = 37, teacher_vocab: int = 37) -> None:
        self.states, self.targets = randn(2, 11, 8).requires_grad_(), randn(2, 11, 6, seed=1)
        self.head = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, vocab))
        self.teacher = nn.Linear(6, teacher_vocab)
        for seed, weight in enumerate([*self.head.parameters(), *self.teacher.parameters()]):
            weight.data = randn(*weight.shape, seed=10 + seed)
        self.inputs = [self.states, *self.head.parameters()]

    def chunked(self, **rest: Any) -> Tensor:
        return forward_kl(self.states, self.head, self.targets, self.teacher, **rest)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("rows", [1, 5, 256])
def test_the_chunked_loss_is_the_plain_one_with_its_gradients(temperature: float, rows: int) -> None:
    sides = Sides()
    whole = plain(sides.head(sides.states), sides.teacher(sides.targets).detach(), temperature).mean()
    ours = sides.chunked(temperature=temperature, rows=rows)
    torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-7)
    found, wanted = (torch.autograd.grad(3 * each, sides.inputs) for each in (ours, whole))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_padding_counts_for_nothing_even_where_it_is_no_number() -> None:
    sides, mask = Sides(), torch.arange(22).view(2, 11) % 3 != 1
    sides.states.data[~mask] = float("nan")
    tokens = plain(sides.head(sides.states)[mask], sides.teacher(sides.targets)[mask].detach(), 1.0)
    ours = sides.chunked(mask=mask, rows=4)
    torch.testing.assert_close(ours, tokens.mean(), rtol=1e-6, atol=1e-7)
    gradient = torch.autograd.grad(ours, sides.inputs)
    assert not gradient[0][~mask].any() and all(bool(each.isfinite().all()) for each in gradient)


def test_a_batch_without_a_token_costs_nothing_and_teaches_nothing() -> None:
    sides = Sides()
    ours = sides.chunked(mask=torch.zeros(2, 11, dtype=torch.bool))
    ours.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == 0 and sides.states.grad is not None and not sides.states.grad.any()
    assert all(weight.grad is None for weight in sides.head.parameters())


@pytest.mark.parametrize(("vocab", "teacher_vocab"), [(40, 37), (37, 40)])
def test_padded_vocabularies_are_cut_to_the_shorter_one(vocab: int, teacher_vocab: int) -> None:
    sides = Sides(vocab, teacher_vocab)
    student, teacher = sides.head(sides.states)[..., :37], sides.teacher(sides.targets).detach()[..., :37]
    whole, ours = plain(student, teacher, 1.0).mean(), sides.chunked(rows=7)
    torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-7)
    for one, other in zip(*(torch.autograd.grad(each, sides.inputs) for each in (ours, whole)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_logits_of_more_than_a_chunk_never_meet() -> None:
    sides, sizes = Sides(), []
    for head in (sides.head, sides.teacher):
        head.register_forward_hook(lambda _, inputs, logits: sizes.append(len(logits)))
    sides.chunked(rows=4).backward()  # type: ignore[no-untyped-call]
    assert max(sizes) == 4 and sum(sizes) == 1 + 2 * 22  # one token to find what is learned, and none twice


def test_a_divergence_is_zero_for_equal_models_and_positive_for_others() -> None:
    sides = Sides()
    same = forward_kl(sides.states, sides.head, sides.states, sides.head)
    assert abs(same.item()) < 1e-6 < sides.chunked().item()
    assert all(each.abs().max() < 1e-6 for each in torch.autograd.grad(same, sides.inputs))


def test_what_a_head_shares_and_what_stands_still_are_told_apart() -> None:
    weight, frozen = randn(9, 4).requires_grad_(), randn(9, seed=1)
    states, targets = randn(5, 4, seed=2), randn(5, 9, seed=3)

    def head(x: Tensor) -> Tensor:
        return x @ weight.T + (x * x) @ weight.T + frozen

    ours, whole = forward_kl(states, head, targets, lambda x: x, rows=2), plain(head(states), targets, 1.0)
    (found,), (wanted,) = (torch.autograd.grad(each, [weight]) for each in (ours, whole.mean()))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_teacher_gets_no_gradient() -> None:
    sides = Sides()
    sides.targets.requires_grad_()
    sides.chunked().backward()  # type: ignore[no-untyped-call]
    assert sides.targets.grad is None and sides.teacher.weight.grad is None


def test_without_gradients_the_loss_is_the_same_number() -> None:
    sides = Sides()
    with torch.no_grad():
        ours = sides.chunked(rows=4)
    assert not ours.requires_grad and ours.item() == sides.chunked(rows=4).item()


def test_in_bf16_the_loss_and_the_sums_of_its_gradients_are_fp32() -> None:
    sides = Sides()
    exact = sides.chunked()
    low = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 37)).bfloat16()
    low.load_state_dict(sides.head.state_dict())
    states = sides.states.detach().bfloat16().requires_grad_()
    ours = forward_kl(states, low, sides.targets, sides.teacher, rows=3)
    torch.autograd.backward(ours)
    assert ours.dtype == torch.float32 and states.grad is not None and states.grad.dtype == torch.bfloat16
    assert ours.item() == pytest.approx(exact.item(), rel=0.02)


def test_a_student_learns_its_teacher() -> None:
    sides = Sides()
    losses = []
    for _ in range(60):
        loss = sides.chunked(rows=8)
        losses.append(loss.item())
        for weight, slope in zip(sides.inputs, torch.autograd.grad(loss, sides.inputs), strict=True):
            weight.data -= slope
    assert losses[-1] < losses[0] / 3


def test_sides_with_other_tokens_are_refused() -> None:
    sides = Sides()
    with pytest.raises(ValueError, match="other tokens"):
        forward_kl(sides.states[:, :9], sides.head, sides.targets, sides.teacher)


def test_the_hidden_ratio_is_relative_and_counts_valid_tokens_only() -> None:
    student, teacher = randn(2, 5, 8), randn(2, 5, 8, seed=1)
    mask = torch.arange(10).view(2, 5) % 2 == 0
    expected = (student - teacher)[mask].norm(dim=-1) ** 2 / teacher[mask].norm(dim=-1) ** 2
    torch.testing.assert_close(hidden_ratio(student, teacher, mask), expected.mean())
    torch.testing.assert_close(hidden_ratio(student * 100, teacher * 100, mask), expected.mean())
    assert hidden_ratio(teacher, teacher) == 0 and hidden_ratio(torch.zeros_like(teacher), teacher) == 1


def test_the_hidden_ratio_survives_padding_and_silence() -> None:
    student, teacher = randn(3, 8).requires_grad_(), randn(3, 8, seed=1)
    student.data[1], teacher[2] = float("nan"), 0.0
    loss = hidden_ratio(student, teacher, torch.tensor([True, False, True]))
    (gradient,) = torch.autograd.grad(loss, [student])
    assert loss.isfinite() and gradient[0].any() and not gradient[1:].any()
    none = hidden_ratio(student, teacher, torch.zeros(3, dtype=torch.bool))
    assert none == 0 and not torch.autograd.grad(none, [student])[0].any()

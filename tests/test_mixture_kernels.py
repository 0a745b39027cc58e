"""A mixture of experts as launches of Triton, in the interpreter: for a few rows and for many, what torch gives."""

from dataclasses import replace

import pytest
import torch
from kernel_harness import assert_no_worse
from torch import Tensor

pytest.importorskip("triton")

from moesaic.kernels.instructions import Choice  # noqa: E402
from moesaic.kernels.mixture.assigned import assign  # noqa: E402
from moesaic.kernels.mixture.launches import Room, block_rows, mixture_ffn_triton, mixture_rows  # noqa: E402
from moesaic.kernels.mixture_ffn import (  # noqa: E402
    MixtureWeights,
    choose_mixture_ffn,
    mixture_ffn,
    mixture_ffn_cost,
    mixture_ffn_torch,
)
from moesaic.kernels.planes.scratch import Scratch  # noqa: E402
from moesaic.kernels.rows import Rows, Target  # noqa: E402

HIDDEN, WIDTH, EXPERTS, ACTIVE = 20, 8, 4, 2


def weights_of(dtype: torch.dtype, device: str = "cpu", hidden: int = HIDDEN) -> MixtureWeights:
    random = torch.Generator().manual_seed(hidden)

    def drawn(*shape: int) -> Tensor:
        if dtype == torch.int8:
            return torch.randint(-127, 128, shape, generator=random, dtype=torch.int8).to(device)
        values: Tensor = torch.randn(shape, generator=random) * shape[-1] ** -0.5
        return values.to(dtype).to(device)

    def scale(outputs: int) -> Tensor | None:
        return torch.rand(EXPERTS, outputs, generator=random).to(device) / 99 if dtype == torch.int8 else None

    matrices = [drawn(EXPERTS, *shape) for shape in ((WIDTH, hidden), (WIDTH, hidden), (hidden, WIDTH))]
    return MixtureWeights(*matrices, *(scale(each) for each in (WIDTH, WIDTH, hidden)))


def chosen(tokens: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Some experts of each token, the last of which it does not always take."""
    scores = torch.rand(tokens, EXPERTS, generator=torch.Generator().manual_seed(tokens))
    places = scores.topk(ACTIVE).indices.sort().values
    parts = scores.gather(1, places)
    parts[::2, -1] = 0.0
    return places.to(device), parts.to(device)


def exact(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor) -> Tensor:
    """In fp64, by the definition, of the weights as numbers."""

    def wide(matrix: Tensor, scale: Tensor | None) -> Tensor:
        return matrix.double().cpu() * (1.0 if scale is None else scale.double().cpu().unsqueeze(-1))

    gate, up = wide(weights.gate, weights.gate_scale), wide(weights.up, weights.up_scale)
    down, rows = wide(weights.down, weights.down_scale), []
    for token, some, of_some in zip(x.double().cpu(), places.cpu(), parts.double().cpu(), strict=True):
        made = [down[e] @ (torch.nn.functional.silu(gate[e] @ token) * (up[e] @ token)) for e in some.tolist()]
        rows.append((torch.stack(made) * of_some.unsqueeze(1)).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("tokens", "weight", "dtype"),
    [
        (2, torch.int8, torch.float32), (3, torch.bfloat16, torch.bfloat16), (40, torch.int8, torch.bfloat16),
        (40, torch.bfloat16, torch.bfloat16), (90, torch.float32, torch.float32), (1, torch.float16, torch.float32),
        (70, torch.float16, torch.float16),
    ],
)  # fmt: skip
def test_kernels_are_no_worse_than_torch(tokens: int, weight: torch.dtype, dtype: torch.dtype, device: str) -> None:
    weights, (places, parts) = weights_of(weight, device=device), chosen(tokens, device=device)
    x = torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype).to(device)
    found = mixture_ffn_triton(x, weights, places, parts, "silu")
    plain, answer = mixture_ffn_torch(x, weights, places, parts, "silu"), exact(x, weights, places, parts)
    assert found.dtype == dtype
    assert_no_worse(found, answer, plain, HIDDEN + WIDTH + ACTIVE)


@pytest.mark.parametrize(("dtype", "hidden"), [(torch.int8, 548), (torch.bfloat16, 292)])
def test_rows_of_more_than_a_warp_reads_at_once_are_read_whole(dtype: torch.dtype, hidden: int, device: str) -> None:
    weights, (places, parts) = weights_of(dtype, device, hidden=hidden), chosen(1, device=device)
    x = torch.randn(1, hidden, generator=torch.Generator().manual_seed(1)).to(device)
    found, wanted = (call(x, weights, places, parts, "silu") for call in (mixture_ffn_triton, mixture_ffn_torch))
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_a_row_of_int8_experts_has_the_same_bits_alone_and_in_any_batch(device: str) -> None:
    weights, (places, parts) = weights_of(torch.int8, device=device), chosen(40, device=device)
    x = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(2)).to(device)
    together = mixture_ffn_triton(x, weights, places, parts, "silu")
    for some in (slice(7, 8), slice(11, 14)):
        assert mixture_ffn_triton(x[some], weights, places[some], parts[some], "silu").equal(together[some])


def test_pairs_lie_by_expert_each_once() -> None:
    places, parts = chosen(23)
    assigned = assign(places, parts, EXPERTS, 4)
    blocks = assigned.pairs.view(-1, 4)[: int(assigned.count)]
    held = [pair for pair in assigned.pairs.tolist() if pair >= 0]
    assert sorted(held) == parts.flatten().nonzero()[:, 0].tolist()
    assert bool((assigned.pairs[blocks.numel() :] < 0).all())
    for expert, block in zip(assigned.experts.tolist(), blocks.tolist(), strict=False):
        assert {int(places.flatten()[pair]) for pair in block if pair >= 0} == {expert}


def test_an_expert_may_have_all_tokens_or_none(device: str) -> None:
    weights, x = weights_of(torch.int8, device=device), torch.randn(35, HIDDEN, device=device)
    places, parts = torch.full((35, 1), 3, device=device), torch.ones(35, 1, device=device)
    found = mixture_ffn_triton(x, weights, places, parts, "relu")
    assert found.equal(mixture_ffn_torch(x, weights, places, parts, "relu"))


# --- the rows of a decode step ---------------------------------------------------------------------------------------


def by_rows(
    x: Tensor, weights: MixtureWeights, matrix: Tensor, choice: Choice, tiers: Tensor, shares: Tensor, full: int
) -> tuple[Tensor, Tensor]:
    scratch, room, rows = Scratch.of(x.device, HIDDEN, WIDTH), Room.of(weights, choice.active), len(x)
    y, counts = torch.full_like(x, torch.nan), torch.full((2, rows), 7, device=x.device)
    for _ in range(1 + (rows == 1)):  # what was told before is forgotten
        mixture_rows(
            Target(y), counts, Rows(x, x[:, :1]), weights, matrix, choice, "silu", (tiers, shares), full, scratch, room
        )
    return y, counts


def asked(rows: int, device: str) -> tuple[Tensor, Tensor, list[int]]:
    """Tiers and shares of rows, and how many experts they take at them."""
    tiers, shares = torch.arange(rows) % 3, torch.where(torch.arange(rows) % 2 == 1, 0.5, 0.0)
    between = {(0, 0.0): 2, (0, 0.5): 2, (1, 0.0): 2, (1, 0.5): 2, (2, 0.0): 1, (2, 0.5): 1}  # of a table of 2, 1.6, 1
    taken = [between[pair] for pair in zip(tiers.tolist(), shares.tolist(), strict=True)]
    return tiers.int().to(device), shares.to(device), taken


@pytest.mark.parametrize(
    ("rows", "weight", "normalised", "full"),
    [(1, torch.int8, True, 1), (4, torch.int8, False, 1), (6, torch.bfloat16, True, 0)],
)
def test_launches_choose_and_multiply_as_torch(
    rows: int, weight: torch.dtype, normalised: bool, full: int, device: str
) -> None:
    weights, x = weights_of(weight, device=device), torch.randn(rows, HIDDEN, device=device)
    matrix, (tiers, shares, taken) = torch.randn(EXPERTS, HIDDEN, device=device), asked(rows, device)
    choice = Choice(ACTIVE, normalised, torch.tensor([2.0, 1.6, 1.0], device=device), 1e-4, WIDTH, 0)
    y, counts = by_rows(x, weights, matrix, choice, tiers, shares, full)
    wanted = torch.tensor([ACTIVE] * full + taken[full:], device=device)
    highest, places = torch.softmax(x @ matrix.T, -1).topk(ACTIVE)
    highest = highest * (torch.arange(ACTIVE, device=device) < wanted.unsqueeze(1))
    parts = highest / highest.sum(1, keepdim=True) if normalised else highest
    places, order = places.sort()
    answer = mixture_ffn_torch(x, weights, places, parts.gather(1, order), "silu")
    assert (y - answer).norm() < 1e-5 * answer.norm() and counts[0].equal(wanted * WIDTH) and not counts[1].any()


@pytest.mark.parametrize("weight", [torch.int8, torch.float16])
def test_a_row_has_the_same_bits_alone_and_beside_others(weight: torch.dtype, device: str) -> None:
    weights, x = weights_of(weight, device), torch.randn(3, HIDDEN, device=device)
    choice, (tiers, shares, _) = Choice(ACTIVE, True, None, 0.0, WIDTH, 0), asked(3, device)
    matrix = torch.randn(EXPERTS, HIDDEN, device=device)
    together, _ = by_rows(x, weights, matrix, choice, tiers, shares, 3)
    alone = [by_rows(x[i : i + 1], weights, matrix, choice, tiers, shares, 1)[0] for i in range(3)]
    assert torch.cat(alone).equal(together)


def test_a_row_that_is_no_number_harms_no_other(device: str) -> None:
    weights, x, matrix = weights_of(torch.int8, device=device), torch.randn(3, HIDDEN), torch.randn(EXPERTS, HIDDEN)
    x[1, 4] = torch.nan
    choice, (tiers, shares, _) = Choice(ACTIVE, True, None, 0.0, WIDTH, 0), asked(3, device)
    y, _ = by_rows(x.to(device), weights, matrix.to(device), choice, tiers, shares, 3)
    alone, _ = by_rows(x[2:].to(device), weights, matrix.to(device), choice, tiers, shares, 1)
    assert y[1].isnan().all() and y[2].equal(alone[0]) and y[0].isfinite().all()


# --- the door --------------------------------------------------------------------------------------------------------


def test_blocks_are_about_as_long_as_what_an_expert_has() -> None:
    int8, floats = weights_of(torch.int8), weights_of(torch.float32)
    assert [block_rows(tokens, 2, int8) for tokens in (1, 4, 8, 9, 32, 33, 4096)] == [1, 2, 2, 16, 16, 32, 32]
    assert [block_rows(tokens, 2, floats) for tokens in (1, 64, 65, 4096)] == [1, 32, 64, 64]


def test_the_door_opens_to_triton_on_a_gpu_for_whole_words() -> None:
    weights, odd = weights_of(torch.int8), weights_of(torch.int8, hidden=18)
    assert choose_mixture_ffn("cuda", 1, weights, True) == "triton"
    others = ("cpu", 1, weights, True), ("cuda", 0, weights, True), ("cuda", 1, odd, True), ("cuda", 1, weights, False)
    assert {choose_mixture_ffn(*each) for each in others} == {"torch"}
    x, (places, parts) = torch.randn(4, HIDDEN), chosen(4)
    operands = (x, weights, places, parts, "silu")
    assert mixture_ffn(*operands).equal(mixture_ffn_torch(*operands))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"x": torch.zeros(4, 7)}, ValueError, r"x must be \[tokens, 20\]"),
        ({"places": torch.zeros(4, 2)}, TypeError, "places int64"),
        ({"parts": torch.zeros(4, 3)}, ValueError, r"must be \[4, experts of a token\]"),
        ({"activation": "tanh"}, ValueError, "activation must be one of"),
    ],
)
def test_operands_that_do_not_fit_are_named(changed: dict[str, object], error: type[Exception], words: str) -> None:
    places, parts = chosen(4)
    given = {"x": torch.zeros(4, HIDDEN), "places": places, "parts": parts, "activation": "silu", **changed}
    with pytest.raises(error, match=words):
        mixture_ffn(weights=weights_of(torch.int8), **given)  # type: ignore[arg-type]


def test_weights_that_do_not_fit_are_named() -> None:
    weights = weights_of(torch.int8)
    with pytest.raises(ValueError, match="down must be contiguous"):
        replace(weights, down=weights.down.mT)
    with pytest.raises(ValueError, match="up_scale belongs to int8 weights"):
        replace(weights, up_scale=None)
    with pytest.raises(TypeError, match="gate must be torch.int8"):
        replace(weights, gate=weights.gate.float())


def test_the_cost_reads_an_expert_once_for_all_its_tokens() -> None:
    weights = weights_of(torch.int8)
    cost = mixture_ffn_cost(6, 2, 3, weights)
    assert cost.bytes == 2 * 3 * WIDTH * HIDDEN + 8 * 3 * HIDDEN and cost.flops == 4 * 6 * 3 * WIDTH * HIDDEN

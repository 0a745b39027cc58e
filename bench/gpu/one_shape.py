"""One call of one kernel in a shape that no tile divides, for a tool that watches memory.

compute-sanitizer python -m moesaic.bench.gpu.one_shape int8_linear
"""

import sys
from collections.abc import Callable

import torch

from ...kernels.digit_linear import digit_linear, pack_digits
from ...kernels.expert_ffn import ExpertWeights, expert_ffn
from ...kernels.graded_linear import graded_linear
from ...kernels.int8_dynamic_linear import int8_dynamic_linear
from ...kernels.int8_linear import int8_linear
from ...kernels.mixture_ffn import MixtureWeights, mixture_ffn
from ...kernels.route import route_scores
from ..rounds import DEVICE
from .operands import FFNWeights, LinearWeights
from .peers import graded_weights, plane_launches, planes
from .sizes import Width

TOKENS = (1, 21)  # decode and prefill tiles
WIDTH = Width(72, 136, 24, True)  # the last expert is shorter


def _int8_linear(tokens: int) -> torch.Tensor:
    found = LinearWeights.random(88, 72, DEVICE)
    return int8_linear(_rows(tokens, 72), found.weight, found.scale)


def _int8_dynamic_linear(tokens: int) -> torch.Tensor:
    found = LinearWeights.random(88, 72, DEVICE)
    return int8_dynamic_linear(_rows(tokens, 72), found.weight, found.scale)


def _digit_linear(tokens: int) -> torch.Tensor:
    found = LinearWeights.random(88, 72, DEVICE)
    return digit_linear(_rows(tokens, 72), pack_digits(found.weight, found.scale))


def _graded_linear(tokens: int) -> torch.Tensor:
    found = graded_weights(LinearWeights.random(88, 72, DEVICE))
    return graded_linear(_rows(tokens, 72), found, torch.linspace(0, 0.02, tokens, device=DEVICE)).y


def _expert_ffn(tokens: int) -> torch.Tensor:
    weights = FFNWeights.random(WIDTH, DEVICE)
    active = torch.rand(tokens, WIDTH.experts, device=DEVICE) < 0.5
    int8 = expert_ffn(_rows(tokens, WIDTH.hidden), weights.experts(), active, WIDTH.expert, "silu")
    dense: ExpertWeights = weights.experts(torch.bfloat16)
    return int8 + expert_ffn(_rows(tokens, WIDTH.hidden), dense, active, WIDTH.expert, "silu")


def _route(tokens: int) -> torch.Tensor:
    first = torch.randn(40, WIDTH.hidden, device=DEVICE, dtype=torch.bfloat16)
    second = torch.randn(WIDTH.experts, 40, device=DEVICE, dtype=torch.bfloat16)
    return route_scores(_rows(tokens, WIDTH.hidden), first, second)


def _plane_ffn(tokens: int) -> torch.Tensor:
    call = planes(FFNWeights.random(WIDTH, DEVICE), WIDTH)
    return call(_rows(tokens, WIDTH.hidden), torch.full((tokens, 2), 0.01, device=DEVICE))


def _plane_launches(tokens: int) -> torch.Tensor:
    call = plane_launches(FFNWeights.random(WIDTH, DEVICE), WIDTH)
    return call(_rows(tokens, WIDTH.hidden), torch.full((tokens, 2), 0.01, device=DEVICE))


def _mixture_ffn(tokens: int) -> torch.Tensor:
    found, total = LinearWeights.random(5 * 24 * 2 + 5 * 72, 72, DEVICE), torch.zeros(1, device=DEVICE)
    gate, up, down = (
        found.weight[begin : begin + 5 * rows].view(5, rows, 72) for begin, rows in ((0, 24), (120, 24), (240, 72))
    )
    scales = [torch.full((5, rows), 0.01, device=DEVICE) for rows in (24, 24, 72)]
    int8 = MixtureWeights(gate, up, down[:, :, :24].contiguous(), *scales)
    dense = MixtureWeights(*(each.to(torch.bfloat16) for each in (int8.gate, int8.up, int8.down)))
    places = torch.tensor([0, 3], device=DEVICE).repeat(tokens, 1)
    operands = places, torch.full((tokens, 2), 0.5, device=DEVICE), "silu"
    for weights in (int8, dense):
        total = total + mixture_ffn(_rows(tokens, 72) / 64, weights, *operands)
    return total


def _rows(tokens: int, hidden: int) -> torch.Tensor:
    return torch.randn(tokens, hidden, device=DEVICE).to(torch.bfloat16)


KERNELS: dict[str, Callable[[int], torch.Tensor]] = {
    "int8_linear": _int8_linear,
    "expert_ffn": _expert_ffn,
    "route": _route,
    "mixture_ffn": _mixture_ffn,
    "plane_ffn": _plane_ffn,
    "plane_launches": _plane_launches,
    "int8_dynamic_linear": _int8_dynamic_linear,
    "digit_linear": _digit_linear,
    "graded_linear": _graded_linear,
}


def main(name: str) -> int:
    """Returns 0 where every element of the results is a number."""
    with torch.inference_mode():
        return int(not all(bool(KERNELS[name](tokens).isfinite().all()) for tokens in TOKENS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

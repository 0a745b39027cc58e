"""The backends by which `transformers` computes mixtures of experts, over the same experts as ours: peers of tiles.

batched_mm gathers the weights of every pair of a token and an expert and multiplies them as a batch; grouped_mm sorts
pairs by expert and multiplies group by group.
"""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...kernels.activations import ACTIVATIONS
from .operands import FFNWeights
from .sizes import Width

BATCHED_TOKENS = 64  # of more it gathers more than a device holds
Call = Callable[[Tensor, Tensor | None], Tensor]


def experts_of_transformers(name: str) -> Callable[[FFNWeights, Width], Call]:
    """One of its backends, batched_mm or grouped_mm. Preparing it raises ImportError where there is none."""

    def prepare(weights: FFNWeights, width: Width) -> Call:
        forward, module = _backend(name), _module(weights, width)
        taken: dict[int, tuple[Tensor, Tensor]] = {}  # with who was active, so that no other has its number

        def call(x: Tensor, active: Tensor | None) -> Tensor:
            if active is None:
                raise ValueError("experts are computed for those who are active")
            if id(active) not in taken:  # as a router has it; its work is not part of this
                taken[id(active)] = active, active.int().topk(int(active[0].sum()), dim=1).indices
            chosen = taken[id(active)][1]
            found: Tensor = forward(module, x, chosen, torch.ones_like(chosen, dtype=x.dtype))
            return found

        return call

    return prepare


def _backend(name: str) -> Callable[..., Tensor]:
    found = getattr(import_module("transformers.integrations.moe"), f"{name}_experts_forward", None)
    if found is None:
        raise ImportError(f"this transformers has no expert backend {name}")
    forward: Callable[..., Tensor] = found
    return forward


def _module(weights: FFNWeights, width: Width) -> Any:
    """What a backend asks of its module. Projections: [experts, outputs, inputs], the gate's rows before up's."""
    parts = [each for each in (weights.gate, weights.up) if each is not None]
    first = torch.cat([_by_expert(each.dense(torch.bfloat16), width) for each in parts], dim=1)
    down = _by_expert((weights.down * weights.down_scale).to(torch.bfloat16), width).transpose(1, 2).contiguous()
    act = ACTIVATIONS[width.activation]

    def gated(both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return act(gate) * up

    return SimpleNamespace(
        num_experts=width.experts, has_gate=width.gated, has_bias=False, is_transposed=False,
        has_post_expert_norm=False, _is_expert_parallel=False, act_fn=act, _apply_gate=gated,
        gate_up_proj=first, up_proj=first, down_proj=down,
    )  # fmt: skip


def _by_expert(rows: Tensor, width: Width) -> Tensor:
    """[experts, neurons of one, hidden]"""
    return rows.view(width.experts, width.expert, width.hidden)

"""Linears that read the same input, laid side by side at load, so that each group is one multiplication.

The single ones stay, as views of the packed weight: no memory is spent and no name changes.
"""

from collections.abc import Sequence

import torch

from .ffn.dense import FFN
from .linear import Int8Linear, Linear, TensorModule, replace_tensor
from .transformer import Attention, Transformer


def pack_(model: Transformer) -> None:
    """Packs query, key, value and gate, up of every layer where a group has one format. Weights must be loaded."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.packed = packed([module.query, module.key, module.value])
        elif isinstance(module, FFN):
            module.packed = None if module.gate is None else packed([module.gate, module.up])
    model.prepare()


def packed(linears: Sequence[TensorModule]) -> tuple[TensorModule] | None:
    """One linear that gives the outputs of all, in a tuple so that it is no child module; None where they differ."""
    first = linears[0]
    alike = isinstance(first, Linear | Int8Linear) and all(type(linear) is type(first) for linear in linears)
    if not alike or len({linear.bias is None for linear in linears}) > 1:
        return None
    names = [name for name, _ in (*first.named_parameters(), *first.named_buffers())]
    with torch.device("meta"):
        whole = type(first)(1, 1, first.bias is not None)
    for name in names:
        joined = torch.cat([getattr(linear, name).data for linear in linears])
        replace_tensor(whole, name, joined)
        parts = torch.split(joined, [len(getattr(linear, name)) for linear in linears])
        for linear, part in zip(linears, parts, strict=True):
            replace_tensor(linear, name, part)
    return (whole,)

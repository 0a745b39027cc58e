"""Linears that read the same input, laid side by side at load, so that each group is one multiplication.

The single ones stay, as views of the packed weight: no memory is spent and no name changes.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .ffn.dense import FFN
from .ffn.planes import PlaneFFN
from .ffn.routed import RoutedFFN
from .linear import Graded, GradedLinear, Int8Embedding, Int8Linear, Int8Rows, Linear, TensorModule, replace_tensor
from .transformer import Attention, Transformer


def pack_(model: Transformer) -> None:
    """Packs query, key, value and gate, up of every layer where a group has one format. Weights must be loaded.

    Graded linears turn into planes, each group as one.
    """
    for module in model.modules():
        if type(module) is Attention:
            module.packed = packed([module.query, module.key, module.value])
        elif isinstance(module, FFN):
            module.packed = None if module.gate is None else packed([module.gate, module.up])
    for module in model.modules():
        if isinstance(module, Graded) and module.held is None:
            module.pack()
    model.prepare()


def pack_digits_(model: Transformer) -> None:
    """Packs plain int8 linears for two digits, each group as one. FFNs in experts keep theirs."""
    for module in model.modules():
        if isinstance(module, Attention):
            _as_digits(module.packed, [module.query, module.key, module.value])
        elif type(module) in (FFN, PlaneFFN) and isinstance(module, FFN) and module.gate is not None:
            _as_digits(module.packed, [module.gate, module.up])
    kept = in_experts(model)
    for module in model.modules():
        plain = type(module) in (Int8Linear, Int8Embedding) and isinstance(module, Int8Rows) and module not in kept
        if plain and module.digits is None:
            module.pack_digits()
    for module in model.modules():
        if isinstance(module, PlaneFFN):
            module.share()


def in_experts(model: Transformer) -> set[nn.Module]:
    """The modules of FFNs in experts, whose kernel takes weights as they are."""
    ffns = [each for each in model.modules() if isinstance(each, RoutedFFN) and each.weights is not None]
    return {module for ffn in ffns for module in ffn.modules()}


def _as_digits(whole: tuple[TensorModule] | None, parts: Sequence[TensorModule]) -> None:
    """A group that is one linear, and its parts as rows of it."""
    if whole is None or not isinstance(whole[0], Int8Linear) or type(whole[0]) is not Int8Linear:
        return
    digits, begin = whole[0].digits or whole[0].pack_digits(), 0
    for part in parts:
        if isinstance(part, Int8Linear):
            size = part.digit_rows.stop - part.digit_rows.start
            part.join_digits(digits, slice(begin, begin + size))
            begin += size


def packed(linears: Sequence[TensorModule]) -> tuple[TensorModule] | None:
    """One linear that gives the outputs of all, in a tuple so that it is no child module; None where they differ."""
    first = linears[0]
    alike = isinstance(first, Linear | Int8Linear) and all(type(linear) is type(first) for linear in linears)
    if not alike or len({linear.bias is None for linear in linears}) > 1:
        return None
    if isinstance(first, GradedLinear):
        return _graded([each for each in linears if isinstance(each, GradedLinear)])
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


def _graded(linears: Sequence[GradedLinear]) -> tuple[TensorModule] | None:
    """Planes of all rows; what an input is worth has to be the same to each."""
    worth = linears[0].worth
    if not all(linear.worth is worth or torch.equal(linear.worth, worth) for linear in linears):
        return None
    sizes, biases = [linear.weight.shape[0] for linear in linears], [linear.bias for linear in linears]
    with torch.device("meta"):
        whole = GradedLinear(linears[0].num_inputs, sum(sizes), biases[0] is not None)
    replace_tensor(whole, "worth", worth)
    for name in ("weight", "weight_scale", *(["bias"] if biases[0] is not None else [])):
        replace_tensor(whole, name, torch.cat([getattr(linear, name).data for linear in linears]))
    whole.pack()
    begin = 0
    for linear, size in zip(linears, sizes, strict=True):
        linear.join(whole, slice(begin, begin + size))
        begin += size
    return (whole,)

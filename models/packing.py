"""Linears that read the same input, laid side by side at load, so that each group is one multiplication.

The single ones stay, as views of the packed weight: no memory is spent and no name changes.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .ffn.dense import FFN
from .ffn.mixture import MixtureFFN
from .ffn.planes import PlaneFFN
from .ffn.routed import RoutedFFN
from .linear import (
    Graded,
    GradedLinear,
    Int8DynamicLinear,
    Int8Embedding,
    Int8Linear,
    Int8Rows,
    Linear,
    TensorModule,
    replace_tensor,
)
from .safetensors_header import TensorEntry
from .tensor_reader import STORED
from .transformer import Attention, Transformer

_TILES_PART = 0.25  # of free memory
_GROUPS = (("query", "key", "value"), ("gate", "up"))  # of linears that read the same


class Beside:
    """Memory for weights that will be packed, one piece for each group whose weights lie alike in files: they are read
    to where packing would copy them. A piece is held here until all of its group have their part of it.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._entries, self._parts = entries, dict[str, Tensor]()

    def memory(self, name: str) -> Tensor | None:
        """Where a weight is to be read to, or None where it is of no group or the group differs."""
        if name not in self._parts:
            self._share_out(name)
        return self._parts.pop(name, None)

    def _share_out(self, name: str) -> None:
        layer, _, leaf = name.removesuffix(".weight").rpartition(".")
        names = next(([f"{layer}.{each}.weight" for each in group] for group in _GROUPS if leaf in group), [])
        entries = [self._entries[each] for each in names if each in self._entries]
        if name in names and len(entries) == len(names) and _lie_alike(entries):
            rows = [entry.shape[0] for entry in entries]
            piece = torch.empty((sum(rows), entries[0].shape[1]), dtype=STORED[entries[0].dtype])
            self._parts.update(zip(names, torch.split(piece, rows), strict=True))


def _lie_alike(entries: Sequence[TensorEntry]) -> bool:
    """Whether they are whole tensors of files, of one dtype and as many columns."""
    kinds = {(entry.dtype, entry.shape[1:]) for entry in entries}
    return len(kinds) == 1 and all(type(entry) is TensorEntry and len(entry.shape) == 2 for entry in entries)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows in one tensor: the memory that they lie in where it is one piece in this order, else a copy."""
    first, at = parts[0], parts[0].storage_offset()
    for part in parts:
        follows = part.is_contiguous() and part.dtype == first.dtype and part.storage_offset() == at
        if not follows or (part is not first and not _share_memory(part, first)):
            return torch.cat(list(parts))
        at += part.numel()
    return first.as_strided(
        (sum(len(part) for part in parts), *first.shape[1:]), first.stride(), first.storage_offset()
    )


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


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


def pack_digits_(model: Transformer, num_digits: Sequence[int] = (2,)) -> None:
    """Packs int8 linears whose activations have so many digits, each group as one. FFNs in experts keep theirs."""
    types = [each for each in (Int8Linear, Int8DynamicLinear, Int8Embedding) if each.num_digits in num_digits]
    for module in model.modules():
        if isinstance(module, Attention):
            _as_digits(types, module.packed, [module.query, module.key, module.value])
        elif type(module) in (FFN, PlaneFFN) and isinstance(module, FFN) and module.gate is not None:
            _as_digits(types, module.packed, [module.gate, module.up])
    kept = in_experts(model)
    for module in model.modules():
        plain = type(module) in types and isinstance(module, Int8Rows) and module not in kept
        if plain and module.digits is None:
            module.pack_digits()
    for module in model.modules():
        if isinstance(module, PlaneFFN):
            module.share()


def stack_mixtures_(model: Transformer) -> None:
    """Lays experts of mixtures side by side, as a GPU's kernels take them."""
    for module in model.modules():
        if isinstance(module, MixtureFFN) and module.weights is None:
            module.stack_()


def in_experts(model: Transformer) -> set[nn.Module]:
    """The modules of FFNs in experts, whose kernel takes weights as they are."""
    ffns = [each for each in model.modules() if isinstance(each, RoutedFFN | MixtureFFN) and each.weights is not None]
    return {module for ffn in ffns for module in ffn.modules()}


def tile_graded_(model: Transformer) -> None:
    """Gives graded linears a second copy, read whole at the full tier."""
    for linear in _graded_wholes(model):
        if linear.held is not None and linear.held.tiles is None:
            linear.held = linear.held.with_tiles()


def tiles_fit(model: Transformer) -> bool:
    """Whether the second copy takes a part of a GPU's free memory that others will not miss."""
    device = model.norm.weight.device
    if device.type != "cuda" or not torch.cuda.is_available():
        return True
    size = sum(each.held.packed.num_bytes for each in _graded_wholes(model) if each.held is not None)
    return size <= _TILES_PART * torch.cuda.mem_get_info(device)[0]


def _graded_wholes(model: Transformer) -> Iterator[Graded]:
    """All that are multiplied with: groups, and those in none."""
    for module in model.modules():
        packed = module.packed if isinstance(module, Attention | FFN) else None
        if packed and isinstance(packed[0], Graded):
            yield packed[0]
        if isinstance(module, Graded) and not module.is_part:
            yield module


def _as_digits(types: Sequence[type], whole: tuple[TensorModule] | None, parts: Sequence[TensorModule]) -> None:
    """A group that is one linear, and its parts as rows of it."""
    if whole is None or type(whole[0]) not in types or not isinstance(whole[0], Int8Linear):
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
        rows = joined([getattr(linear, name).data for linear in linears])
        replace_tensor(whole, name, rows)
        parts = torch.split(rows, [len(getattr(linear, name)) for linear in linears])
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

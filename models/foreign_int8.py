"""int8 weights as others keep them, opened as ours: one scale a row, in compressed-tensors or as bitsandbytes has it.

compressed-tensors has `X.weight_scale` beside an int8 `X.weight`, bitsandbytes `X.SCB`, 127 times the scale. Both are
what our int8 linears are made of, so that nothing is multiplied out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .errors import CheckpointError
from .families.registry import Family
from .safetensors_header import TensorEntry
from .spec import INT8, INT8_DYNAMIC, TransformerSpec
from .surplus import find

_SCALE, _ABSOLUTE_MAXIMUM, _LAYOUT = ".weight_scale", ".SCB", ".weight_format"
_LARGEST = 127.0
_LINEARS = {"attention": ("query", "key", "value", "output"), "ffn": ("up", "gate", "down")}
_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
_ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_OTHER = ("kv_cache_scheme", "sparsity_config", "transform_config")


def int8_format(section: Mapping[str, Any]) -> str | None:
    """The format of linears that a quantization_config of others asks for, or None where it is not of int8 weights.

    Raises CheckpointError for int8 of a kind that is not read, with what it is.
    """
    method = section.get("quant_method")
    if method == "bitsandbytes" and section.get("load_in_8bit") is True:
        return INT8
    if method != "compressed-tensors" or section.get("format") != "int-quantized":
        return None
    groups = section.get("config_groups")
    formats = {_of_group(group) for group in groups.values()} if isinstance(groups, Mapping) else set()
    if unread := [key for key in _OTHER if section.get(key)]:
        raise _refused(unread[0], section[unread[0]])
    if len(formats) != 1:
        raise _refused("config_groups", groups)
    return formats.pop()


def _of_group(group: Any) -> str:
    group = group if isinstance(group, Mapping) else {}
    weights, activations = group.get("weights"), group.get("input_activations")
    for key, asked, read in (("weights", weights, _WEIGHTS), ("input_activations", activations, _ACTIVATIONS)):
        if key == "input_activations" and asked is None:
            continue
        for name, value in read.items():
            if not isinstance(asked, Mapping) or asked.get(name) != value:
                raise _refused(f"{key}.{name}", asked.get(name) if isinstance(asked, Mapping) else asked)
    if group.get("output_activations"):
        raise _refused("output_activations", group["output_activations"])
    return INT8 if activations is None else INT8_DYNAMIC


def _refused(key: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"config.json: quantization_config has {key} {str(value)[:80]}; of compressed-tensors moesaic reads int8 "
        "weights with a scale a row, and activations as they are or int8 with a scale a token; start from the model "
        "before it was quantized"
    )


def as_ours(found: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The tensors of files with such weights, their scales under our name and in our shape, a number a row."""
    entries: dict[str, TensorEntry] = {}
    for name, entry in found.items():
        if name.endswith(_LAYOUT):
            continue
        if name.endswith(_ABSOLUTE_MAXIMUM):
            name, entry = f"{name.removesuffix(_ABSOLUTE_MAXIMUM)}{_SCALE}", replace(entry, divisor=_LARGEST)
        if name.endswith(_SCALE) and entry.shape[1:] == (1,):
            entry = replace(entry, shape=entry.shape[:1])
        entries[name] = entry
    return entries


def int8_linears(
    found: Mapping[str, TensorEntry], family: Family, spec: TransformerSpec, tensor_format: str
) -> dict[str, str]:
    """The linears whose weights are int8 in these files, by their paths in a spec."""
    if family.transposed:
        raise CheckpointError(
            f"the linears of {spec.family} lie transposed in files, and int8 weights of others do not; start from the "
            "model before it was quantized"
        )
    return {path: tensor_format for path, name in _paths(spec) if _is_int8(found, family, name)}


def _paths(spec: TransformerSpec) -> Iterator[tuple[str, str]]:
    """(path in a spec, our name) of each linear that may be int8."""
    for i, layer in enumerate(spec.layers):
        for part, linears in _LINEARS.items():
            for linear in linears:
                if (linear != "gate" or layer.ffn.gated) and not (part == "ffn" and layer.ffn.mixture.num_experts):
                    yield f"layers.{i}.{part}.{linear}", f"layers.{i}.{part}.{linear}.weight"
    if not spec.tied_head:
        yield "head", "untied_head.weight"


def _is_int8(found: Mapping[str, TensorEntry], family: Family, ours: str) -> bool:
    entry = find(found, family.their_name(ours), family)
    return entry is not None and entry.dtype == "I8"

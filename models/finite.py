"""Numbers beyond what arithmetic holds: found where they arise, and told with layer, tensor, and what was seen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .families.registry import FAMILIES
from .ffn.dense import FFN
from .linear import Embedding, Int8Embedding, Int8Linear, Linear, TensorModule, dense_weight
from .transformer import NoNorm, Norm, Transformer

PROBE_TOKENS = 64  # that show a model whose numbers are out of range as a whole
_MAKE_AGAIN = "the weights are damaged or out of scale: copy or make them again"
_LEAVES = (Linear, Int8Linear, Embedding, Int8Embedding)
_INTO = {  # what makes the input of a linear, beside functions without weights
    "ffn.down": ("ffn.gate", "ffn.up"),
    "attention.output": ("attention.query", "attention.key", "attention.value"),
}
_TO_STATE = ("embedding", "positions", "attention.output", "ffn.down", "ffn")


class NotFinite(ValueError):
    """A function of tensors was given, or made, NaN or infinity. Who knows the layer names it: `naming`."""


@contextmanager
def naming(model: Transformer, part: str) -> Iterator[None]:
    """Turns NotFinite inside the block into a CheckpointError that names the largest weights of a part: "layers.3"."""
    try:
        yield
    except NotFinite as error:
        names = _all_weights(model, f"{part}.") or _weights(model, [part])
        raise _error(model, [max(names, key=lambda name: _highest(model, name))], f": {error}") from None


def in_range(states: Tensor) -> bool:
    """Whether states [.., hidden] are finite, and so are the sums of squares that norms make of them in fp32."""
    return bool(torch.linalg.vector_norm(states.float(), dim=-1).isfinite().all())


@torch.no_grad()
def check_range(model: Transformer, ids: Sequence[int] | Tensor, sources: Tensor | None = None) -> None:
    """Raises CheckpointError that names the first weights which take these tokens, [tokens] or [texts, tokens], beyond
    what the arithmetic at hand holds. Computes at the model's own tier. sources: [texts, tokens] that its encoder reads
    first, where it has one.
    """
    rows = torch.as_tensor(ids, device=model.device)
    rows = rows if rows.ndim == 2 else rows.unsqueeze(0)
    watch = _Watch(model)
    modules = [(name, each) for name, each in model.named_modules() if isinstance(each, (*_LEAVES, Norm, FFN))]
    hooks = [module.register_forward_hook(partial(watch.look, name)) for name, module in modules]
    try:
        source = None if sources is None else model.read(sources.to(model.device))
        logits = model(rows, context=model.context_of(rows, source=source)) if rows.numel() else rows
    finally:
        for hook in hooks:
            hook.remove()
    if not logits.isfinite().all():
        head = "embedding" if model.untied_head is None else "untied_head"
        raise _error(model, _weights(model, [head]), _seen(logits, model.dtype))


class _Watch:
    """Looks at what modules are given and make, in the order in which they compute, and raises at the first fault."""

    def __init__(self, model: Transformer) -> None:
        self._model, self._dtype = model, model.dtype
        self._largest = (0.0, "")  # of what was added to the state, and by which module

    def look(self, name: str, module: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        if isinstance(module, Norm) and not in_range(given[0]):
            raise self._too_large()
        if isinstance(module, _LEAVES) and given[0].is_floating_point() and not given[0].isfinite().all():
            raise _error(self._model, _weights(self._model, _before(name)), _seen(given[0], self._dtype))
        if not made.isfinite().all():
            raise _error(self._model, _weights(self._model, [name]), _seen(made, self._dtype))
        if name.endswith(_TO_STATE):
            self._largest = max(self._largest, (float(made.abs().max()), name))

    def _too_large(self) -> CheckpointError:
        value, name = self._largest
        seen = f" gives up to {value:.2g}, and fp32, which ends at 3.4e+38, does not hold the squares that norms sum"
        return _error(self._model, _weights(self._model, [name]), seen)


def _before(name: str) -> list[str]:
    """The modules whose outputs, joined by functions without weights, are what a linear is given."""
    for after, before in _INTO.items():
        if name.endswith(after):
            return [name.removesuffix(after) + each for each in before]
    return [name]


def _seen(values: Tensor, dtype: torch.dtype) -> str:
    what = "NaN" if values.isnan().any() else "infinity"
    return f": what comes of it is {what} in {str(dtype)[6:]}, which ends at {torch.finfo(dtype).max:.2g}"


def _weights(model: Transformer, modules: Sequence[str]) -> list[str]:
    """The weights of these modules, as far as the model has them; of an FFN as a whole its last."""
    there = dict(model.named_parameters()) | dict(model.named_buffers())
    ffns = {name for name, each in model.named_modules() if isinstance(each, FFN)}
    names = [f"{name}.down.weight" if name in ffns else f"{name}.weight" for name in modules]
    return [name for name in dict.fromkeys(names) if name in there]


def _error(model: Transformer, names: Sequence[str], seen: str) -> CheckpointError:
    """names: of weights. Where others of their layer are larger than they, or of the model, those are told too."""
    theirs = FAMILIES[model.spec.family].their_name
    layers = {name.split(".")[1] for name in names if name.startswith("layers.")}
    part = "".join(f"layers.{layer}." for layer in layers)
    sizes = {name: _highest(model, name) for name in _all_weights(model, part)}
    largest = max(sizes, key=lambda name: sizes[name])
    told = " and ".join(f"{theirs(name)} (up to {sizes[name]:.2g})" for name in names)
    also = "" if largest in names else f"; the largest weights there are {theirs(largest)}, up to {sizes[largest]:.2g}"
    narrow = model.dtype == torch.float16
    way_out = "choose the dtype float32 or bfloat16" if narrow else _MAKE_AGAIN
    return CheckpointError("".join(f"layer {layer}: " for layer in layers) + f"{told}{seen}{also}; {way_out}")


def _all_weights(model: Transformer, part: str) -> list[str]:
    """The weights that are there: a router that is still to be trained has none."""
    modules = ((name, each) for name, each in model.named_modules() if not isinstance(each, NoNorm))
    there = {name: each for name, each in modules if isinstance(each, (*_LEAVES, Norm))}
    return [f"{name}.weight" for name, each in there.items() if name.startswith(part) and not each.weight.is_meta]


def _highest(model: Transformer, name: str) -> float:
    module = model.get_submodule(name.removesuffix(".weight"))
    return float(dense_weight(module).detach().abs().max()) if isinstance(module, TensorModule) else 0.0

"""The stage `quantize`: weights become int8; activations and norms stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import RecipeError
from ...models.spec import INT8, INT8_DYNAMIC, INT8_FORMATS, TransformerSpec, with_overrides
from ..calibration import Calibration
from ..material import Material, Workshop
from ..stage import Stage
from ..strict import Strict
from .int8 import quantize_rows

_ATTENTION = ("query", "key", "value", "output")


class QuantizeSettings(Strict):
    """linears: the format of every linear. embeddings: whether the table of tokens, and the head, follow.

    activations: `dynamic` rounds what enters a linear to int8 as it comes (W8A8), the head's excepted; by default
    activations stay as they are. kv_cache: how an engine keeps keys and values unless it is told otherwise.
    """

    linears: Literal["int8"]
    activations: Literal["dynamic"] | None = None
    embeddings: bool = True
    kv_cache: Literal["int8"] | None = None


@dataclass(frozen=True, slots=True)
class QuantizeStage(Stage):
    """int8 weights with one scale per output channel."""

    name = "quantize"
    settings_type = QuantizeSettings
    rounds_weights = True
    takes_mixtures = True

    settings: QuantizeSettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """A model whose linears are int8 already is refused: rounding twice only loses."""
        paths = self._formats(spec)
        done = [path for path, tensor_format in paths.items() if tensor_format in INT8_FORMATS]
        if done:
            raise RecipeError(f"quantize: {done[0]} is int8 already; start from the model before it was quantized")
        if self.settings.kv_cache and not spec.continues_text:
            raise RecipeError(f"quantize: kv_cache is int8, and {spec.kind} keeps no keys and values; leave it out")
        wanted = INT8 if self.settings.activations is None else INT8_DYNAMIC
        kept = {"kv_cache": INT8} if self.settings.kv_cache else {}
        return with_overrides(spec, {path: wanted if "." in path else INT8 for path in paths} | kept)

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return 0

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        matrices = {name for path in self._formats(source.spec) for name in _weights(path, source.spec)}
        return Material(self.plan(source.spec), lambda: _quantized(source, matrices, workshop))

    def _formats(self, spec: TransformerSpec) -> dict[str, str]:
        """The spec's path of every format this stage changes -> what it is now."""
        found = dict(_of_layers(spec, ""))
        if spec.encoder is not None:
            found |= _of_layers(spec.encoder, "encoder.")
        if self.settings.embeddings:
            found["embedding"] = spec.embedding
            found |= {} if spec.tied_head else {"head": spec.head}
        return found


def _of_layers(spec: TransformerSpec, side: str) -> Iterator[tuple[str, str]]:
    """The path of every linear of the layers of one side, and its format."""
    for i, layer in enumerate(spec.layers):
        ffn = ("up", "down", *(("gate",) if layer.ffn.gated else ()))
        parts = {"attention": _ATTENTION, "ffn": ffn, **({"cross": _ATTENTION} if layer.cross else {})}
        for part, names in parts.items():
            for name in names:
                yield f"{side}layers.{i}.{part}.{name}", getattr(getattr(layer, part), name)


def _weights(path: str, spec: TransformerSpec) -> list[str]:
    """The weights whose format a path of the spec names: of an FFN that is a mixture, those of all its experts."""
    part, _, linear = path.partition(".ffn.")
    of_layer = linear and part.startswith("layers.")
    count = spec.layers[int(part.removeprefix("layers."))].ffn.mixture.num_experts if of_layer else 0
    if count:
        return [f"{part}.ffn.experts.{i}.{linear}.weight" for i in range(count)]
    return [f"{'untied_head' if path == 'head' else path}.weight"]


def _quantized(source: Checkpoint, matrices: set[str], workshop: Workshop) -> Iterator[tuple[str, Tensor]]:
    """What stays in floating point is stored as the original has it."""
    for name, tensor in read_tensors(source):
        if name not in matrices:
            yield name, tensor.to(workshop.original.stored_dtype(name) or tensor.dtype)
            continue
        weight, scale = quantize_rows(tensor.to(workshop.device))
        yield name, weight.cpu()
        yield f"{name}_scale", scale.cpu()

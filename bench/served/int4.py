"""Makes a control of fewer bits that any server takes: the values of int4 weights, in floating point.

    python -m moesaic.bench.served.int4 MODEL OUT --by gptq --head 4

Every linear becomes a matrix of `bits` bits with a 16-bit scale for each group of `columns` inputs of a row: by GPTQ
(Frantar et al. 2023), layer after layer, each given what the rounded ones before it make of the calibration text, or to
nearest. The head follows, or is int8 with a scale a row. Such weights are not served as they would be packed: the model
directory holds the same values in bf16, as a kernel for int4 gives them to its products, and control.json says how many
bytes a token would read of the packed ones.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...compress.calibration import Calibration, CalibrationSettings
from ...compress.moefy.sensitivity import GROUPS, HEADS
from ...models.bounds import Bound
from ...models.checkpoint import Checkpoint, load_transformer, open_checkpoint, read_tensors
from ...models.context import CausalContext
from ...models.errors import MoesaicError, RecipeError
from ...models.files import new_directory
from ...models.layout import Layout
from ...models.seeds import DRAWN_SEED
from ...models.spec import INT8_FORMATS
from ...models.threads import choose_threads, torch_threads
from ...models.transformer import Layer
from ...models.writer import write_config, write_weights
from ..retention.linears.gptq import gptq, group_scales, nearest
from ..retention.linears.matrices import HEAD, LINEARS, Form, Matrix, Read, place_

RECORD = "control.json"
GPTQ, NEAREST = BY = ("gptq", "nearest")
HEAD_BITS = (4, 8)
_BITS, _TOKENS = 4, 2048
_COLUMNS, _WINDOWS = Bound(8, 1024, way_out="32 and 128 are usual"), Bound(1, way_out="give windows to learn from")


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a control is made. windows: of 256 tokens, of the calibration text that ships."""

    by: str = GPTQ
    columns: int = 32
    head: int = 4
    windows: int = 64
    seed: int = 0

    @property
    def name(self) -> str:
        """For people."""
        how = "by GPTQ" if self.by == GPTQ else "to nearest"
        return f"int{_BITS} {how}, groups of {self.columns}, head in int{self.head}"


def make_int4(model: str, out: Path, rounding: Rounding) -> None:
    """Writes a model directory with control.json. Raises RecipeError for a model whose weights are int8 already."""
    DRAWN_SEED.check("seed", rounding.seed)
    _COLUMNS.check("columns", rounding.columns)
    _WINDOWS.check("windows", rounding.windows)
    source = open_checkpoint(model)
    if set(INT8_FORMATS) & {f for layer in source.spec.layers for f in (layer.ffn.up, layer.attention.query)}:
        raise RecipeError(f"{source.path.name} has int8 weights, rounding twice only loses; name the model before")
    settings = CalibrationSettings(sequences=rounding.windows, seed=rounding.seed)
    with new_directory(out, 2 * source.weight_bytes) as folder:
        with torch_threads(choose_threads(None, source.weight_bytes)):
            rounded, packed = rounded_weights(source, Calibration(settings, source).windows, rounding)
        write_config(folder, source, source.spec)
        stored = Layout(source.family, source.spec).stored(_tensors(source, rounded))
        write_weights(folder, stored, source.family.their_name)
        read = packed + _rest(source, rounded)
        record = {"name": rounding.name, "model": source.path.name, **asdict(rounding), "token_bytes": read}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


@torch.inference_mode()
def rounded_weights(source: Checkpoint, windows: Tensor, rounding: Rounding) -> tuple[dict[str, Tensor], int]:
    """By name, the weights of all linears and the head in bf16; and how many bytes they are as they would be packed."""
    model = load_transformer(source, torch.device("cpu"))
    layers, head = place_(model)
    rounder, found = _Rounder(rounding), dict[str, Tensor]()
    x, turns = model.embed(windows)
    states = x.float()
    for layer, places in zip(model.layers, layers, strict=True):
        if not isinstance(layer, Layer):
            raise TypeError("a Transformer is made of layers")
        for place in places:
            place.set(rounder)
        given, state = layer.attend(states, turns, CausalContext())
        states = layer.joined(state, layer.ffn(given))
        for place in places:
            place.set(None)
    head.set(rounder)
    head(model.norm(states[:1]) if rounding.head != _BITS else model.norm(states))
    for matrix, weight in rounder.made:
        there = [name for name in _names(matrix, source) if name in source.entries]
        found |= zip(there, torch.split(weight, [source.entries[name].shape[0] for name in there]), strict=True)
    return found, rounder.packed


class _Rounder:
    """Rounds a matrix by what it is given first, and computes by what came of it; keeps that in `made`."""

    def __init__(self, rounding: Rounding) -> None:
        self._rounding = rounding
        self.made: list[tuple[Matrix, Tensor]] = []
        self.packed = 0

    def __call__(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        weight = self._rounded(matrix, x).bfloat16()
        self.made.append((matrix, weight))
        one = torch.zeros(())
        return lambda given, _: Read((given.bfloat16() @ weight.T).float(), one)

    def _rounded(self, matrix: Matrix, x: Tensor) -> Tensor:
        columns, weight = self._rounding.columns, matrix.original.float()
        if matrix.kind == HEAD and self._rounding.head != _BITS:
            self.packed += matrix.whole_bytes
            return matrix.levels.float() * matrix.scale.unsqueeze(1)
        self.packed += weight.numel() * _BITS // 8 + 2 * matrix.outputs * -(-matrix.num_inputs // columns)
        if self._rounding.by == NEAREST:
            scale = group_scales(weight, _BITS, columns, torch.ones(matrix.num_inputs))
            return nearest(weight, scale.repeat_interleave(columns, 1)[:, : matrix.num_inputs], _BITS)
        hessian = torch.zeros(matrix.num_inputs, matrix.num_inputs)
        for part in torch.split(x.float(), _TOKENS):
            hessian += part.T @ part
        return gptq(weight, hessian, _BITS, columns)


def _names(matrix: Matrix, source: Checkpoint) -> Sequence[str]:
    """Of the weights that a matrix stacks, and of some that a model may lack."""
    if matrix.kind == HEAD:
        return [f"{HEADS[not source.spec.tied_head]}.weight"]
    linears = dict(zip(LINEARS, GROUPS.values(), strict=True))[matrix.kind]
    return [f"layers.{matrix.layer}.{name}.weight" for name in linears]


def _rest(source: Checkpoint, rounded: Collection[str]) -> int:
    """Bytes of what a token reads beside them; of a table that is no head it reads one row."""
    return sum(
        entry.num_bytes for name, entry in source.entries.items() if name not in rounded and name != "embedding.weight"
    )


def _tensors(source: Checkpoint, rounded: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_tensors(source):
        yield name, rounded.get(name, tensor)


def main() -> int:
    """Status 2, and one sentence, for a mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="model directory or short name, in floating point")
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument("--by", choices=BY, default=GPTQ, help="default: %(default)s")
    parser.add_argument("--columns", type=int, default=32, metavar="N", help="inputs of a group; default: %(default)s")
    parser.add_argument("--head", type=int, choices=HEAD_BITS, default=4, help="its bits; default: %(default)s")
    parser.add_argument("--windows", type=int, default=64, metavar="N", help="to learn from; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the calibration text; default: %(default)s")
    args = parser.parse_args()
    try:
        make_int4(args.model, args.out, Rounding(args.by, args.columns, args.head, args.windows, args.seed))
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

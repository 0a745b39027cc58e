"""Takes the linears of a model off a 4-bit grid: a stand-in for weights that were never on one.

    python -m moesaic.bench.retention.linears.off_grid MODEL OUT --seed N

A model that comes from a 4-bit file lies on 16 values a block of 32 inputs, which flatters whatever reads four bits.
Every weight of attention and FFN gets uniform noise of half a step either way, where step = (max - min) / 15 of its
block, and becomes bf16. What comes out is taken as an original of its own: it is not the model as it was trained.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ....models.checkpoint import Checkpoint, open_checkpoint, read_tensors
from ....models.errors import MoesaicError, RecipeError
from ....models.files import new_directory
from ....models.layout import Layout
from ....models.seeds import DRAWN_SEED
from ....models.spec import INT8_FORMATS
from ....models.writer import write_config, write_weights

BLOCK, STEPS = 32, 15
RECORD = "off_grid.json"
_LINEAR = re.compile(r"layers\.\d+\.(attention|ffn)\.(query|key|value|output|gate|up|down)\.weight")


def off_grid(model: str, out: Path, seed: int = 0) -> None:
    """Writes a model directory, and off_grid.json, which says what was done. Raises RecipeError for int8 weights."""
    source = open_checkpoint(model)
    DRAWN_SEED.check("seed", seed)
    if set(INT8_FORMATS) & {f for layer in source.spec.layers for f in (layer.ffn.up, layer.attention.query)}:
        raise RecipeError(f"{source.path.name} has int8 weights, noise goes on floating point; name the model before")
    with new_directory(out, 2 * source.weight_bytes) as folder:
        write_config(folder, source, source.spec)
        stored = Layout(source.family, source.spec).stored(_noisy_tensors(source, seed))
        write_weights(folder, stored, source.family.their_name)
        record = {"model": source.path.name, "seed": seed, "block": BLOCK, "steps": STEPS, "dtype": "bfloat16"}
        (folder / RECORD).write_text(json.dumps(record | {"noise": "uniform, half a step either way"}, indent=1) + "\n")


def noisy(weight: Tensor, draw: torch.Generator) -> Tensor:
    """The weight [outputs, inputs] with noise, in bf16; the last block of a row may be short."""
    blocks = torch.split(weight.float(), BLOCK, dim=1)
    steps = [(each.amax(1, keepdim=True) - each.amin(1, keepdim=True)) / STEPS for each in blocks]
    step = torch.cat([each.expand_as(block) for each, block in zip(steps, blocks, strict=True)], 1)
    return (weight.float() + (torch.rand(weight.shape, generator=draw) - 0.5) * step).bfloat16()


def _noisy_tensors(source: Checkpoint, seed: int) -> Iterator[tuple[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in read_tensors(source):
        yield name, noisy(tensor, draw) if _LINEAR.fullmatch(name) else tensor


def main() -> int:
    """Status 2, and one sentence, for a mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="model directory or short name, in floating point")
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; default: %(default)s")
    args = parser.parse_args()
    try:
        off_grid(args.model, args.out, args.seed)
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes what a model is measured beside, at equal bytes of the whole model: one folder, for `moesaic bench retention`.

    python -m moesaic.bench.served.contestants MODEL OUT

int8; the dial over all linears by the recipe that ships (`graded`), from three draws of the calibration text; int4 by
GPTQ and to nearest, with the head in int4 and in int8 (bench/served/int4.py); and static pruning (FLAP, with a bias for
what went) to the bytes of the dial's middle tier, or of the highest where the FFN has not that many, in int8. What is
there already is kept. Ends with the command that measures them.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...compress.pipeline import compress
from ...compress.recipe import Recipe, read_recipe
from ...models.bounds import Bound
from ...models.checkpoint import Checkpoint, open_checkpoint
from ...models.errors import MoesaicError
from .int4 import GPTQ, NEAREST, Rounding, make_int4

_SEEDS = Bound(1, 100, way_out="3 show how far calibrations lie apart")
_UNJUDGED = {"documents": 1, "truncate": 64}  # what was made is judged as it is served
_INT4 = {
    "gptq": Rounding(GPTQ), "gptq-head8": Rounding(GPTQ, head=8), "nearest": Rounding(NEAREST),
    "gptq-128": Rounding(GPTQ, columns=128),
}  # fmt: skip
_MOST_PRUNED = 0.87  # of the FFN: the stage leaves every layer an eighth


def make_contestants(model: str, out: Path, seeds: int, say: Callable[[str], object]) -> dict[str, tuple[Path, ...]]:
    """Directories by name, as `moesaic bench retention` takes them. Raises what compressing and rounding raise."""
    _SEEDS.check("seeds", seeds)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[Path, ...]] = {}
    for name, recipes in recipes_for(open_checkpoint(model), seeds):
        found[name] = tuple(out / f"{name}-{i}" if len(recipes) > 1 else out / name for i in range(len(recipes)))
        for folder, recipe in zip(found[name], recipes, strict=True):
            say(str(folder))
            compress(model, folder, recipe, rival=False)
    for name, rounding in _INT4.items():
        found[name] = (out / name,)
        say(str(out / name))
        if not (out / name).exists():
            make_int4(model, out / name, rounding)
    return found


def recipes_for(source: Checkpoint, seeds: int) -> Iterator[tuple[str, list[Recipe]]]:
    """What is made by a recipe, by name, one a seed; no pruning where no FFN is large enough for it."""
    graded = read_recipe("graded")
    yield "int8", [_unjudged({"stages": [{"quantize": {"linears": "int8"}}]})]
    values = graded.model_dump(exclude={"evaluation"})
    drawn = [{**values, "seed": seed, "calibration": {**values["calibration"], "seed": seed}} for seed in range(seeds)]
    yield "graded", [_unjudged(each) for each in drawn]
    shares = [pruned_share(source, share) for share in sorted(graded.tiers().values())[1:]]
    if possible := [remove for remove in shares if remove <= _MOST_PRUNED]:
        pruned = {"prune": {"method": "flap", "remove": round(possible[0], 3), "compensate": True}}
        values["stages"] = [pruned, {"quantize": {"linears": "int8"}}]
        yield "pruned", [_unjudged(values)]


def pruned_share(source: Checkpoint, share: float) -> float:
    """Of the FFN's neurons, what goes until linears and head are this share of their bytes; above 1 there is no way."""
    matrices = {
        name: entry.shape[0] * entry.shape[1] for name, entry in source.entries.items() if len(entry.shape) == 2
    }
    if not source.spec.tied_head:
        matrices.pop("embedding.weight")
    ffn = sum(size for name, size in matrices.items() if ".ffn." in name)
    return (1 - share) * sum(matrices.values()) / ffn


def _unjudged(values: Mapping[str, Any]) -> Recipe:
    return read_recipe({**values, "evaluation": _UNJUDGED})


def main() -> int:
    """Status 2, and one sentence, for a mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="model directory or short name, in floating point")
    parser.add_argument("out", type=Path, help="folder of all that is made; a run goes on there")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="draws of the calibration text; default: 3")
    args = parser.parse_args()
    try:
        found = make_contestants(args.model, args.out, args.seeds, lambda line: sys.stderr.write(f"{line}\n"))
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    named = [f"{name}={','.join(map(str, folders))}" for name, folders in found.items()]
    words = ["moesaic", "bench", "retention", f"original={args.model}", *named, "--floor"]
    sys.stdout.write(shlex.join(words) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

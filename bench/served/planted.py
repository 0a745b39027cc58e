"""Whether a loss of a hundredth in one layer is found as it is served, and two servers of the same are not told apart.

    python -m moesaic.bench.served.planted MODEL OUT.json --text FILE [FILE ...]

A copy of the model has noise in what one layer's FFN gives back. `moesaic bench retention` scores the model, the model
again and the copy, each by a server of its own, and `moesaic bench compare` says what of that is more than chance.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...evaluate.provenance import command_line, provenance
from ...models.bounds import Bound
from ...models.checkpoint import Checkpoint, open_checkpoint, read_tensors
from ...models.errors import MoesaicError, SetupError
from ...models.files import check_file, new_directory
from ...models.layout import Layout
from ...models.spec import INT8_FORMATS
from ...models.writer import write_config, write_weights
from ..planted import compared_with, say, say_of_the_same, status
from ..resumed import write_report
from .plan import RetentionPlan
from .run import Report, run_retention

_MATRIX = "layers.{}.ffn.down.weight"
LEAST = 0.0  # a loss counts however small, where it is more than chance
_NOISE = Bound(0, 100, whole=False, above=True, way_out="0.5 takes about a hundredth of a model of thirty layers")


def plant(model: str, out: Path, layer: int, noise: float) -> None:
    """A copy with noise of so many standard deviations in a layer's second FFN matrix. Raises SetupError."""
    source = open_checkpoint(model)
    _NOISE.check("noise", noise)
    Bound(0, len(source.spec.layers) - 1, way_out="name a layer that it has").check("layer", layer)
    matrix = _MATRIX.format(layer)
    if matrix not in source.entries or source.spec.layers[layer].ffn.down in INT8_FORMATS:
        raise SetupError(f"{source.path.name} has no {matrix} in floating point; name the model that it was made of")
    with new_directory(out, 2 * source.weight_bytes) as folder:
        write_config(folder, source, source.spec)
        stored = Layout(source.family, source.spec).stored(_noisy(source, matrix, noise))
        write_weights(folder, stored, source.family.their_name)


def _noisy(source: Checkpoint, matrix: str, noise: float) -> Iterator[tuple[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    for name, tensor in read_tensors(source):
        if name == matrix:
            values = tensor.float()
            tensor = (values + noise * values.std() * torch.randn(values.shape, generator=draw)).to(tensor.dtype)
        yield name, tensor


def measured(asked: RetentionPlan, planted: Path) -> dict[str, Report]:
    """Three reports of retention: of the plan's model, of the same again, and of the copy."""
    reports, sound = {}, asked.models["model"]
    for name, paths in (("first", sound), ("again", sound), ("planted", (str(planted),))):
        say(name)
        plan = replace(asked, models={"model": paths}, out=planted.with_name(f"{name}.json"))
        reports[name] = run_retention(plan, dict, lambda *said: None)
        if stopped := reports[name]["models"]["model"]["stopped"]:
            raise SetupError(f"{name}: {stopped}")
    return reports


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 where the loss is not found, or two runs are told apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path, help="a JSON file")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviations of the matrix")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(words)
    try:
        check_file(args.out, str(args.out))
        with tempfile.TemporaryDirectory() as temporary:
            plant(args.model, copy := Path(temporary) / "planted", args.layer, args.noise)
            reports = measured(_plan(args), copy)
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    report = _report(reports) | {"matrix": _MATRIX.format(args.layer), "noise": args.noise}
    write_report(args.out, {"command": command_line(args.out), "machine": provenance(), **report})
    say_of_the_same(report)
    say(f"top-1 of {report['top1_kept']:.4f}: {', '.join(report['planted']['worse']) or 'nothing'} found worse")
    return status(report)


def _plan(args: argparse.Namespace) -> RetentionPlan:
    sizes = {"windows": args.windows, "length": args.length, "threads": args.threads}
    return RetentionPlan({"model": (args.model,)}, args.out, tuple(args.text), places=0, **sizes)


def _report(reports: dict[str, Report]) -> dict[str, Any]:
    """What comparing says, and of the copy how much of the model's top-1 it keeps."""
    first = reports["first"]
    top1 = {name: each["models"]["model"]["tiers"][0]["top1"] for name, each in reports.items()}
    return {
        "tokens": first["tokens"], "windows": first["windows"], "length": first["length"], "text": first["text"],
        "top1": top1, "top1_kept": round(top1["planted"]["value"] / top1["first"]["value"], 5),
        **compared_with(first, reports["again"], reports["planted"], LEAST),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

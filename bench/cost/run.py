"""What every candidate costs: bytes and instructions for each weight, and the time that follows on three machines.

    python -m moesaic.bench.cost.run unions MODEL --text FILES   # minutes: what rows of text read together
    python -m moesaic.bench.cost.run costs                       # seconds
    python -m moesaic.bench.cost.run costs --recount             # with the machine that is in the file
    python -m moesaic.bench.cost.run kernels                     # seconds: the integer kernels that ship for GPUs
    python -m moesaic.bench.cost.run loops                       # what is written and what is compiled, as JSON

The first three write a file each below bench/results/cost/, of which `make results` makes the page.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...evaluate.provenance import command_line, provenance
from ...kernels.jit import HAS_TRITON
from ...kernels.native import NativeError, native
from ...kernels.planes.native import plane_isa
from ...models.errors import MoesaicError, SetupError
from ...models.files import write_whole
from ..published.figures import RESULTS
from . import gpu, kernels, processor
from .candidates import ISAS, cost_of
from .compiled import compiler_version
from .machines import DP4A, Cost, Machine, h100, server, this_machine, time_of
from .measure import UnionPlan, measure_unions
from .processor import DIGITS, GRADED, INT4, INT8, NARROW, WIDE
from .tensor_cores import on_tensor_cores
from .unions import ROWS

FOLDER = RESULTS / "cost"
TENSOR_CORES = "tensor cores"
KERNELS = "python -m moesaic.bench.cost.run kernels --out out/cost"
_INT4_BYTES = (4 + 16 / 32) / 8
_EVERY = ((INT8, 1.0), (DIGITS, 1.0), (INT4, _INT4_BYTES))  # that read every weight: bytes of each


def write_unions(plan: UnionPlan, folder: Path) -> None:
    """Measures and writes unions.json."""
    found = [asdict(each) for each in measure_unions(plan, _say)]
    report = {
        "command": command_line(),
        "model": Path(plan.model).name, "text": [Path(file).name for file in plan.text], "windows": plan.windows,
        "tokens": plan.windows * plan.length, "length": plan.length, "seed": plan.seed, "candidates": found,
        "provenance": provenance(),
    }  # fmt: skip
    _write(folder / "unions.json", report)


def write_costs(folder: Path, recount: bool = False) -> None:
    """Counts, measures this machine, and writes costs.json. Raises SetupError where nothing can be compiled.

    recount: the first machine stays as the file has it, with where that was measured.
    """
    loops = compiled_loops()
    unions = json.loads((folder / "unions.json").read_text())["candidates"]
    before = json.loads((folder / "costs.json").read_text()) if recount else None
    first = Machine(**before["machines"][0]) if before else _this_machine()
    machines = [first, server(), h100()]
    report = {
        "command": command_line(),
        "machines": [asdict(each) for each in machines],
        "loops": loops,
        "costs": list(_costs(unions, machines)),
        "compiler": compiler_version(),
        "load": before["load"] if before else round(os.getloadavg()[0], 1),  # beside, as the machine was measured
        "measured": before.get("measured", before["provenance"]) if before else provenance(),
        "provenance": provenance(),
    }
    _write(folder / "costs.json", report)


def _this_machine() -> Machine:
    library = native()
    return this_machine((WIDE, NARROW) if library and plane_isa(library) == WIDE else (NARROW,))


def write_kernels(folder: Path) -> None:
    """Counts the kernels that ship for GPUs, and writes kernels.json. Raises SetupError without a Triton to compile."""
    if not HAS_TRITON or os.environ.get("TRITON_INTERPRET") == "1":
        raise SetupError("kernels are compiled to be counted: triton is needed, with TRITON_INTERPRET unset")
    rates = (kernels.INSTRUCTIONS_PER_CYCLE, kernels.MULTIPROCESSORS, kernels.CLOCK)
    report = {
        "command": KERNELS,
        "target": f"sm_{gpu.TARGET}",
        **dict(zip(("instructions_per_cycle", "multiprocessors", "clock"), rates, strict=True)),
        "triton": version("triton"),
        "loops": kernels.report(),
        "provenance": provenance(),
    }
    _write(folder / "kernels.json", report)


def compiled_loops() -> list[dict[str, Any]]:
    """Every loop as written and as compiled here. Raises SetupError where nothing can be compiled."""
    if native() is None or not HAS_TRITON or os.environ.get("TRITON_INTERPRET") == "1" or not shutil.which("objdump"):
        raise SetupError(
            "instructions are counted in compiled code: a C++ compiler, objdump and triton are needed, "
            "with TRITON_INTERPRET unset"
        )
    return [_loop(each, each.isa) for each in processor.LOOPS] + [_loop(each, DP4A) for each in gpu.LOOPS]


def _loop(loop: processor.Loop | gpu.GPULoop, isa: str) -> dict[str, Any]:
    """As written, and as it is compiled here."""
    return {
        "name": loop.name, "isa": isa, "rows": loop.rows, "weights": loop.weights, "parts": loop.parts,
        "written": loop.total, "compiled": round(loop.compiled(), 1),
    }  # fmt: skip


def _costs(unions: Sequence[Mapping[str, Any]], machines: Sequence[Machine]) -> Iterator[dict[str, Any]]:
    for rows in ROWS:
        for name, share in _EVERY:
            yield _cost(name, None, rows, share, {}, {}, machines)
        for found in unions:
            by_rows = {each["rows"]: each for each in found["unions"]}
            here, alone = by_rows[rows], by_rows[1]["pieces"]
            yield _cost(found["candidate"], found["asked"], rows, here["bytes"], here["pieces"], alone, machines)


def _cost(
    candidate: str,
    asked: float | None,
    rows: int,
    share: float,
    pieces: Mapping[str, float],
    alone: Mapping[str, float],
    machines: Sequence[Machine],
) -> dict[str, Any]:
    counted = {isa: cost for isa in ISAS if (cost := cost_of(candidate, isa, rows, pieces, alone))}
    times = [
        _time(machine, isa, isa, share, cost)
        for machine in machines
        for isa, cost in counted.items()
        if isa in machine.instructions
    ]
    if candidate == GRADED and rows > 1:
        times.append(_time(h100(), DP4A, TENSOR_CORES, share, on_tensor_cores(pieces)))
    return {
        "candidate": candidate, "asked": asked, "rows": rows, "bytes": share,
        "instructions": {isa: cost.instructions for isa, cost in counted.items()}, "times": times,
    }  # fmt: skip


def _time(machine: Machine, isa: str, named: str, share: float, cost: Cost) -> dict[str, Any]:
    return {"machine": machine.name, "isa": named} | asdict(time_of(machine, isa, share, cost))


def _write(file: Path, report: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(report, indent=1).encode() + b"\n")
    sys.stdout.write(f"{file}\n")


def _say(what: str, done: int, of: int) -> None:
    if done == of:
        sys.stderr.write(f"{what}\n")


def main() -> int:
    """Status 2, and one sentence, for a mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    unions = commands.add_parser("unions", help="measure what rows read together")
    unions.add_argument("model", help="model directory or short name, in floating point")
    unions.add_argument("--text", nargs="+", required=True, metavar="FILE", help="of many documents")
    unions.add_argument("--windows", type=int, default=32, help="documents; default: %(default)s")
    unions.add_argument("--threads", type=int, help="default: all")
    costs = commands.add_parser("costs", help="count instructions, and model the time")
    costs.add_argument("--recount", action="store_true", help="keep the first machine as the file has it")
    commands.add_parser("loops", help="show the instructions of every loop, written and compiled")
    shipped = commands.add_parser("kernels", help="count instructions of the integer kernels that ship for GPUs")
    for command in (unions, costs, shipped):
        command.add_argument("--out", type=Path, default=FOLDER, help="folder; default: %(default)s")
    args = parser.parse_args()
    try:
        if args.command == "unions":
            write_unions(UnionPlan(args.model, tuple(args.text), args.windows, threads=args.threads), args.out)
        elif args.command == "costs":
            write_costs(args.out, args.recount)
        elif args.command == "kernels":
            write_kernels(args.out)
        else:
            sys.stdout.write(json.dumps(compiled_loops(), indent=1) + "\n")
    except (MoesaicError, NativeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

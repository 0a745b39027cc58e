"""`moesaic tune`: measure this machine's GPU once, so that kernels are chosen by what it does."""

import argparse
from dataclasses import asdict
from typing import Any

from .terminal import print_table, say

EXAMPLES = """examples:
  moesaic tune

Kernels are chosen, and decode times foretold, by a few constants of a GPU: bytes, launches and operations a second.
Those of data sheets are used until this command has measured them. No result depends on the choice."""
_UNITS = {
    "bandwidth": (1e12, "TB/s"), "launch": (1e-6, "us"), "issue": (1e9, "G instructions/s"), "int8": (1e12, "TOP/s"),
    "bf16": (1e12, "TFLOP/s"),
}  # fmt: skip


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "tune", help="measure this machine's GPU, by which kernels are chosen", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures, writes what was found, and prints it beside the data sheet's."""
    from ..bench.gpu.tune import measured_device
    from ..kernels.device_cost import constants_file, shipped_device, written_device
    from ..models.files import write_whole

    found = measured_device(say)
    file, shipped = constants_file(found.name), shipped_device(found.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, written_device(found).encode())
    mine, theirs = asdict(found), asdict(shipped) if shipped else {}
    rows = [
        [name, f"{mine[name] / unit:.4g}", f"{theirs[name] / unit:.4g}" if theirs else "", told]
        for name, (unit, told) in _UNITS.items()
    ]
    print_table(["constant", "measured", "data sheet", "in"], rows)
    print(f"{found.name}: written to {file}")
    return 0

"""Compiles every shipped Triton kernel for every supported GPU, on any machine, and fails on what would be slow.

    python -m moesaic.bench.aot [--json FILE] [--target 80 90 ...] [--every N]

Prints registers, stack, shared memory, tensor-core instructions and wide loads of each. A spill, shared memory
above 90 % of what a block may use, no wide load, or a missing tensor-core instruction is a failure: a sentence each,
and exit status 1. Needs triton and nothing else; TRITON_INTERPRET must be unset, as interpreted kernels cannot be
compiled.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..kernels.expert_ffn import _down_kernel, _up_kernel, down_config, up_config
from ..kernels.int8_linear import TileConfig, _int8_linear_kernel, int8_linear_config
from ..kernels.jit import HAS_TRITON
from ..kernels.route import _route_kernel, route_config
from ..models.files import write_whole
from .aot_case import SHARED_LIMIT, TENSOR_CORES, TYPES, Case
from .aot_integers import integer_cases
from .aot_mixture import mixture_cases
from .aot_planes import plane_cases
from .aot_step import step_cases

SHARED_SHARE = 0.9
OPCODES = ("HGMMA", "IGMMA", "UTCHMMA", "UTCIMMA", "HMMA", "IMMA", "IDP")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of activations


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses. `spills` counts local loads and stores."""

    case: str
    target: int
    registers: int
    stack: int
    spills: int
    shared_bytes: int
    wide_loads: int  # of 16 bytes, or of what the case says
    opcodes: dict[str, int]


def int8_linear_cases() -> Iterator[Case]:
    """Each tile of `int8_linear_config` once, in the shapes that lead to it."""
    for dtype in DTYPES:
        tiles = {
            int8_linear_config(tokens, outputs, dtype): tokens
            for outputs in (576, 4096, 49152)
            for tokens in (64, 512, 1)
        }
        for tile, tokens in tiles.items():
            yield int8_linear_case(dtype, tile, prefill=tokens > 16)


def int8_linear_case(dtype: torch.dtype, tile: TileConfig, prefill: bool) -> Case:
    """Tensor cores are expected from a prefill tile in 16 bits; decode is bound by memory."""
    element = TYPES[dtype]
    shape = f"{tile.block_outputs}x{tile.block_tokens}x{tile.block_inputs}"
    return Case(
        name=f"int8_linear {element} {'prefill' if prefill else 'decode'} {shape}",
        kernel=_int8_linear_kernel,
        types={"y": f"*{element}", "x": f"*{element}", "weight": "*i8", "scale": "*fp32", "bias": "*fp32"},
        constants={"HAS_BIAS": True, **blocks_of(tile)},
        multiples_of_16=("stride_y", "stride_x", "inputs", "outputs"),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        opcodes=TENSOR_CORES if prefill and element != "fp32" else {},
        exact=element == "fp32",
    )


def expert_ffn_cases() -> Iterator[Case]:
    """Each tile in every pair of dtypes that is sent to it: few tokens in all, many in int8 alone."""
    pairs = {
        torch.float32: [(torch.float32, 1), (torch.bfloat16, 1), (torch.int8, 1), (torch.int8, 512)],
        torch.bfloat16: [(torch.bfloat16, 1), (torch.int8, 1), (torch.int8, 64), (torch.int8, 512)],
        torch.float16: [(torch.float16, 1), (torch.int8, 1)],
    }
    for dtype, weights in pairs.items():
        for weight, tokens in weights:
            yield expert_up_case(dtype, weight, tokens, gated=True)
            yield expert_down_case(dtype, weight, tokens, expert_size=64)
    yield expert_up_case(torch.bfloat16, torch.bfloat16, 1, gated=False)
    yield expert_down_case(torch.bfloat16, torch.bfloat16, 1, expert_size=24)  # which no block divides


def expert_up_case(dtype: torch.dtype, weight: torch.dtype, tokens: int, gated: bool) -> Case:
    """The first launch with all that it may bring along: scales where int8 has them, biases, a gate."""
    vectors = dict.fromkeys(("up_scale", "gate_scale", "up_bias", "gate_bias"), torch.float32)
    return _activation_case(
        f"expert_up {'gated' if gated else 'plain'}",
        _up_kernel,
        {"x": dtype, "up": weight, "gate": weight, "h": dtype, **vectors, **_LISTS, "active": torch.uint8},
        {
            "GATED": gated,
            "SCALED": weight == torch.int8,
            "HAS_UP_BIAS": True,
            "HAS_GATE_BIAS": gated,
            "ACTIVATION": "silu",
            "EXPERT_SIZE": 64,
            "BLOCK_EXPERTS": 128,
        },
        ("stride_x", "hidden", "width", "experts"),
        up_config(tokens, 8192, dtype, gated),
    )


def expert_down_case(dtype: torch.dtype, weight: torch.dtype, tokens: int, expert_size: int) -> Case:
    """The second launch; `expert_size` decides how widely rows of h are loaded."""
    return _activation_case(
        f"expert_down {expert_size}",
        _down_kernel,
        {"h": dtype, "down": weight, "y": dtype, "scale": torch.float32, "bias": torch.float32, **_LISTS},
        {"SCALED": weight == torch.int8, "HAS_BIAS": True, "EXPERT_SIZE": expert_size},
        ("hidden", "width", "experts"),
        down_config(tokens, 2048, dtype),
    )


def route_cases() -> Iterator[Case]:
    """The first matrix, and the second under the fp32 between them."""
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (1, 512):
            for last in (False, True):
                x = torch.float32 if last else dtype
                yield _activation_case(
                    f"route {'second' if last else 'first'}",
                    _route_kernel,
                    {"x": x, "weight": dtype, "y": torch.float32},
                    {},
                    ("stride_x", "inputs", "outputs"),
                    route_config(tokens, x),
                )


_LISTS = {"union": torch.int32, "count": torch.int32}


def _activation_case(
    name: str,
    kernel: Any,
    types: dict[str, torch.dtype],
    constants: dict[str, Any],
    multiples_of_16: tuple[str, ...],
    tile: TileConfig,
) -> Case:
    """`types` of pointers: first the activations, then the weights."""
    activation, weight, *_ = types.values()
    prefill = tile.block_tokens > 16
    shape = f"{tile.block_outputs}x{tile.block_tokens}x{tile.block_inputs}"
    return Case(
        name=f"{name} {TYPES[activation]} {TYPES[weight]} {'prefill' if prefill else 'decode'} {shape}",
        kernel=kernel,
        types={pointer: f"*{TYPES[dtype]}" for pointer, dtype in types.items()},
        constants={**constants, **blocks_of(tile)},
        multiples_of_16=multiples_of_16,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        opcodes=TENSOR_CORES if prefill and activation != torch.float32 else {},
        exact=activation == torch.float32,
    )


def blocks_of(tile: TileConfig) -> dict[str, int]:
    """A tile as the constants of a kernel."""
    return {
        "BLOCK_TOKENS": tile.block_tokens,
        "BLOCK_OUTPUTS": tile.block_outputs,
        "BLOCK_INPUTS": tile.block_inputs,
    }


def all_cases() -> list[Case]:
    """The registry: every kernel with every tile that ships."""
    products = [*int8_linear_cases(), *expert_ffn_cases(), *route_cases(), *integer_cases()]
    return [*products, *step_cases(), *plane_cases(), *mixture_cases()]


def compile_case(case: Case, target: int) -> Any:
    """The compiled kernel, as the JIT would build it on a GPU of that compute capability."""
    compiler, backends = import_module("triton.compiler"), import_module("triton.backends.compiler")
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(case.kernel.arg_names):
        if name in case.constants:
            signature[name], constants[(i,)] = "constexpr", case.constants[name]
            continue
        signature[name] = case.types.get(name, "i32")
        if name in case.types or name in case.multiples_of_16:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = compiler.ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "maxnreg": case.most_registers}
    return compiler.compile(source, target=backends.GPUTarget("cuda", target, 32), options=options)


def resources_of(case: Case, target: int) -> Resources:
    """Compiles and reads the machine code with the tools that come with triton."""
    kernel = compile_case(case, target)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        usage, code = nvidia_tool("cuobjdump", "-res-usage", binary), nvidia_tool("nvdisasm", "-c", binary)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing about {case.name}: {usage[:200]}")
    return Resources(
        case=case.name,
        target=target,
        registers=int(found[1]),
        stack=int(found[2]),
        spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared_bytes=kernel.metadata.shared,
        wide_loads=len(re.findall(rf"\b(?:LDG|LDGSTS)\.\S*{8 * case.load_bytes or ''}", code)),
        opcodes={name: n for name in OPCODES if (n := len(re.findall(rf"\b{name}\b", code)))},
    )


def nvidia_tool(name: str, option: str, path: Path) -> str:
    """What a tool that comes with triton says of a file."""
    tools = Path(str(import_module("triton").__file__)).parent / "backends" / "nvidia" / "bin"
    done = subprocess.run([tools / name, option, path], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def failures_of(case: Case, used: Resources) -> list[str]:
    """One sentence for each thing that is wrong."""
    where = f"{case.name} on sm_{used.target}"
    limit = SHARED_LIMIT[used.target]
    failures = []
    if used.stack or used.spills:
        failures.append(f"{where} spills: {used.stack} bytes of stack, {used.spills} local loads and stores.")
    if used.shared_bytes > SHARED_SHARE * limit:
        failures.append(f"{where} takes {used.shared_bytes} bytes of shared memory of {limit}.")
    if (wanted := case.opcodes.get(used.target)) and not used.opcodes.get(wanted):
        failures.append(f"{where} has no {wanted}, it has {used.opcodes or 'no tensor-core instruction'}.")
    if not used.wide_loads:
        failures.append(f"{where} loads nothing by {case.load_bytes or 16} bytes.")
    if case.exact and used.opcodes:
        failures.append(f"{where} must be exact, but it has {used.opcodes}.")
    return failures


def table(rows: list[Resources]) -> str:
    """A table for people: one line for each kernel and target."""
    lines = [f"{'kernel':42} {'target':>6} {'regs':>5} {'stack':>5} {'shared':>14} {'wide loads':>10}  tensor cores"]
    for row in rows:
        share = f"{row.shared_bytes} ({row.shared_bytes / SHARED_LIMIT[row.target]:.0%})"
        cores = " ".join(f"{name}:{count}" for name, count in row.opcodes.items())
        used = f"{row.registers:5} {row.stack:5} {share:>14} {row.wide_loads:10}"
        lines.append(f"{row.case:42} {f'sm_{row.target}':>6} {used}  {cores}")
    return "\n".join(lines)


def check(cases: list[Case], targets: list[int]) -> tuple[list[Resources], list[str]]:
    """Resources of every case on every target, and what is wrong with them."""
    pairs = [(case, target) for case in cases for target in targets]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(resources_of, *zip(*pairs, strict=True)))
    return rows, [line for (case, _), used in zip(pairs, rows, strict=True) for line in failures_of(case, used)]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m moesaic.bench.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--target", type=int, nargs="+", choices=list(SHARED_LIMIT), default=list(SHARED_LIMIT))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="compile one case of N, for a quick look")
    options = parser.parse_args(arguments)
    if not HAS_TRITON or os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("triton is needed, with TRITON_INTERPRET unset")
    rows, failures = check(all_cases()[:: max(1, options.every)], options.target)
    if options.json:
        write_whole(options.json, json.dumps([asdict(row) for row in rows], indent=1).encode() + b"\n")
    sys.stdout.write("\n".join([table(rows), *failures]) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""`--gpu` runs the tests of kernels on CUDA: those that take the fixture `device` or are marked gpu, and no others.

Without it Triton kernels run in its interpreter, on the CPU. `--kernels N` does so for N tests of each file at most,
and no others. `--real` runs those on published models, which take minutes.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from moesaic.kernels.cache import cache_folder

if TYPE_CHECKING:
    from server_harness import Server

    from moesaic.server.admin_client import AdminClient
    from moesaic.server.client import Client


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests of kernels, and no others, on a CUDA device")
    parser.addoption("--kernels", type=int, metavar="N", help="run N tests of kernels a file, and no others")
    parser.addoption("--real", action="store_true", help="run tests on published models of a real size")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--gpu"):
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # training takes a GPU where it sees one
        config.addinivalue_line(
            "filterwarnings",
            "ignore:Conversion of an array with ndim > 0:DeprecationWarning:triton.runtime.interpreter",
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    few = config.getoption("--kernels")
    if config.getoption("--gpu") or few is not None:
        kept = spread([item for item in items if is_of_a_kernel(item)], few)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    reasons = {
        "gpu": "needs --gpu and a CUDA device",
        "real": "needs --real and: moesaic models get smollm2, minilm, t5",
    }
    for name, reason in reasons.items():
        if not config.getoption(f"--{name}"):
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread, but for real models: beside small operands torch's second one costs more than it brings."""
    if item.get_closest_marker("real") is None:
        torch.set_num_threads(1)


def is_of_a_kernel(item: pytest.Item) -> bool:
    """A test may also have a parameter called `device`, which is not the fixture."""
    takes_device = "device" in getattr(item, "fixturenames", ())
    given = getattr(getattr(item, "callspec", None), "params", {})
    return (takes_device and "device" not in given) or item.get_closest_marker("gpu") is not None


def spread(items: list[pytest.Item], few: int | None) -> list[pytest.Item]:
    """At most `few` tests a file that can run here, at equal distances; all where that is None."""
    if few is None:
        return items
    kept = []
    for file in dict.fromkeys(item.path for item in items):
        mine = [item for item in items if item.path == file and not item.get_closest_marker("gpu")]
        kept += mine[:: max(1, -(-len(mine) // few))] if few else []
    return kept


@pytest.fixture(scope="session", autouse=True)
def fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache without stages and scores of another run, with the models and C++ libraries that are there already."""
    mine, cache = cache_folder(), tmp_path_factory.mktemp("cache")
    for name in ("native", "models"):
        (mine / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(mine / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOESAIC_CACHE", str(cache))
        yield


@pytest.fixture(scope="module")
def server() -> "Iterator[Server]":
    """A server of its own for each file of tests; a file that needs another one defines it."""
    from server_harness import Server

    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: "Server") -> "Iterator[Client]":
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def admin(server: "Server") -> "Iterator[AdminClient]":
    with server.admin() as admin:
        yield admin


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where a Triton kernel runs: "cuda", or "cpu" by the interpreter."""
    pytest.importorskip("triton")
    if request.config.getoption("--gpu"):
        return "cuda"
    multiply_bf16_as_fp32()
    round_to_bf16()
    execute_assembly()
    return "cpu"


def multiply_bf16_as_fp32() -> None:
    """The interpreter's dot multiplies the bit patterns of bf16 operands; this widens them first."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_dot

    def wide(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        data = interpreter._convert_float(operand.data, tl.bfloat16, tl.float32, None).view(np.float32)
        return interpreter.TensorHandle(data, tl.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return original(self, wide(a), wide(b), d, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def round_to_bf16() -> None:
    """The interpreter cuts fp32 off where it becomes bf16; a GPU rounds to nearest, as this does."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_fp_trunc

    def create_fp_trunc(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return original(self, source, target)
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        data = np.where(np.isnan(source.data), 0x7FC0, nearest).astype(np.uint16)
        return interpreter.TensorHandle(data, target.scalar)

    interpreter.InterpreterBuilder.create_fp_trunc = create_fp_trunc


def execute_assembly() -> None:
    """The interpreter knows none; this does what the instructions do."""
    import triton.language as tl
    from instructions import Result, executed
    from triton.runtime import interpreter

    def create_inline_asm(self: Any, assembly: str, constraints: str, values: Any, *rest: Any) -> Result:
        found = executed(assembly, [value.data for value in values])
        return Result(interpreter.TensorHandle(found, tl.int32))

    interpreter.InterpreterBuilder.create_inline_asm = create_inline_asm

"""A step on machines that have less, and of models that a program does not know: it runs, and says why it is slower.

Each case is looked at beside the same model module by module. Rows that are no number: tests/test_program.py.
"""

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moesaic.bench.gpu.random_models import random_model
from moesaic.engine.runner import ModelRunner, Span
from moesaic.kernels import native as native_module
from moesaic.kernels.native import Native, native
from moesaic.models import threads as threads_module
from moesaic.models.threads import choose_threads, processors

NO_VECTORS = "there is no C++ library for this processor's vector instructions"
LARGE = 1 << 30  # bytes of a model that is worth all threads


@pytest.fixture
def library() -> Iterator[Native]:
    found = native()
    if found is None or found.isa == 0:
        pytest.skip("this machine has less by itself")
    yield found
    native_module._load.cache_clear()


def runner(programmed: bool = True) -> ModelRunner:
    torch.manual_seed(0)
    return ModelRunner(random_model("toy", "int8", "cpu", torch.float32), 16, 64, torch.float32, programmed=programmed)


def logits(of: ModelRunner, threads: int = 1) -> Tensor:
    of.use_threads(threads)
    return of.forward([Span([3, 4, 5], 0, range(4)), Span([9], 0, range(4, 8))]).logits


@pytest.mark.parametrize("case", ["no AVX2", "no compiler", "a head that is too large", "a weight that is too wide"])
def test_what_no_program_takes_runs_module_by_module_and_says_why(
    case: str, library: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, said = logits(runner(programmed=False)), NO_VECTORS
    if case == "no AVX2":
        monkeypatch.setattr("moesaic.models.program.native", lambda: Native(library.library, 0))
    elif case == "no compiler":
        monkeypatch.setenv("PATH", "")
        native_module._load.cache_clear()
    elif case == "a head that is too large":
        monkeypatch.setattr("moesaic.models.program.MOST_SIZE", 4)
        said = "its heads have 8 values, and the most is 4"
    else:
        monkeypatch.setattr("moesaic.models.program.MAX_INPUTS", 40)
        said = "there is no instruction for embedding, a weight of [256, 48] in torch.int8"
    odd = runner()
    assert odd.program is None and odd.without_program == said
    assert (logits(odd) - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("threads", [1, 16, 64])
def test_more_threads_than_processors_change_no_bit(threads: int, library: Native) -> None:
    one = runner()
    assert one.program is not None and logits(one, threads).equal(logits(one))


def test_one_processor_gives_the_same_bits(library: Native) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processors cannot be taken away here")
    mine, wanted = os.sched_getaffinity(0), logits(runner(), 2)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert processors() == choose_threads(None, LARGE) == 1 and logits(runner(), 2).equal(wanted)
    finally:
        os.sched_setaffinity(0, mine)


@pytest.mark.parametrize(
    ("text", "found"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("-1 100000", 8), ("?", 8), (None, 8)],
)
def test_a_container_gives_no_more_threads_than_its_quota(
    text: str | None, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new, *old) = (tmp_path / name for name in ("cpu.max", "quota", "period"))
    monkeypatch.setattr(threads_module, "_QUOTA", new)
    monkeypatch.setattr(threads_module, "_OLD_QUOTA", tuple(old))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if text is not None:
        new.write_text(text)
    assert choose_threads(None, LARGE) == found
    if text == "250000 100000":
        new.unlink()
        for file, number in zip(old, text.split(), strict=True):
            file.write_text(number)
        assert choose_threads(None, LARGE) == found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_process_that_is_forked_after_the_load_computes_the_same(library: Native) -> None:
    one = runner()
    wanted = logits(one, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, that threads are not forked: so it is
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if logits(one, 2).equal(wanted) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

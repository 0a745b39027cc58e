"""A decode step of fixed size: the same tokens as any step, and on a GPU that is not there, nothing but its own numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from moesaic.bench.gpu.random_models import KINDS, LOW, random_model
from moesaic.engine.form import Form, FormSize, size_for
from moesaic.engine.lockstep import Lockstep
from moesaic.engine.runner import ModelRunner, Span
from moesaic.kernels import int8_linear as kernel


def rows_of(kind: str, device: str = "cpu") -> Lockstep:
    torch.manual_seed(0)
    model = random_model("toy", kind, device, torch.float32)
    runner = ModelRunner(model, Lockstep.blocks(64, 4) + 1, 64, torch.float32)
    return Lockstep(runner, 4, 64)


def points_of(rows: Lockstep, *points: float) -> Sequence[float]:
    return points if rows.runner.model.spec.num_tiers > 1 else [0.0] * len(points)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [(0.0, 0.0, 0.0), (0.0, LOW, LOW), (0.5, LOW, LOW), (0.0, 0.0, 0.5)])
def test_a_form_draws_what_a_step_of_any_size_draws(kind: str, points: tuple[float, ...]) -> None:
    rows = rows_of(kind)
    for row in range(3):
        rows.prefill(row, range(3, 9 + 7 * row))
    spans = [Span([row + 5], 6 + 7 * row, rows._tables[row], p) for row, p in enumerate(points_of(rows, *points))]
    wanted = rows.runner.forward(spans)
    form = Form(rows.runner, size_for(spans), spare=rows.runner.num_blocks - 1)
    form.fill(spans, [0.0] * 3, [0.5] * 3)
    found = form.read(form.run())
    assert found.tokens == wanted.logits.argmax(-1).tolist() and found.finite == [True] * 3
    if wanted.shares is not None:
        assert torch.allclose(torch.tensor(found.shares), wanted.shares.float())


def test_the_smallest_form_with_room_is_taken() -> None:
    spans = [Span([1], 0, range(5), point) for point in (0.0, 0.0, 0.0, 1.0, 1.0)]
    assert size_for(spans) == FormSize(full=4, sparse=2, blocks=8) and size_for(spans[:1]) == FormSize(1, 0, 8)


# --- on a GPU that is not there -------------------------------------------------------------------------------------


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors without numbers that say they are on a GPU: whoever asks for one, or mixes devices, fails."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield


class Recorder(TorchDispatchMode):
    """Every operation with the shapes of its tensors and all its other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def told(value: Any) -> Any:
            if isinstance(value, Tensor):
                return (tuple(value.shape), str(value.dtype), str(value.device))
            return [told(each) for each in value] if isinstance(value, list | tuple) else repr(value)

        self.seen.append(f"{func} {told(args)} {told(list((kwargs or {}).items()))}")
        return func(*args, **(kwargs or {}))


def recorded(form: Form, spans: Sequence[Span], temperature: float) -> list[str]:
    form.fill(spans, [temperature] * len(spans), [0.25] * len(spans))
    with Recorder() as recorder:
        form.run()
    return recorder.seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("full", "sparse"), [(2, 0), (0, 2), (2, 2)])
def test_two_steps_with_other_numbers_are_the_same_operations(
    kind: str, full: int, sparse: int, fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "HAS_TRITON", False)  # whose launches are seen by no tensor that is not there
    rows = rows_of(kind, "cuda")
    if rows.runner.model.spec.num_tiers == 1 and sparse:
        pytest.skip("one tier only")
    form = Form(rows.runner, FormSize(full, sparse, 4), spare=0)

    def spans(token: int, start: int, point: float, count: int) -> list[Span]:
        return [Span([token + i], start + i, range(1, 4), point if i >= full else 0.0) for i in range(count)]

    first = recorded(form, spans(5, 3, LOW, full + sparse), 0.0)
    second = recorded(form, spans(17, 40, 0.25, full + sparse), 1.3)
    assert first == second and len(first) > 50 and all("cpu" not in each for each in first)
    assert not any("_local_scalar_dense" in each or "nonzero" in each for each in first)

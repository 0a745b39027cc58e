"""A decode step of fixed size: the tokens of any step, and on a GPU that is not there the same operations each time."""

import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from engine_harness import finish, tokens_of
from fake_gpu import Recorder, fake_gpu

from moesaic.bench.gpu.random_models import KINDS, LOW, SHAPES, random_model
from moesaic.engine.engine import Engine
from moesaic.engine.form import Form, Forms, FormSize, size_for
from moesaic.engine.lockstep import Lockstep
from moesaic.engine.request import Request, Stopping
from moesaic.engine.runner import ModelRunner, Span
from moesaic.engine.sampler import Drawn
from moesaic.engine.sampling import Sampling

OPT = {
    "model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 64, "activation_function": "relu",
    "do_layer_norm_before": True, "tie_word_embeddings": True,
}  # fmt: skip
GEMMA3 = {
    "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "sliding_window": 9,
    "max_position_embeddings": 64, "layer_types": ["sliding_attention", "full_attention"],
    "final_logit_softcapping": 20.0,
}  # fmt: skip
FAMILIES = ["llama", "opt", "gemma3"]
TIERED = ("tiles", "planes", "graded")


def rows_of(kind: str, device: str = "cpu", family: str = "llama") -> Lockstep:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "opt", OPT)
        patch.setitem(SHAPES, "gemma3", GEMMA3)
        model = random_model("toy" if family == "llama" else family, kind, device, torch.float32)
    runner = ModelRunner(model, Lockstep.blocks(64, 4), 64, torch.float32, programmed=False)
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
    found = Forms(rows.runner).step(spans, [0.0] * 3, [0.5] * 3)
    assert [each.token for each in found] == wanted.logits.argmax(-1).tolist()
    if wanted.shares is not None:
        assert torch.allclose(torch.tensor([each.beside for each in found]), wanted.shares.float())


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_draws_the_same_tokens_in_forms(kind: str) -> None:
    found = []
    for in_forms in (False, True):
        runner = rows_of(kind).runner
        engine = Engine(runner, num_slots=5, forms=Forms(runner) if in_forms else None)
        for key in range(5):
            point = LOW if key % 2 and runner.model.spec.num_tiers > 1 else 0
            sampling = Sampling(temperature=key / 4, seed=key, repetition_penalty=1.5 if key == 4 else 1)
            ids = tuple(range(3, 6 + 4 * key))
            engine.add(Request(key, ids, sampling, Stopping(4 + key, ignore_eos=True), operating_point=point))
        rows = finish(engine)
        found.append([(tokens_of(rows[key]), rows[key][-1].shares) for key in range(5)])
    assert found[0] == found[1]


def test_a_form_that_fails_is_told_and_costs_no_token(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Forms):
        def step(self, *_: object) -> list[Drawn]:
            raise RuntimeError("no such kernel")

    found = []
    for forms in (None, Broken(rows_of("dense").runner)):
        engine = Engine(rows_of("dense").runner, forms=forms)
        engine.add(Request(0, (3, 4), Sampling(temperature=0), Stopping(5, ignore_eos=True)))
        found.append(tokens_of(finish(engine)[0]))
    assert found[0] == found[1] and "no such kernel" in caplog.text


def test_rows_that_are_filling_touch_nobody() -> None:
    rows = rows_of("dense")
    held = [(layer.keys.clone(), layer.values.clone()) for layer in rows.runner.pages.layers]
    Forms(rows.runner).step([Span([5], 0, [1], 0.0)] * 3, [0.0] * 3, [0.0] * 3)
    for (keys, values), layer in zip(held, rows.runner.pages.layers, strict=True):
        changed = (keys != layer.keys).flatten(1).any(1) | (values != layer.values).flatten(1).any(1)
        assert set(changed.nonzero().flatten().tolist()) <= {1, rows.runner.spare}


def test_the_smallest_form_with_room_is_taken() -> None:
    spans = [Span([1], 0, range(5), point) for point in (0.0, 0.0, 0.0, 1.0, 1.0)]
    assert size_for(spans) == FormSize(full=4, sparse=2, blocks=8) and size_for(spans[:1]) == FormSize(1, 0, 8)


# --- on a GPU that is not there -------------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, module in sys.modules.items():  # a launch of Triton is no operation of torch, so nothing would see it
        if name.startswith("moesaic.kernels.") and hasattr(module, "HAS_TRITON"):
            monkeypatch.setattr(module, "HAS_TRITON", False)
    with fake_gpu():
        yield


def recorded(form: Form, spans: Sequence[Span], temperature: float) -> list[str]:
    form.fill(spans, [temperature] * len(spans), [0.25] * len(spans))
    with Recorder() as recorder:
        form.run()
    return [str(each) for each in recorder.seen]


@pytest.mark.parametrize(
    ("kind", "family", "full", "sparse"),
    [
        *((kind, "llama", full, 2 - full) for kind in TIERED for full in (0, 2)),
        *((kind, family, 2, 2 * (kind in TIERED)) for kind in KINDS for family in FAMILIES),
    ],
)
def test_two_steps_with_other_numbers_are_the_same_operations(
    kind: str, family: str, full: int, sparse: int, fake: None
) -> None:
    rows = rows_of(kind, "cuda", family)
    form = Form(rows.runner, FormSize(full, sparse, 4))

    def spans(token: int, start: int, point: float, count: int) -> list[Span]:
        return [Span([token + i], start + i, range(1, 4), point if i >= full else 0.0) for i in range(count)]

    first = recorded(form, spans(5, 3, LOW, full + sparse), 0.0)
    second = recorded(form, spans(17, 40, 0.25, full + sparse), 1.3)
    assert first == second and len(first) > 50 and all("cpu" not in each for each in first)
    assert not any("_local_scalar_dense" in each or "nonzero" in each for each in first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_that_reads_prompts_mixes_no_devices(kind: str, family: str, fake: None) -> None:
    rows = rows_of(kind, "cuda", family)
    point = LOW if rows.runner.model.spec.num_tiers > 1 else 0.0
    forward = rows.runner.forward(
        [Span(range(20), 0, range(4), 0.0), Span([3], 5, [4], point), Span(range(7), 16, range(5, 8), point, scored=7)]
    )
    assert forward.logits.shape == (9, rows.runner.vocab_size) and forward.logits.is_cuda
    rows.runner.copy([(1, 2)])

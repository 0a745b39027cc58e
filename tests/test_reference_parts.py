"""The parts of training: description, vocabulary, windows, schedule, loss and attention, each alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from moesaic.bench.reference.corpus import Corpus, WindowOrder, even_windows, pack
from moesaic.bench.reference.description import read_description, shipped_descriptions
from moesaic.bench.reference.loss import TrainingContext, token_loss
from moesaic.bench.reference.model import build_model, check_memory, count_parameters
from moesaic.bench.reference.place import choose_place
from moesaic.bench.reference.train import main
from moesaic.compress.schedule import Plan, learning_rate
from moesaic.evaluate.texts import embedded_text
from moesaic.models.context import CausalContext
from moesaic.models.errors import RecipeError, SetupError, TextError

TINY = {
    "family": "opt", "width": 16, "layers": 1, "heads": 2, "ffn_width": 32, "context": 16, "vocabulary": 300,
    "batch": 3, "tokens": 4800, "learning_rate": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    "name, millions", [("relu-30m", 30), ("relu-10m", 10), ("relu-3m", 3), ("relu-2m", 2), ("swiglu-10m", 10)]
)
def test_shipped_descriptions_have_the_size_of_their_name(name: str, millions: int) -> None:
    description = read_description(name)
    assert name in shipped_descriptions()
    assert count_parameters(description) == pytest.approx(millions * 1e6, rel=0.06)
    assert description.tokens > 20 * count_parameters(description)
    assert description.family == "llama" or description.ffn_width == 8 * description.width


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"widht": 16}, "unknown key 'widht'; did you mean 'width'"),
        ({"width": 17}, "width 17 does not divide into 2 heads"),
        ({"kv_heads": 2}, "kv_heads is 2; it is for llama"),
        ({"family": "gpt2"}, "family: Input should be 'opt' or 'llama'"),
        ({"learning_rate": "fast"}, "learning_rate: Input should be a valid number"),
    ],
)
def test_mistakes_in_a_description_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_description(TINY | changes)


def test_an_unknown_name_is_told_with_what_was_meant() -> None:
    with pytest.raises(RecipeError, match="did you mean 'relu-10m'"):
        read_description("relu-1m0")


def test_a_model_too_large_for_memory_is_refused() -> None:
    with pytest.raises(SetupError, match=r"needs about .* GB, 1.0 GB are free"):
        check_memory(read_description("relu-30m"), 2, 10**9)


def packed(folder: Path, *files: Path, max_bytes: int | None = None) -> Corpus:
    return pack(folder, read_description(TINY), files or [embedded_text()], [embedded_text()], max_bytes, print)


def test_packing_is_deterministic(tmp_path: Path) -> None:
    one, two = packed(tmp_path / "one"), packed(tmp_path / "two")
    for name in ("train.bin", "valid.bin", "tokenizer.json", "corpus.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_packed_ids_are_those_of_the_tokenizer_and_begin_documents(tmp_path: Path) -> None:
    file = tmp_path / "two.txt"
    long = embedded_text().read_text().replace("<|endoftext|>", "")
    file.write_text(long + "\n<|endoftext|>\nA second document.\n")
    corpus = packed(tmp_path / "corpus", file)
    starts = np.flatnonzero(corpus.train == 0)
    parts = [part.tolist() for part in np.split(corpus.train, starts)[1:]]
    assert corpus.train[0] == 0 and len(parts) == 2
    assert {corpus.tokenizer().decode(part) for part in parts} == {long.strip(), "A second document."}


def test_a_subset_of_the_text_fits_its_limit(tmp_path: Path) -> None:
    corpus = packed(tmp_path / "corpus", max_bytes=1000)
    assert (corpus.folder / "train.bin").stat().st_size == 1000
    assert sum(text.tokens for text in corpus.texts) == 500


@pytest.mark.parametrize("content, message", [(b"", "no text"), (b"\xff\xfe\x00", "not UTF-8"), (b"few", "vocabulary")])
def test_bad_text_is_refused_and_leaves_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(TextError, match=message):
        packed(tmp_path / "corpus", file)
    assert list(tmp_path.iterdir()) == [file]


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order() -> None:
    ids = np.arange(16 * 11 + 1, dtype="<u2")
    order = WindowOrder(ids, context=16, batch=5, seed=3)
    first, second = ([order.rows(step) for step in steps] for steps in ((0, 1), (2, 3)))
    for rows in (np.concatenate(first), np.concatenate(second)):
        begins = np.sort(rows[:, 0])
        assert len(begins) == 10 and (np.diff(begins) == 16).all()
        assert (np.diff(rows, axis=1) == 1).all()
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_a_window_depends_on_its_step_alone() -> None:
    ids = np.arange(1000, dtype="<u2")
    forward, alone = WindowOrder(ids, 16, 5, 0), WindowOrder(ids, 16, 5, 0)
    steps = [forward.rows(step) for step in range(40)]
    assert np.array_equal(alone.rows(37), steps[37]) and np.array_equal(alone.rows(2), steps[2])


def test_validation_windows_are_spread_evenly() -> None:
    rows = even_windows(np.arange(1001, dtype="<u2"), context=10, count=4)
    assert rows[:, 0].tolist() == [0, 250, 500, 750] and rows.shape == (4, 11)
    assert even_windows(np.arange(5, dtype="<u2"), context=10, count=4).shape == (0, 11)


def test_the_schedule_warms_up_and_ends_at_its_share() -> None:
    plan = Plan(1000)
    rates = [learning_rate(plan, step, 1.0, 0.1, 50) for step in range(1001)]
    assert rates[0] < 0.03 and np.argmax(rates) in range(48, 53)
    assert rates[-1] == pytest.approx(0.1) and (np.diff(rates[60:]) < 0).all()


def test_a_plan_laid_anew_goes_on_from_the_same_rate() -> None:
    plan = Plan(1000)
    shorter = plan.relaid(400, steps_left=100)
    assert shorter.share(400) == plan.share(400) and shorter.share(500) == 1.0


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_loss_is_cross_entropy_with_its_gradients(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (21, 37))
    targets = torch.randint(0, 37, (21,), generator=generator)
    expected = functional.cross_entropy(states @ weight.t(), targets, reduction="sum")
    wanted = torch.autograd.grad(2 * expected, (states, weight))
    loss = token_loss(states, weight, targets, dtype, rows=5)
    found = torch.autograd.grad(2 * loss, (states, weight))
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * 4)


def test_training_attention_is_causal_attention_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, heads, 9, 4, generator=generator).requires_grad_() for heads in (4, 2, 2)]
    grad = torch.randn(2, 4, 9, 4, generator=generator)
    ours, theirs = (context.attend(0, parts[0], parts[1], parts[2]) for context in (TrainingContext(), CausalContext()))
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours, parts, grad), torch.autograd.grad(theirs, parts, grad), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_equal_seeds_give_equal_first_weights() -> None:
    cpu = torch.device("cpu")
    one, two = (build_model(read_description(TINY), cpu).state_dict() for _ in range(2))
    other = build_model(read_description(TINY | {"seed": 1}), cpu).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


def test_a_place_has_no_more_workers_than_windows() -> None:
    assert choose_place("cpu", "float32", 8, batch=3).num_workers == 3
    with pytest.raises(SetupError, match="for CUDA"):
        choose_place("cpu", "float32", 1, batch=3, compiled=True)


def test_the_command_tells_a_mistake_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relu-3m", str(tmp_path / "run"), "--text", str(tmp_path / "none.txt")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no text file")
    assert main(["relu-3m", str(tmp_path / "run"), "--minutes", "-1"]) == 2
    assert capsys.readouterr().err == "error: --minutes is -1, it must be more than 0\n"

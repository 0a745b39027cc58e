"""A model run over text: what is counted of its neurons and experts is what a slow look at all of it at once finds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import opt
from torch import Tensor

from moesaic.cli.main import main
from moesaic.compress.diagnose.activity import NEGLIGIBLE, ActivityCount, LayerActivity
from moesaic.compress.diagnose.diagnosis import Diagnosis, diagnose
from moesaic.compress.diagnose.passages import Passages, read_passages
from moesaic.compress.diagnose.usage import LayerUsage, UsageCount, gini, mean_unions
from moesaic.compress.moefy.union import consecutive_unions
from moesaic.compress.pipeline import compress
from moesaic.compress.walk import walk
from moesaic.models.checkpoint import Checkpoint, load, open_checkpoint
from moesaic.models.errors import CheckpointError, SetupError, TextError
from moesaic.models.ffn.dense import FFN
from moesaic.models.linear import dense_weight
from moesaic.models.spec import FFNSpec

TIERS = {"high": 0.8, "low": 0.5}
TEXT = "Once upon a time, there was a little girl named Lily. She liked to play with her ball in the park. " * 40


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of 8 neurons, the last of each layer of 4."""
    folder = tmp_path_factory.mktemp("diagnosis")
    compress("stories260k", folder / "moe", {
        "calibration": {"sequences": 12, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"moefy": {"expert_size": 8, "router_width": 16, "tiers": TIERS}}],
    })  # fmt: skip
    (folder / "text.txt").write_text(TEXT)
    return folder / "moe"


def passages(folder: Path, tokens: int = 600) -> Passages:
    return read_passages(open_checkpoint(folder), [folder.parent / "text.txt"], tokens)


def quiet(*_: Any) -> None:
    pass


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- neurons -------------------------------------------------------------------------------------------------------


def ffn(activation: str, width: int = 40) -> FFN:
    made = FFN(12, FFNSpec(width, activation, gated=False))
    torch.nn.init.normal_(made.up.weight, generator=torch.Generator().manual_seed(3))
    torch.nn.init.normal_(made.down.weight, generator=torch.Generator().manual_seed(4))
    return made.requires_grad_(False)


def activity(of: FFN, *parts: Tensor) -> LayerActivity:
    count = ActivityCount(of)
    for part in parts:
        count.add(of.hidden(part))
    return count.result()


def test_after_relu_inactive_is_zero_and_dead_is_zero_on_every_token() -> None:
    made, x = ffn("relu"), randn(5, 30, 12).abs()
    made.up.weight[[3, 17]] = -1.0
    found, silent = activity(made, x), made.hidden(x) == 0
    assert found.exact and {3, 17} <= set(found.dead) < set(range(40))
    assert found.dead == tuple(silent.all(0).all(0).nonzero().flatten().tolist())
    assert found.inactive == pytest.approx(float(silent.float().mean()))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_a_smooth_neuron_is_inactive_where_it_adds_a_hundredth_of_the_rms(activation: str) -> None:
    made, x = ffn(activation), randn(5, 300, 12)
    made.down.weight[:, 7] = 0
    found, outputs = activity(made, x), made.hidden(x).abs() * dense_weight(made.down).norm(dim=0)
    assert not found.exact and found.dead == (7,)
    assert found.rms == pytest.approx(float(outputs.square().mean().sqrt()), rel=1e-4)
    assert found.inactive == pytest.approx(float((outputs <= NEGLIGIBLE * found.rms).float().mean()), abs=1e-3)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_text_may_come_in_any_parts(activation: str) -> None:
    made, x = ffn(activation), randn(6, 20, 12)
    whole, parts = activity(made, x), activity(made, x[:1], x[1:4], x[4:])
    assert (whole.inactive, whole.dead) == (parts.inactive, parts.dead)
    assert whole.rms == pytest.approx(parts.rms)


def test_a_neuron_that_fires_in_one_part_of_the_text_is_not_dead() -> None:
    made, x = ffn("relu"), torch.ones(1, 2, 12)
    made.up.weight[3] = 1.0
    dead = [activity(made, *parts).dead for parts in ([x, -x], [-x, x], [-x])]
    assert [3 in each for each in dead] == [False, False, True]


# --- experts -------------------------------------------------------------------------------------------------------


def usage(active: Tensor, norms: Tensor) -> LayerUsage:
    count = UsageCount(active.shape[-1])
    count.add(active, norms)
    return count.result()


def test_a_router_that_ranks_as_the_norms_do_is_perfect() -> None:
    norms = randn(2, 32, 10).abs()
    kept = torch.arange(32) % 8 + 1  # of each token
    active = norms >= norms.sort(dim=-1, descending=True).values.gather(-1, (kept - 1).expand(2, 32).unsqueeze(-1))
    found = usage(active, norms.flatten(0, 1))
    assert found.recall == 1 and found.captured == found.perfect < 1
    assert found.k_mean == pytest.approx(0.45) and (found.k_p10, found.k_p90) == (0.1, 0.8)


def test_a_router_that_takes_the_weakest_captures_the_least() -> None:
    norms = torch.arange(1.0, 11).expand(16, 10)
    found = usage(norms.view(1, 16, 10) <= 4, norms)
    assert found.recall == 0 and [found.captured, found.perfect] == pytest.approx([10 / 55, 34 / 55])


def test_of_experts_that_give_nothing_any_is_as_right_as_another() -> None:
    norms, active = torch.zeros(4, 6), torch.zeros(1, 4, 6, dtype=torch.bool)
    norms[:, 2], active[..., [2, 5]] = 1.0, True
    assert usage(active, norms).recall == 1


def test_where_nothing_is_computed_nothing_is_wrong() -> None:
    found = usage(torch.zeros(1, 4, 6, dtype=torch.bool), torch.ones(4, 6))
    assert (found.recall, found.captured, found.k_p90, found.gini) == (1, 0, 0, 0) and len(found.rare) == 6


def test_rare_experts_are_those_of_fewer_than_one_token_in_a_thousand() -> None:
    active = torch.zeros(10, 200, 3, dtype=torch.bool)
    active[0, 0, 0] = active[0, :2, 1] = active[:, :, 2] = True
    assert usage(active, torch.ones(2000, 3)).rare == (0,)


def test_gini_goes_from_equal_use_to_one_expert_for_all() -> None:
    assert gini(torch.full((8,), 0.3)) == pytest.approx(0) and gini(torch.eye(8)[0]) == pytest.approx(7 / 8)
    assert gini(torch.tensor([1.0, 3.0])) == pytest.approx(0.25)  # |1 - 3| * 2 of 4 pairs, over twice the mean


def test_tokens_in_a_row_that_want_the_same_touch_no_more_than_one_does() -> None:
    runs = (torch.rand(3, 4, 1, 20, generator=torch.Generator().manual_seed(0)) < 0.3).expand(3, 4, 8, 20)
    shares = {size: total / groups for size, (total, groups) in consecutive_unions(runs.reshape(3, 32, 20)).items()}
    assert shares[1] == shares[2] == shares[4] == shares[8] < shares[16] < shares[32] and 64 not in shares


def test_unions_count_each_group_once_and_no_group_spans_passages() -> None:
    active = torch.eye(6, dtype=torch.bool).view(2, 3, 6)  # each token an expert of its own
    assert consecutive_unions(active, (1, 2, 3, 4)) == {1: (1.0, 6), 2: (2 / 6 * 2, 2), 3: (3 / 6 * 2, 2)}


def test_tokens_independent_of_each_other_touch_together_what_chance_says() -> None:
    active = torch.rand(40, 256, 30, generator=torch.Generator().manual_seed(1)) < torch.linspace(0.02, 0.6, 30)
    found = usage(active, torch.ones(40 * 256, 30))
    assert all(real == pytest.approx(chance, abs=0.01) for real, chance in mean_unions([found]).values())


# --- passages ------------------------------------------------------------------------------------------------------


def test_a_short_text_is_read_whole_and_in_order(moe: Path) -> None:
    found = passages(moe, 10**6)
    assert found.tokens == found.available and {len(piece) for piece in found.pieces[:-1]} == {256}
    joined = [i for piece in found.pieces for i in piece]
    assert joined == [i for batch in found.batches() for i in batch.flatten().tolist()]


@pytest.mark.parametrize("tokens", [2, 7, 256, 300, 700])
def test_no_more_tokens_are_read_than_asked_for(moe: Path, tokens: int) -> None:
    found, whole = passages(moe, tokens), passages(moe, 10**6)
    assert tokens - 256 < found.tokens <= tokens and found.available == whole.available
    assert all(batch.shape[1] <= min(tokens, 256) for batch in found.batches())


def test_a_part_of_a_text_is_taken_from_all_of_it(moe: Path) -> None:
    whole, part = passages(moe, 10**6).pieces, passages(moe, 512).pieces
    assert part == (whole[0], whole[len(whole) // 2])


# --- a whole model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(moe: Path) -> Diagnosis:
    return diagnose(open_checkpoint(moe), passages(moe), quiet)


def test_every_layer_and_tier_is_told(found: Diagnosis) -> None:
    assert found.experts == (22,) * 5 and len(found.layers) == 5 and list(found.tiers) == ["high", "low"]
    high, low = (found.tiers[name] for name in ("high", "low"))
    for i in range(5):
        assert high[i].k_mean > low[i].k_mean and high[i].captured > low[i].captured
        assert 0 < high[i].captured <= high[i].perfect < 1 and high[i].recall > high[i].k_mean


def test_the_experts_counted_are_the_neurons_that_the_model_says_it_computed(moe: Path, found: Diagnosis) -> None:
    model = load(moe)
    sizes = torch.tensor([8.0] * 21 + [4.0])
    for index, layers in enumerate(found.tiers.values(), 1):
        batches = list(passages(moe).batches())
        computed = sum(walk(model, batch, quiet, index)[1] * batch.numel() for batch in batches) / found.tokens
        counted = sum(float(torch.tensor(layer.usage) @ sizes) for layer in layers) / (5 * 172)
        assert counted == pytest.approx(computed, abs=1e-6)


def test_the_union_of_one_token_is_its_own_share(found: Diagnosis) -> None:
    for layer in found.tiers["low"]:
        assert layer.unions[1] == pytest.approx(layer.k_mean) == pytest.approx(layer.by_chance[1])
        assert list(layer.unions.values()) == sorted(layer.unions.values())


def test_a_diagnosis_is_json_with_every_expert(found: Diagnosis) -> None:
    values = json.loads(json.dumps(found.to_json()))
    layer = values["tiers"]["low"][4]
    assert len(layer["usage"]) == 22 and layer["usage_summary"]["max"] == max(layer["usage"]) and layer["gini"] > 0


def test_a_dense_model_has_neurons_and_no_tiers(tmp_path: Path) -> None:
    opt(tmp_path / "model")
    (tmp_path / "text.txt").write_text("Some text that a model of bytes reads.")
    dense = diagnose(open_checkpoint(tmp_path / "model"), passages(tmp_path / "model"), quiet)
    assert dense.tiers == {} and dense.experts == (0, 0, 0)
    assert all(layer.exact and 0.2 < layer.inactive < 0.8 for layer in dense.layers)


# --- as it is typed ------------------------------------------------------------------------------------------------


def test_inspect_shows_experts_on_text_and_draws_them(
    moe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, picture = str(moe.parent / "text.txt"), tmp_path / "experts.png"
    assert main(["inspect", str(moe), "--experts", "--text", text, "--tokens", "300", "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("experts at high", "experts at low", "recall", "used together", "dead"))
    assert "ships for calibration" not in shown and picture.read_bytes().startswith(b"\x89PNG")


def test_inspect_reads_the_text_that_ships_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "stories260k", "--experts", "--tokens", "300", "--text"]) == 0
    shown = capsys.readouterr().out
    assert "run over calibration.txt: 256 tokens of 187,996" in shown and "this model has no experts" in shown


def test_inspect_gives_the_diagnosis_as_json(moe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(moe.parent / "text.txt")
    assert main(["inspect", str(moe), "--json", "--experts", "--tokens", "300", "--text", text]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["diagnosis"]["tiers"]["low"]) == 5 and "memory" not in shown and shown["spec"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--text", "say what to look for: --experts or --memory"),
        ("--experts --picture a.png", "--picture draws what --experts --text finds; add both"),
        ("--experts --picture . --text", "--picture . is a directory; name a file in it"),
        ("--experts --picture nope/a.png --text", "there is no directory nope"),
        ("--experts --text nope.txt", "there is no text file 'nope.txt'"),
        ("--experts --text empty.txt", "there is no text in empty.txt; give a file with at least one document"),
        ("--experts --tokens 1 --text", "tokens is 1, it must be at least 2"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    assert main(["inspect", "stories260k", *options.split()]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err and not shown.out and len(shown.err.splitlines()) == 1


def test_text_needs_a_tokenizer_and_two_tokens(tmp_path: Path) -> None:
    checkpoint = open_checkpoint("stories260k")
    (tmp_path / "text.txt").write_text("<|endoftext|>\n \n")
    with pytest.raises(TextError, match="there is no text in"):
        read_passages(checkpoint, [tmp_path / "text.txt"], 100)
    with pytest.raises(SetupError, match="tokens is 0, it must be at least 2"):
        read_passages(checkpoint, [], 0)
    without = Checkpoint(tmp_path, {}, checkpoint.family, checkpoint.spec, checkpoint.spec, {})
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json; copy it there"):
        read_passages(without, [], 100)

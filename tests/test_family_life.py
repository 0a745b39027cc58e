"""Every family through all that is done with a model: compressed, looked at, scored, written for others, and served."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from family_cases import DECODERS, Case, fullest
from torch import Tensor

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import RecipeError
from moesaic.server.client import Client

IDS = torch.arange(40).unsqueeze(0) * 5 % 256
TEXT = "Once upon a time, there was a little girl named Lily. She liked to play with her ball in the park.\n" * 8
MIXTURES = ("mixtral", "olmoe", "qwen3_moe")
DENSE = [family for family in DECODERS if family not in MIXTURES]
OF_NEURONS = ("llama", "gpt_neox", "gemma3_text", "olmo2")  # a Llama, blocks side by side, norms after and both
PRUNE, INT8 = {"prune": {"remove": 0.25}}, {"quantize": {"linears": "int8"}}
PLAIN_PRUNE = {"prune": {"remove": 0.25, "allocation": "uniform", "compensate": False}}
DISTIL = {"distill": {"tokens": 128, "batch": 2}}
RECIPES: Mapping[str, list[dict[str, Any]]] = {
    "graded": [PRUNE, {"moefy": {"grain": "inputs", "tiers": {"low": 0.6}}}, INT8],
    "neurons": [{"moefy": {"grain": "neurons", "tiers": {"low": 0.6}}}, INT8],
    "mixture": [DISTIL, {"moefy": {"tiers": {"high": 0.8, "low": 0.5}}}, INT8],
    "tiles": [DISTIL, {"moefy": {"expert_size": 8, "router_width": 4, "tiers": {"low": 0.6}}}],
}


def shallow(case: Case) -> Case:
    """Two layers instead of three, where no key of the config speaks of each."""
    key = "n_layer" if case.family == "gpt2" else "num_hidden_layers"
    of_four = case.family in ("gemma3_text", "olmo3", "smollm3") or "layer_types" in case.changes
    return case if of_four else Case(case.family, {**case.changes, key: 2}, case.features)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(family, recipe) -> the directory that came of it, made once."""
    folder, done = tmp_path_factory.mktemp("families"), dict[tuple[str, str], Path]()

    def make(family: str, recipe: str = "") -> Path:
        where = folder / f"{family}-{recipe or 'model'}"
        if (family, recipe) not in done and recipe:
            compress(make(family), where, quick(folder) | {"stages": RECIPES[recipe]})
        elif (family, recipe) not in done:
            shallow(fullest(family)).build(where)
        return done.setdefault((family, recipe), where)

    yield make


def quick(folder: Path) -> dict[str, Any]:
    """A recipe's texts: short ones."""
    (folder / "text.txt").write_text(TEXT)
    text = [str(folder / "text.txt")]
    return {
        "calibration": {"text": text, "sequences": 6, "length": 32},
        "evaluation": {"text": text, "documents": 1, "truncate": 24},
    }


def theirs_of(folder: Path) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize(
    ("family", "recipe"),
    [*((each, name) for each in DENSE for name in ("graded", "tiles")), *((each, "neurons") for each in OF_NEURONS)],
)
def test_a_recipe_makes_tiers_that_read_less(family: str, recipe: str, made: Any) -> None:
    llm = LLM(str(made(family, recipe)))
    low, full = (llm.generate(["Once upon"], max_new_tokens=4, temperature=0, tier=tier)[0] for tier in ("low", "full"))
    assert low.usage.bytes_share is not None and low.usage.bytes_share < 0.95
    assert full.usage.bytes_share == 1 and len(full.token_ids) <= 4


@pytest.mark.parametrize("family", DENSE)
def test_what_was_made_is_still_a_model_for_transformers(family: str, made: Any) -> None:
    folder = made(family, "tiles")
    with torch.no_grad():
        ours = load(folder)(IDS)
    assert (ours - theirs_of(folder)).abs().max() <= 1e-5 * ours.abs().max()


@pytest.mark.parametrize("family", DENSE)
def test_a_pruned_int8_model_is_written_for_transformers(family: str, made: Any, tmp_path: Path) -> None:
    compress(made(family), tmp_path / "small", quick(tmp_path) | {"stages": [PLAIN_PRUNE, INT8]})
    export(tmp_path / "small", tmp_path / "plain", dtype="float32")
    with torch.no_grad():
        ours = load(tmp_path / "small")(IDS)
    assert (ours - theirs_of(tmp_path / "plain")).abs().max() <= 1e-4 * ours.abs().max()


@pytest.mark.parametrize("family", DECODERS)
def test_a_model_is_inspected_and_scored(
    family: str, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, scored = made(family, "mixture" if family in MIXTURES else "graded"), tmp_path / "scores.json"
    assert main(["inspect", str(folder)]) == 0 and family in capsys.readouterr().out
    (tmp_path / "text.txt").write_text(TEXT)
    text = ["--text", str(tmp_path / "text.txt"), "--documents", "1", "--truncate", "24"]
    options = [*text, "--tier", "low", "--json", str(scored)]
    assert main(["eval", str(folder), "--against", str(made(family)), *options]) == 0
    assert "kl" in json.dumps(json.loads(scored.read_text()))


@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_takes_fewer_experts_at_a_tier_and_is_written_for_transformers(
    family: str, made: Any, tmp_path: Path
) -> None:
    folder = made(family, "mixture")
    low, full = (
        LLM(folder).generate([[5, 6]], max_new_tokens=3, temperature=0, ignore_eos=True, tier=tier)[0].usage
        for tier in ("low", "full")
    )
    assert full.bytes_share == 1 and 0.3 < (low.bytes_share or 0) < 0.9
    export(folder, tmp_path / "plain", dtype="float32")
    with torch.no_grad():
        ours = load(folder)(IDS)
    assert (ours - theirs_of(tmp_path / "plain")).abs().max() <= 1e-4 * ours.abs().max()


@pytest.mark.parametrize("stage", [PRUNE, {"relufy": {"tokens": 64}}])
def test_what_a_mixture_cannot_be_is_refused(stage: dict[str, Any], made: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="FFNs of this model are mixtures of experts already"):
        compress(made("mixtral"), tmp_path / "out", quick(tmp_path) | {"stages": [stage]})


def test_a_mixture_is_given_no_setting_of_experts_that_are_made(made: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="router_width is a setting of experts that are made"):
        compress(made("mixtral"), tmp_path / "out", quick(tmp_path) | {"stages": [{"moefy": {"router_width": 4}}]})


@pytest.mark.parametrize("families", [DECODERS[::2], DECODERS[1::2]], ids=["even", "odd"])  # an engine process each
def test_each_is_served_with_what_it_answers_offline(families: Sequence[str], made: Any) -> None:
    folders = {family: made(family, "mixture" if family in MIXTURES else "graded") for family in families}
    with local_server(folders, "--max-context", "64", "--kv-memory", "2M") as address, Client(address) as client:
        for family, folder in folders.items():
            alone = LLM(str(folder)).generate(["Once upon"], max_new_tokens=4, temperature=0)[0]
            answer = client.generate("Once upon", model=family, max_new_tokens=4, temperature=0)
            assert tuple(answer.token_ids) == tuple(alone.token_ids), open_checkpoint(folder).spec.family

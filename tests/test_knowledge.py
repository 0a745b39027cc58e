"""Feed-forward layers as key-value memories: what was planted is found, and the strongest is the strongest of all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import byte_tokenizer, llama, opt
from torch import Tensor

from moesaic.cli.main import main
from moesaic.compress.diagnose.knowledge import Knowledge, Place, read_knowledge, token_scores
from moesaic.compress.diagnose.passages import Passages, read_passages
from moesaic.compress.diagnose.spelling import spell, spell_within
from moesaic.compress.pipeline import compress
from moesaic.compress.walk import walk
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import SetupError
from moesaic.models.linear import dense_weight
from moesaic.models.tokenizer import Tokenizer
from moesaic.models.transformer import Layer, Transformer

TEXT = "Tom and Lily went to the park. They saw a big dog. The dog said: hello! " * 12


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of one neuron, tiers and all."""
    folder = tmp_path_factory.mktemp("memory")
    compress("stories260k", folder / "moe", {
        "calibration": {"sequences": 8, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"moefy": {"expert_size": 1, "router": "bit_planes", "tiers": {"low": 0.7}}},
                   {"quantize": {"linears": "int8"}}],
    })  # fmt: skip
    return folder / "moe"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def memories(model: str | Path, text: Path, *places: str, top: int = 5) -> list[Knowledge]:
    checkpoint = open_checkpoint(model)
    return read_knowledge(checkpoint, [Place.parse(each) for each in places], passages(model, text), top, quiet)


def passages(model: str | Path, text: Path) -> Passages:
    return read_passages(open_checkpoint(model), [text], 2000)


def quiet(*_: Any) -> None:
    pass


def activations(model: str | Path, text: Path, layer: int) -> Tensor:
    """[tokens, width], of all the text."""
    found: list[Tensor] = []
    for batch in passages(model, text).batches():
        walk(load(model), batch, lambda i, ffn, given: found.extend(ffn.hidden(x) for x in given if i == layer))
    return torch.cat([h.flatten(0, 1) for h in found])


# --- keys ----------------------------------------------------------------------------------------------------------


def test_the_strongest_firings_are_those_of_all_tokens(text: Path) -> None:
    h = activations("stories260k", text, 2)
    for memory, index in zip(memories("stories260k", text, "2:5", "2:171", top=7), (5, 171), strict=True):
        expected = h[:, index].abs().sort(descending=True).values[:7]
        assert [abs(each.strength) for each in memory.firings] == pytest.approx(expected.tolist(), rel=1e-4)


def test_contexts_are_pieces_of_the_text(text: Path) -> None:
    for each in memories("stories260k", text, "0:3", top=20)[0].firings:
        assert each.before + each.token + each.after in TEXT and each.token


def test_a_neuron_of_one_letter_fires_at_that_letter(tmp_path: Path, text: Path) -> None:
    """Its key is the first layer's input at the letter: a first layer whose attention adds nothing."""
    llama(tmp_path / "model", num_hidden_layers=1)
    planted = load(tmp_path / "model")
    plant_key(planted, Tokenizer.open(tmp_path / "model").encode_rendered("!")[0])
    save_over(tmp_path / "model", planted)
    memory = memories(tmp_path / "model", text, "0:9", top=10)[0]
    assert {each.token for each in memory.firings} == {"!"} and memory.firings[0].strength > 0


def plant_key(model: Transformer, token: int) -> None:
    layer = model.layers[0]
    assert isinstance(layer, Layer) and layer.ffn_norm is not None
    state = dict(model.state_dict())
    state["layers.0.attention.output.weight"].zero_()
    key = layer.ffn_norm(state["embedding.weight"][token])
    state["layers.0.ffn.gate.weight"][9] = key
    state["layers.0.ffn.up.weight"][9] = key


def save_over(folder: Path, model: Transformer) -> None:
    from safetensors.torch import load_file, save_file

    names = {"attention.output": "self_attn.o_proj", "ffn.gate": "mlp.gate_proj", "ffn.up": "mlp.up_proj"}
    stored, mine = load_file(folder / "model.safetensors"), model.state_dict()
    for ours, theirs in names.items():
        stored[f"model.layers.0.{theirs}.weight"] = mine[f"layers.0.{ours}.weight"].contiguous()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


def test_a_dead_neuron_fires_nowhere_and_still_says_its_value(tmp_path: Path, text: Path) -> None:
    original = opt(tmp_path / "model")
    with torch.no_grad():
        original.model.decoder.layers[1].fc1.bias[4] = -1e6
    original.save_pretrained(tmp_path / "model")
    memory = memories(tmp_path / "model", text, "1:4")[0]
    assert memory.firings == () and len(memory.promotes) == len(memory.suppresses) == 5


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [llama, opt])
def test_what_a_value_promotes_is_what_adding_it_to_the_state_raises(tmp_path: Path, family: Any) -> None:
    """The final norm only scales (and shifts) a state that is 0 in all directions but this one."""
    family(tmp_path / "model")
    model = load(tmp_path / "model")
    value = torch.randn(48, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        raised = model.head(model.norm(value * 10)) - model.head(model.norm(-value * 10))
    found = token_scores(model, value)
    assert torch.nn.functional.cosine_similarity(raised, found, dim=0) == pytest.approx(1, abs=1e-5)


def test_a_layer_norm_ignores_what_all_directions_share(tmp_path: Path) -> None:
    opt(tmp_path / "model")
    model, value = load(tmp_path / "model"), torch.arange(48.0).sin()
    assert torch.allclose(token_scores(model, value), token_scores(model, value + 3), atol=1e-4)


def test_promoted_and_suppressed_are_the_ends_of_all_tokens(text: Path) -> None:
    model, memory = load("stories260k"), memories("stories260k", text, "4:5")[0]
    layer = model.layers[4]
    assert isinstance(layer, Layer)
    scores = token_scores(model, dense_weight(layer.ffn.down)[:, 5]).sort().values
    assert [score for _, score in memory.suppresses] == pytest.approx(scores[:5].tolist())
    assert [score for _, score in memory.promotes] == pytest.approx(scores.flip(0)[:5].tolist())


# --- experts -------------------------------------------------------------------------------------------------------


def test_an_expert_of_one_neuron_is_that_neuron(moe: Path, text: Path) -> None:
    neuron, expert = memories(moe, text, "1:30", "1:e30")
    layer = load(moe).layers[1]
    assert isinstance(layer, Layer)
    norm = float(dense_weight(layer.ffn.down)[:, 30].norm())
    strengths = [abs(each.strength) * norm for each in neuron.firings]
    assert [each.strength for each in expert.firings] == pytest.approx(strengths, rel=1e-4)
    assert [each.token for each in expert.firings] == [each.token for each in neuron.firings]
    promoted = {token for token, _ in neuron.promotes}
    assert promoted in ({token for token, _ in expert.promotes}, {token for token, _ in expert.suppresses})


def test_the_value_of_an_expert_is_the_mean_of_its_outputs_weighted_by_their_norms(tmp_path: Path, text: Path) -> None:
    compress("stories260k", tmp_path / "moe", {
        "calibration": {"sequences": 4, "length": 32}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"moefy": {"expert_size": 16, "router_width": 8, "tiers": {"low": 0.7}}}],
    })  # fmt: skip
    memory, layer = memories(tmp_path / "moe", text, "3:e10")[0], load(tmp_path / "moe").layers[3]
    assert isinstance(layer, Layer) and memory.neurons == 12  # 172 = 10 * 16 + 12
    outputs = activations(tmp_path / "moe", text, 3)[:, 160:] @ dense_weight(layer.ffn.down)[:, 160:].T
    norms = outputs.norm(dim=1)
    value = norms @ outputs / norms.sum()
    scores = token_scores(load(tmp_path / "moe"), value)
    assert memory.promotes[0][1] == pytest.approx(float(scores.max()), rel=1e-3)
    assert memory.alignment == pytest.approx(float(value.norm() * norms.sum() / norms.square().sum()), rel=1e-3)


# --- tokens as people read them ------------------------------------------------------------------------------------


def test_tokens_are_spelled_with_the_space_before_them() -> None:
    tokenizer = Tokenizer.open(open_checkpoint("stories260k").path)
    ids = tokenizer.encode_rendered("Once upon a time")
    assert [spell(tokenizer, i) for i in ids[-2:]] == [" a", " time"]
    assert spell_within(tokenizer, ids[:-1], ids[-1], []) == ("Once upon a", " time", "")


def test_what_is_no_whole_character_is_named_and_nothing_steers_the_terminal() -> None:
    tokenizer = Tokenizer(byte_tokenizer(), [])
    half = tokenizer.encode_rendered("ä")
    assert spell(tokenizer, half[0]) == "Ã" and spell(tokenizer, 9999) == "<id 9999>"
    assert spell(tokenizer, tokenizer.id_of("</s>") or 0) == "</s>"
    assert spell(tokenizer, tokenizer.encode_rendered("\x1b")[0]) == "\\x1b"
    before, token, after = spell_within(tokenizer, tokenizer.encode_rendered("a\n"), half[0], half[1:])
    assert (before, token) == ("a\\n", "Ã") and "\n" not in after


# --- as it is typed ------------------------------------------------------------------------------------------------


def test_inspect_prints_contexts_and_tokens(moe: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(moe), "--memory", "3:17", "3:e12", "--text", str(text), "--top", "3"]) == 0
    shown = capsys.readouterr().out
    assert "3:17, neuron, on" in shown and "3:e12, expert of 1 neuron, on" in shown and "alignment" in shown
    assert shown.count("[[") == 6 and shown.count("promotes   ") == 2 and "heads" not in shown


def test_inspect_gives_memories_as_json(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "stories260k", "--json", "--memory", "0:1", "--text", str(text), "--top", "2"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["text"] == "text.txt" and len(memory["places"][0]["firings"]) == 2
    assert set(memory["places"][0]["firings"][0]) == {"strength", "before", "token", "after"}


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("5:0", "memory 5:0: layer is 5, this model has layers 0 to 4; name one of them"),
        ("4:172", "memory 4:172: neuron is 172, layer 4 has neurons 0 to 171; name one of them"),
        ("3:e0", "memory 3:e0: layer 3 has no experts; name a neuron, 0 to 171: 3:NEURON"),
        ("3", "memory: '3' is no place; write LAYER:NEURON such as 3:17, or LAYER:eEXPERT, 3:e12"),
        ("3:1e", "is no place"),
        ("3:" + "9" * 5000, "is no place"),
        ("3:١", "is no place"),
    ],
)
def test_a_place_that_the_model_does_not_have_is_one_sentence(
    place: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "stories260k", "--memory", place]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err and not shown.out and len(shown.err.splitlines()) == 1


def test_experts_are_counted_with_the_last_one(moe: Path, text: Path) -> None:
    with pytest.raises(SetupError, match="expert is 172, layer 0 has experts 0 to 171"):
        memories(moe, text, "0:e172")
    with pytest.raises(SetupError, match="top is 0, it must be at least 1"):
        memories(moe, text, "0:e171", top=0)

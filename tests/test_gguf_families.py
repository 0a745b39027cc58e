"""Every family that GGUF names, written and read again, and beside llama.cpp on the same file."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from builders import edit_json, llama, merging_tokenizer, word_pieces
from family_cases import LINEAR, LLAMA3, YARN, Case
from house import ROOT
from llama_cpp_runs import ABSENT, ids_of_llama_cpp, logits_of_llama_cpp
from safetensors.torch import load_file

from moesaic.cli.main import main
from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError
from moesaic.models.families.registry import FAMILIES
from moesaic.models.gguf.architectures import NAMES, architecture_of
from moesaic.models.gguf.reader import import_gguf, shapes_of
from moesaic.models.gguf.tokenizer_out import PROBE
from moesaic.models.gguf.writer import KINDS, write_gguf
from moesaic.models.locate import locate
from moesaic.models.sentences import POOLINGS, Pooling, Sentences, write_pooling
from moesaic.models.tokenizer import Tokenizer

LLAMA_CPP = pytest.mark.skipif(ABSENT, reason="llama-cpp-python is not installed")
IDS = [(i * 37 + 11) % 250 for i in range(30)]
_ODD = {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 52}
_SCORES = {"query_pre_attn_scalar": 8}
CASES = (
    Case("llama"), Case("llama", {"rope_parameters": YARN, "tie_word_embeddings": False} | _ODD | {"head_dim": 10}),
    Case("llama", {"rope_parameters": LLAMA3}), Case("llama", {"rope_parameters": LINEAR}),
    Case("llama", {"attention_bias": True, "mlp_bias": True}), Case("mistral", {"sliding_window": 64}), Case("gpt2"),
    Case("gpt2", {"tie_word_embeddings": False, "n_inner": None}), Case("gpt_neox"),
    Case("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}), Case("qwen2"),
    Case("qwen2", _ODD | {"tie_word_embeddings": True, "rope_parameters": YARN}), Case("qwen3"),
    Case("qwen3", {"head_dim": 10, "tie_word_embeddings": True}), Case("phi3"),
    Case("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}}),
    Case("gemma"), Case("gemma", {"head_dim": 14}), Case("gemma2", _SCORES),
    Case("gemma2", _SCORES | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
    Case("gemma3_text", _SCORES | {"num_hidden_layers": 7, "rope_parameters": {
        "full_attention": LINEAR | {"factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 99.0}}}),
    Case("gemma3_text", _SCORES | {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
    Case("gemma3_text", _SCORES | {"tie_word_embeddings": False, "final_logit_softcapping": 3.0}), Case("olmo2"),
    Case("olmo2", _ODD | {"tie_word_embeddings": True, "rope_parameters": LINEAR}), Case("olmo3"),
    Case("olmoe", {"num_key_value_heads": 6}), Case("mixtral"),
    Case("mixtral", {"tie_word_embeddings": True, "num_experts_per_tok": 5}),
    Case("qwen3_moe", {"norm_topk_prob": True}), Case("seed_oss"),
    Case("seed_oss", {"tie_word_embeddings": True, "head_dim": 10}), Case("starcoder2"),
    Case("starcoder2", {"tie_word_embeddings": False, "rope_parameters": LINEAR}), Case("smollm3"),
    Case("smollm3", {"tie_word_embeddings": False}), Case("bert"), Case("bert", {"type_vocab_size": 3}),
    Case("roberta"), Case("roberta", {"pad_token_id": 5, "type_vocab_size": 1}), Case("xlm-roberta"),
    Case("xlm-roberta", {"pad_token_id": 0, "layer_norm_eps": 1e-2}), Case("distilbert"),
    Case("distilbert", {"dim": 36, "n_heads": 3, "hidden_dim": 52}),
)  # fmt: skip
WITHOUT, SOURCED = ("opt", "bart", "marian", "mpnet"), ("t5",)  # the latter in tests/test_gguf_sources.py


@pytest.fixture(scope="module", params=CASES, ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory, and the file that was made of it in fp32."""
    folder = tmp_path_factory.mktemp("gguf")
    request.param.build(folder / "model")
    checkpoint = open_checkpoint(folder / "model")
    write_gguf(folder / "model.gguf", "model", checkpoint.spec, read_tensors(checkpoint), "F32", None)
    return folder / "model", folder / "model.gguf"


def logits(folder: Path) -> torch.Tensor:
    return load(folder)(torch.tensor([IDS])).detach()[0]


def test_what_was_written_is_read_as_the_same_function(written: tuple[Path, Path], tmp_path: Path) -> None:
    assert torch.equal(logits(import_gguf(written[1], tmp_path / "back", "float32")), logits(written[0]))


@LLAMA_CPP
def test_llama_cpp_computes_what_we_do(written: tuple[Path, Path]) -> None:
    causal = open_checkpoint(written[0]).spec.causal
    ours, theirs = logits(written[0]), torch.from_numpy(logits_of_llama_cpp(written[1], IDS, causal))
    with_gelu = open_checkpoint(written[0]).spec.layers[0].ffn.activation.startswith("gelu")  # of which it has a table
    assert (ours - theirs).abs().max() <= (5e-3 if with_gelu else 1e-5) * ours.abs().max()
    assert (ours.argmax(1) == theirs.argmax(1)).sum() >= (29 if with_gelu else 30)


def test_every_family_is_written_or_is_one_that_gguf_has_not() -> None:
    named = {family for family in FAMILIES if architecture_of(family)}
    assert named | {*WITHOUT} == {*FAMILIES} and not named & {*WITHOUT}
    assert {case.family for case in CASES} == named - {*SOURCED}


def test_the_page_names_the_families_of_each_architecture() -> None:
    families = {family: found.name for family in FAMILIES if (found := architecture_of(family))}
    page = (ROOT / "docs/families.md").read_text()
    for name in NAMES:
        mine = ", ".join(f"`{family}`" for family, found in families.items() if found == name)
        assert f"| `{name}` | {mine} |" in page


@pytest.mark.parametrize(
    "case", [next(case for case in CASES if case.family == f) for f in {c.family: c for c in CASES}], ids=str
)
def test_names_are_those_that_the_library_of_gguf_has(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path / "model")
    checkpoint, family = open_checkpoint(tmp_path / "model"), FAMILIES[case.family]
    architecture = architecture_of(case.family)
    assert architecture is not None
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    library = gguf.get_tensor_name_map(kinds[architecture.name], 8)
    for ours, place in architecture.places(shapes_of(checkpoint.spec)).items():
        theirs = family.their_name(ours)
        if ".experts." not in ours:
            assert library.get_name(theirs, (".weight", ".bias")) == place.name, theirs


def wide_llama(folder: Path) -> Path:
    """A Llama whose rows blocks of 32 divide, with a tokenizer that has merges."""
    llama(folder, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, vocab_size=262)
    merging_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_what_its_blocks_hold(kind: str, tmp_path: Path) -> None:
    export(wide_llama(tmp_path / "model"), tmp_path / "out", "gguf", kind=kind)
    file = tmp_path / "out" / f"model-{kind}.gguf"
    back = import_gguf(file, tmp_path / "back", "float32")
    assert Tokenizer.open(back).encode(PROBE) == Tokenizer.open(tmp_path / "model").encode(PROBE)
    made, weights = (load_file(each / "model.safetensors") for each in (back, tmp_path / "model"))
    for name, of in (("model.layers.1.mlp.down_proj", kind), ("model.embed_tokens", kind.replace("Q4", "Q8"))):
        quantized = gguf.GGMLQuantizationType[of]
        wanted = gguf.dequantize(gguf.quantize(weights[f"{name}.weight"].numpy(), quantized), quantized)
        assert np.array_equal(made[f"{name}.weight"].numpy(), wanted)
    assert torch.equal(made["model.norm.weight"], weights["model.norm.weight"])


def test_rows_that_blocks_do_not_divide_are_f16(tmp_path: Path) -> None:
    llama(tmp_path / "model")  # 48 values a row
    checkpoint = open_checkpoint(tmp_path / "model")
    kinds = write_gguf(tmp_path / "m.gguf", "m", checkpoint.spec, read_tensors(checkpoint), "Q4_0", None)
    assert kinds["F16"] and "Q4_0" not in kinds


@LLAMA_CPP
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_opens_each_kind_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    export(wide_llama(tmp_path / "model"), tmp_path / "out", "gguf", kind=kind)
    file = tmp_path / "out" / f"model-{kind}.gguf"
    assert ids_of_llama_cpp(file, PROBE) == Tokenizer.open(tmp_path / "model").encode(PROBE)
    theirs = torch.from_numpy(logits_of_llama_cpp(file, IDS))
    ours = logits(import_gguf(file, tmp_path / "back", "float32"))
    assert (ours.argmax(1) == theirs.argmax(1)).sum() >= 28  # it rounds activations as well
    assert (ours - theirs).square().mean().sqrt() <= 0.08 * ours.std()


@LLAMA_CPP
def test_a_sentencepiece_tokenizer_cuts_in_llama_cpp_as_here(tmp_path: Path) -> None:
    assert main(["export", "stories260k", str(tmp_path / "out"), "--to", "gguf", "--kind", "F32"]) == 0
    ours = Tokenizer.open(locate("stories260k"))
    assert ids_of_llama_cpp(tmp_path / "out" / "stories260k-F32.gguf", PROBE) == ours.encode(PROBE)


def test_the_end_of_text_and_the_chat_template_come_along(tmp_path: Path) -> None:
    folder = wide_llama(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    edit_json(folder / "generation_config.json", eos_token_id=[261, 260])
    export(folder, tmp_path / "out", "gguf")
    back = import_gguf(tmp_path / "out" / "model-Q8_0.gguf", tmp_path / "back")
    assert json.loads((back / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"
    assert Tokenizer.open(back).eos_ids == (261, 260)


def test_a_pruned_int8_model_is_written_multiplied_out(tmp_path: Path) -> None:
    folder = wide_llama(tmp_path / "model")
    (tmp_path / "text.txt").write_text("Once upon a time there was a ball. " * 40)
    text = {"text": [str(tmp_path / "text.txt")]}
    recipe = {
        "stages": [{"prune": {"remove": 0.25}}, {"quantize": {"linears": "int8"}}],
        "calibration": text | {"sequences": 2, "length": 32},
        "evaluation": text | {"documents": 1, "truncate": 24},
    }
    compress(folder, tmp_path / "small", recipe)
    export(tmp_path / "small", tmp_path / "out", "gguf", kind="F32")
    back = logits(import_gguf(tmp_path / "out" / "small-F32.gguf", tmp_path / "back", "float32"))
    assert (back - logits(tmp_path / "small")).abs().max() <= 1e-4 * back.abs().max()


def word_piece_bert(folder: Path, pooling: str) -> Path:
    """A BERT with a WordPiece of some words, in lower case."""
    Case("bert").build(folder)
    word_pieces().save(str(folder / "tokenizer.json"))
    write_pooling(folder, Pooling(pooling))
    return folder


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_encoder_comes_back_with_its_pooling_and_word_pieces(pooling: str, tmp_path: Path) -> None:
    export(word_piece_bert(tmp_path / "model", pooling), tmp_path / "out", "gguf", kind="F32")
    back = import_gguf(tmp_path / "out" / "model-F32.gguf", tmp_path / "back", "float32")
    assert Sentences.open(back).pooling == Pooling(pooling)
    text = "The Cats sat. cast"
    ids = Tokenizer.open(back).encode(text)
    assert ids == Tokenizer.open(tmp_path / "model").encode(text) and {2, 3, 8} < {*ids}


REFUSED = {
    "GGUF has no architecture for models of the family opt": Case("opt"),
    "llama.cpp computes no window for .* one of 7; set max_position_embeddings to 7": Case("mistral"),
    "cannot say what this model is: layers.*ffn.activation is 'relu'": Case("llama", {"hidden_act": "relu"}),
    "cannot say what this model is: rope.magnitude": Case("llama", {"rope_parameters": YARN | {"attention_factor": 2}}),
    "qwen2 of GGUF has no positions of the kind llama3": Case("qwen2", {"rope_parameters": LLAMA3}),
    "gemma of GGUF has no head of its own": Case("gemma", {"tie_word_embeddings": False}),
    "olmo2 of GGUF has no bias of key": Case("olmo2", {"attention_bias": True}),
    "gptneox of GGUF needs a bias of key": Case("gpt_neox", {"attention_bias": False}),
    "qwen3moe of GGUF has no name for layers.1.ffn.gate": Case("qwen3_moe", {"mlp_only_layers": [1]}),
    "a key head for each query head alone, and this model has 2 for 6": Case("olmoe", {"num_key_value_heads": 2}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_a_file_cannot_say_is_refused(said: str, tmp_path: Path) -> None:
    REFUSED[said].build(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    with pytest.raises(CheckpointError, match=said):
        write_gguf(tmp_path / "m.gguf", "m", checkpoint.spec, read_tensors(checkpoint), "Q8_0", None)


def test_a_tokenizer_that_llama_cpp_would_not_take_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    llama(tmp_path / "model")
    with pytest.raises(CheckpointError, match="model: its tokenizer has no merges, without which llama.cpp opens no"):
        export(tmp_path / "model", tmp_path / "out", "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unknown_kind_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="kind is 'Q9_9', it must be one of F32, F16, BF16, Q8_0, Q4_0"):
        export(wide_llama(tmp_path / "model"), tmp_path / "out", "gguf", kind="Q9_9")


def test_values_too_large_for_f16_are_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(wide_llama(tmp_path / "model"))
    tensors = dict(read_tensors(checkpoint))
    tensors["layers.1.ffn.up.weight"] = torch.full((96, 64), 1e6)
    with pytest.raises(CheckpointError, match="blk.1.ffn_up.weight holds values too large for F16; choose BF16"):
        write_gguf(tmp_path / "m.gguf", "m", checkpoint.spec, tensors.items(), "F16", None)

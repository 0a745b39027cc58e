"""Every way in which a model directory can be wrong ends in one sentence, before memory is spent on it."""

import json
import os
import random
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import edit_json, llama, opt
from safetensors.torch import load_file, save_file
from torch import Tensor

from moesaic.models import checkpoint as checkpoint_module
from moesaic.models.checkpoint import Checkpoint, load, load_transformer, open_checkpoint
from moesaic.models.errors import CheckpointError, Unsupported
from moesaic.models.families.registry import FAMILIES
from moesaic.models.packing import Beside
from moesaic.models.record import FORMAT
from moesaic.models.safetensors_header import MAX_HEADER_BYTES, read_header

HEADER_JSON = '{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": [{}, {}]}}, "b": {{"dtype": "F32", "shape": [2], "data_offsets": [{}, {}]}}}}'  # noqa: E501


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small sound Llama, to be damaged."""
    llama(tmp_path / "model", num_hidden_layers=1)
    return tmp_path / "model"


def refusal(path: Path | str) -> str:
    """The sentence with which a directory is refused."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 600
    return text


def write_safetensors(file: Path, header: str, data: bytes) -> None:
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)


def write_record(folder: Path, **changes: Any) -> None:
    values = {"format": FORMAT, "spec": {}, "stages": [], "files": {}, "recipe_sha256": ""} | changes
    (folder / "moesaic.json").write_text(json.dumps(values))


# --- the directory -------------------------------------------------------------------------------------------------


def test_a_missing_directory_is_told_with_the_models_at_hand(tmp_path: Path) -> None:
    assert "models at hand: " in refusal(tmp_path / "nowhere") and "stories260k" in refusal(tmp_path / "nowhere")


def test_a_file_is_no_directory(folder: Path) -> None:
    assert "is a file; give the model directory" in refusal(folder / "config.json")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/model", "x" * 5000])
def test_an_impossible_path_is_refused(path: str) -> None:
    assert "cannot be opened" in refusal(path)


def test_a_symlink_to_a_model_is_a_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert open_checkpoint(tmp_path / "link").path == folder


def test_a_symlink_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop")


def test_a_tier_that_does_not_exist_is_unsupported(folder: Path) -> None:
    with pytest.raises(Unsupported, match="tier 'turbo' is not among this model's tiers: full"):
        load(folder, tier="turbo")


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="dtype is 'int3', it must be one of float32"):
        load(folder, dtype="int3")


# --- config.json ---------------------------------------------------------------------------------------------------


def test_a_directory_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "[" * 100_000, "\x00", '{"a": ' + "9" * 5000 + "}"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)


def test_a_config_that_is_not_a_file_is_refused(folder: Path) -> None:
    """A pipe would wait for ever."""
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "is not a file" in refusal(folder)


def test_an_enormous_config_is_refused(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(17 << 20)
    assert "that is no model's config" in refusal(folder)


def test_code_in_a_checkpoint_is_never_run(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    assert "auto_map asks to run Python code" in refusal(folder)


@pytest.mark.parametrize("name", [None, "bloom", "", 5, ["llama"]])
def test_an_unknown_model_type_is_told_with_the_known_ones(folder: Path, name: Any) -> None:
    edit_json(folder / "config.json", model_type=name)
    assert f"moesaic runs the families {', '.join(FAMILIES)}" in refusal(folder)


@pytest.mark.parametrize("names", [["LlamaForTokenClassification"], 5, "Llama", {"a": 1}])
def test_an_unknown_architecture_is_refused(folder: Path, names: Any) -> None:
    edit_json(folder / "config.json", architectures=names)
    assert "of the family llama moesaic runs LlamaForCausalLM" in refusal(folder)


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_attention_heads", "intermediate_size", "vocab_size", "num_hidden_layers"]
)
@pytest.mark.parametrize("value", [None, 0, -1, 2**31, 10**400, "48", True, 48.0, float("nan"), [48], {"a": 1}])
def test_absurd_counts_are_refused_by_their_key(folder: Path, key: str, value: Any) -> None:
    edit_json(folder / "config.json", **{key: value})
    assert refusal(folder).startswith(f"config.json: {key} is")


@pytest.mark.parametrize("value", [0, -1e-5, 10**400, "1e-5", True, float("inf"), float("nan")])
def test_absurd_numbers_are_refused_by_their_key(folder: Path, value: Any) -> None:
    edit_json(folder / "config.json", rms_norm_eps=value)
    assert refusal(folder).startswith("config.json: rms_norm_eps is")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 60_000},
        {"num_hidden_layers": 2**31 - 1},
        {"head_dim": 2**31 - 2},
        {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1},
        {"intermediate_size": 2**31 - 1},
        {"num_attention_heads": 2**30, "num_key_value_heads": 2**30},
        {"num_attention_heads": 5},
        {"head_dim": 7},
        {"hidden_act": "swish_of_the_future"},
        {"tie_word_embeddings": "yes"},
        {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
        {"rope_parameters": [1]},
    ],
)
def test_configs_that_no_weights_can_fit_are_refused_quickly(folder: Path, changes: dict[str, Any]) -> None:
    edit_json(folder / "config.json", **changes)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    "changes", [{"do_layer_norm_before": False}, {"word_embed_proj_dim": 24}, {"num_attention_heads": 5}]
)
def test_forms_of_opt_that_are_not_built_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    opt(tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes"])
def test_weights_quantized_by_others_are_refused_by_name(folder: Path, method: str) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": method})
    assert f"asks for '{method}', which moesaic does not read; start from the model before" in refusal(folder)


# --- weights -------------------------------------------------------------------------------------------------------


def test_a_directory_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_are_refused_with_the_way_out(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert f"its weights in {name}, a pickle" in refusal(folder) and "convert it" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 5, 8, 300])
def test_weights_cut_in_their_header_are_refused(folder: Path, keep: int) -> None:
    os.truncate(folder / "model.safetensors", keep)
    assert "copy it again" in refusal(folder)


@pytest.mark.parametrize("lost", [1, 1000])
def test_weights_cut_in_their_data_are_refused(folder: Path, lost: int) -> None:
    size = (folder / "model.safetensors").stat().st_size
    os.truncate(folder / "model.safetensors", size - lost)
    assert "is cut short" in refusal(folder)


@pytest.mark.parametrize("length", [1 << 30, MAX_HEADER_BYTES + 1, 2**64 - 1])
def test_a_header_of_a_gigabyte_is_refused_unread(folder: Path, length: int) -> None:
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.write(struct.pack("<Q", length))
    assert f"claims a header of {length:,} bytes, the limit is 100,000,000" in refusal(folder)


def test_a_header_with_any_bit_flipped_loads_or_is_refused(folder: Path) -> None:
    """No bit raises anything but CheckpointError."""
    file, draw = folder / "model.safetensors", random.Random(0)
    sound = file.read_bytes()
    header_bytes = 8 + struct.unpack("<Q", sound[:8])[0]
    refused = 0
    for _ in range(400):
        damaged = bytearray(sound)
        damaged[draw.randrange(header_bytes)] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            load(folder)
        except CheckpointError:
            refused += 1
    assert refused > 300


def test_a_header_of_random_json_loads_or_is_refused(tmp_path: Path) -> None:
    draw, file = random.Random(1), tmp_path / "x.safetensors"
    refused = 0
    odd: list[Any] = [None, True, -1, 0, 2**70, 1.5, "F32", "", [], [0, 8], [2], [[]], {}, {"a": 1}, "\ud800"]
    for _ in range(2000):
        entry = {key: draw.choice(odd) for key in ("dtype", "shape", "data_offsets") if draw.random() < 0.9}
        header = json.dumps({draw.choice(["a", "", "__metadata__"]): draw.choice([entry, *odd])})
        write_safetensors(file, header, bytes(8))
        try:
            read_header(file)
        except CheckpointError:
            refused += 1
    assert refused > 1900


@pytest.mark.parametrize("header", ["[]", "null", "{" * 200_000, '{"a": 1, "a": 2}', '{"a"', "\x00" * 64])
def test_a_header_that_is_no_object_of_tensors_is_refused(tmp_path: Path, header: str) -> None:
    write_safetensors(tmp_path / "x.safetensors", header, b"")
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("offsets", "size"),
    [((0, 8, 8, 16), 24), ((0, 8, 4, 12), 16), ((0, 8, 12, 20), 20), ((4, 12, 12, 20), 20), ((0, 8, 0, 8), 8)],
)
def test_gaps_and_overlaps_are_refused(tmp_path: Path, offsets: tuple[int, ...], size: int) -> None:
    write_safetensors(tmp_path / "x.safetensors", HEADER_JSON.format(*offsets), bytes(size))
    with pytest.raises(CheckpointError, match="overlap or leave gaps"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda w: w.pop("model.norm.weight"), "the weights lack model.norm.weight"),
        (lambda w: w.update({"model.norm.weight": torch.ones(47)}), "has the shape [47], config.json asks for [48]"),
        (lambda w: w.update({"model.norm.weight": torch.ones(48, dtype=torch.int8)}), "is I8, which is not what"),
        (lambda w: w.update({"model.norm.weight": torch.ones(48, dtype=torch.int64)}), "is I64, which is not what"),
        (lambda w: w.update({"model.norm.bias": torch.ones(48)}), "hold 1 tensors that a LlamaForCausalLM of this"),
        (lambda w: w["model.norm.weight"].fill_(float("nan")), "model.norm.weight holds NaN or infinity"),
        (lambda w: w["model.norm.weight"].fill_(float("inf")), "model.norm.weight holds NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(folder: Path, damage: Any, sentence: str) -> None:
    weights = load_file(folder / "model.safetensors")
    damage(weights)
    save_file(weights, folder / "model.safetensors")
    assert sentence in refusal(folder)


def test_weights_too_large_for_the_dtype_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(1e6)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="too large for float16; choose float32 or bfloat16"):
        load(folder, dtype="float16")


def test_what_the_library_does_not_take_is_refused_as_well(folder: Path) -> None:
    """Our header reader is the more lenient one about metadata."""
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size]) | {"__metadata__": 5}
    write_safetensors(file, json.dumps(header), raw[8 + size :])
    assert "cannot be read as safetensors" in refusal(folder)


def sharded(folder: Path) -> dict[str, str]:
    """Splits the weights in two files with an index; returns its weight_map."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_a_whole_file_beside_an_index_of_other_weights_is_what_transformers_reads_too(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    sharded(folder)
    other = {name: value + 1 for name, value in load_file(folder / "a.safetensors").items()}
    save_file(other, folder / "a.safetensors")
    (folder / "model.safetensors").write_bytes(whole)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()["model.norm.weight"]
    assert open_checkpoint(folder).files == (folder / "model.safetensors",)
    assert torch.equal(load(folder).state_dict()["norm.weight"], theirs)


def test_a_missing_shard_is_named(folder: Path) -> None:
    sharded(folder)
    (folder / "b.safetensors").unlink()
    assert "names b.safetensors, which is not in" in refusal(folder)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "x/../../a.safetensors", "a.bin", ".", ""])
def test_an_index_that_leaves_the_directory_is_refused(folder: Path, name: str) -> None:
    weight_map = sharded(folder) | {"model.norm.weight": name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "points outside the directory" in refusal(folder)


@pytest.mark.parametrize("weight_map", [None, [], 5, {"a": 5}, {"a": None}])
def test_an_index_without_a_map_is_refused(folder: Path, weight_map: Any) -> None:
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "has no weight_map of file names" in refusal(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    sharded(folder)
    save_file(load_file(folder / "a.safetensors") | load_file(folder / "b.safetensors"), folder / "b.safetensors")
    assert "stands in a.safetensors and in b.safetensors" in refusal(folder)


# --- moesaic.json --------------------------------------------------------------------------------------------------


def test_a_record_of_a_newer_format_is_refused(folder: Path) -> None:
    write_record(folder, format=FORMAT + 1)
    assert "update moesaic" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, '{"format": "1"}', '{"format": 1}'])
def test_a_damaged_record_is_refused(folder: Path, text: str) -> None:
    (folder / "moesaic.json").write_text(text)
    assert "moesaic.json" in refusal(folder)


@pytest.mark.parametrize("changes", [{"stages": [5]}, {"stages": [{}]}, {"spec": 5}, {"files": [1]}, {"stages": None}])
def test_a_record_of_the_wrong_form_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    write_record(folder, **changes)
    assert "is damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("layers.0.ffn.wdth", 3, "the model has no 'layers.0.ffn.wdth' to override"),
        ("layers.9.ffn.width", 3, "the model has no 'layers.9.ffn.width'"),
        ("layers.0", 3, "the model has no 'layers.0'"),
        ("", 3, "the model has no ''"),
        ("layers.*.ffn.up", 5, "layers.*.ffn.up is 5, where the family has 'dense'"),
        ("layers.*.ffn.up", "int3", "it must be one of dense, int8"),
        ("layers.0.ffn.activation", "evil", "it must be one of silu, relu"),
        ("layers.0.ffn.width", "x", "layers.0.ffn.width is 'x', where the family has 88"),
        ("vocab_size", -1, "vocab_size is -1"),
        ("vocab_size", True, "vocab_size is True"),
    ],
)
def test_overrides_that_cannot_be_are_refused(folder: Path, path: str, value: Any, sentence: str) -> None:
    write_record(folder, spec={path: value})
    assert sentence in refusal(folder)


def test_a_flipped_byte_of_recorded_weights_is_found(int8_model: Path) -> None:
    file = int8_model / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert "its hash differs from moesaic.json" in refusal(int8_model)


@pytest.mark.parametrize("name", ["nope.safetensors", "../config.json", "/etc/passwd"])
def test_a_record_of_other_files_than_the_weights_is_refused(folder: Path, name: str) -> None:
    write_record(folder, files={name: "00"})
    assert f"moesaic.json speaks of '{name}'" in refusal(folder)


@pytest.fixture
def int8_model(folder: Path, tmp_path: Path) -> Path:
    from moesaic.compress.pipeline import compress

    compress(folder, tmp_path / "int8", {"evaluation": {"documents": 1, "truncate": 8}, **INT8})
    return tmp_path / "int8"


INT8: dict[str, Any] = {"stages": [{"quantize": {"linears": "int8"}}]}


def test_an_int8_checkpoint_without_its_record_is_refused(int8_model: Path) -> None:
    (int8_model / "moesaic.json").unlink()
    assert "was quantized by moesaic but has no moesaic.json" in refusal(int8_model)


def test_an_int8_checkpoint_is_not_misread_by_transformers(int8_model: Path) -> None:
    """It must stop, and not compute with int8 numbers as if they were weights."""
    import transformers

    for auto in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
        with pytest.raises(ValueError, match="quantization config"):
            auto.from_pretrained(int8_model)


def test_weights_go_to_a_device_one_by_one_without_a_copy_of_the_model_here(monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen, most = checkpoint_module.read_tensors, list[weakref.ref[Tensor]](), [0]

    def watched(checkpoint: Checkpoint, beside: Beside | None) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in read(checkpoint, beside):
            seen.append(weakref.ref(tensor))
            most[0] = max(most[0], sum(each() is not None for each in seen))
            yield name, tensor

    monkeypatch.setattr(checkpoint_module, "read_tensors", watched)
    model = load_transformer(open_checkpoint("stories260k"), torch.device("meta"))  # a device that is not the host
    assert model.norm.weight.is_meta and len(seen) > 40 and most[0] <= 3

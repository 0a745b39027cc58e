"""Links in a model directory: followed inside it and inside one entry of a Hugging Face cache, refused elsewhere."""

import shutil
from pathlib import Path

import pytest
from builders import llama
from family_cases import Case

from moesaic.engine.llm import LLM
from moesaic.models.checkpoint import INDEX_NAME, open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.sentences import Pooling, Sentences, write_pooling

FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "chat_template.jinja",
    "moesaic.json", INDEX_NAME, "tokenizer_config.json", "vocab.json", "spiece.model", "modules.json",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama(tmp_path / "model")
    return tmp_path / "model"


def linked(file: Path, away: Path) -> Path:
    """Moves a file, or makes one where there is none, and leaves a link; gives where it lies now."""
    away.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        shutil.move(file, away)
    else:
        away.write_text("{}")
    file.symlink_to(away)
    return away


def refusal(folder: Path, file: Path, target: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Sentences.open(open_checkpoint(folder).path)
    said = f"{file} is a link to {target}, out of the model's directory; copy the file itself there, in its place"
    assert str(caught.value) == said


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_out_of_the_directory_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    target = linked(folder / name, tmp_path / "elsewhere" / "file")
    refusal(folder, folder / name, target)
    with pytest.raises(CheckpointError, match="out of the model's directory"):
        LLM(folder)


def test_the_way_out_of_a_refused_link_works(folder: Path, tmp_path: Path) -> None:
    target = linked(folder / "config.json", tmp_path / "elsewhere")
    (folder / "config.json").unlink()
    shutil.copyfile(target, folder / "config.json")
    assert open_checkpoint(folder).path == folder


@pytest.mark.parametrize("whole", [True, False])
def test_experts_that_lie_elsewhere_are_refused(whole: bool, folder: Path, tmp_path: Path) -> None:
    (away := tmp_path / "away").mkdir()
    (away / "experts.safetensors").write_bytes(b"")
    if whole:
        (folder / "moesaic").symlink_to(away)
    else:
        (folder / "moesaic").mkdir()
        (folder / "moesaic" / "experts.safetensors").symlink_to(away / "experts.safetensors")
    refusal(folder, folder / "moesaic" / "experts.safetensors", away / "experts.safetensors")


def test_a_pooling_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    Case("bert").build(folder := tmp_path / "model")
    write_pooling(folder, Pooling())
    target = linked(folder / "1_Pooling", tmp_path / "away")
    refusal(folder, folder / "1_Pooling" / "config.json", target / "config.json")


def test_links_within_the_directory_and_to_it_are_followed(folder: Path, tmp_path: Path) -> None:
    linked(folder / "config.json", folder / "..data" / "config.json")  # as Kubernetes mounts files
    (tmp_path / "link").symlink_to(folder)
    (folder / "runs").symlink_to(tmp_path)
    assert open_checkpoint(tmp_path / "link").path == folder


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match="tokenizer.json is a link that leads nowhere"):
        open_checkpoint(folder)


@pytest.mark.parametrize("below", ["", "onnx"])
def test_a_snapshot_of_the_cache_has_links_to_the_files_of_its_entry_alone(
    below: str, folder: Path, tmp_path: Path
) -> None:
    entry = tmp_path / "models--org--name"
    snapshot = entry / "snapshots" / "abc" / below
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, snapshot)
    for file in list(snapshot.iterdir()):
        linked(file, entry / "blobs" / file.name)
    assert open_checkpoint(snapshot).path == snapshot
    (snapshot / "config.json").unlink()
    other = linked(snapshot / "config.json", tmp_path / "models--org--other" / "blobs" / "hash")
    refusal(snapshot, snapshot / "config.json", other)
    (entry / "blobs" / "tokenizer.json").unlink()
    (entry / "blobs" / "tokenizer.json").symlink_to("/etc/passwd")
    (snapshot / "config.json").unlink()
    refusal(snapshot, snapshot / "tokenizer.json", Path("/etc/passwd"))

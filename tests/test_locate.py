"""Where models and what is kept are looked for: short names, the Hugging Face cache, and the variables of both."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import llama
from huggingface_hub import constants, snapshot_download

from moesaic.kernels.cache import cache_folder
from moesaic.models.checkpoint import open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.locate import locate


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model in a cache of its own; the library reads its variables once, when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "models--org--tiny"


def add(hub: Path, commit: str, ref: str | None = None) -> Path:
    """A snapshot, as a download leaves it: links to files that are named by their content."""
    llama(hub / "made")
    snapshot = hub / "snapshots" / commit
    for folder in (snapshot, hub / "blobs", hub / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for file in (hub / "made").iterdir():
        blob = hub / "blobs" / f"{commit}-{file.name}"
        shutil.move(file, blob)
        (snapshot / file.name).symlink_to(blob)
    if ref:
        (hub / "refs" / ref).write_text(commit)
    return snapshot


def refusal(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_snapshot_that_main_names_is_taken_as_the_library_takes_it(hub: Path) -> None:
    main, newer = add(hub, "aaa", "main"), add(hub, "bbb", "other")
    os.utime((newer / "config.json").resolve(), (2e9, 2e9))
    assert locate("org/tiny") == main == Path(snapshot_download("org/tiny", local_files_only=True))
    assert open_checkpoint("org/tiny").path == main


def test_an_incomplete_newer_snapshot_hides_no_complete_one(hub: Path) -> None:
    main, newer = add(hub, "aaa", "main"), add(hub, "bbb")
    (newer / "model.safetensors").unlink()
    assert locate("org/tiny") == main


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("blob", [True, False])
def test_a_snapshot_that_is_not_all_there_is_told_with_what_it_lacks(hub: Path, gone: str, blob: bool) -> None:
    snapshot = add(hub, "aaa", "main")
    ((snapshot / gone).resolve() if blob else snapshot / gone).unlink()
    assert f"({snapshot}) and lacks {gone}: " in refusal("org/tiny")
    assert "moesaic models get hf:org/tiny" in refusal("org/tiny")


def test_shards_that_did_not_arrive_are_named(hub: Path) -> None:
    snapshot = add(hub, "aaa", "main")
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00003.safetensors")
    shards = {str(i): f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks model-00002-of-00003.safetensors and model-00003-of-00003.safetensors" in refusal("org/tiny")


def test_a_model_of_pickles_is_told_as_what_it_is(hub: Path) -> None:
    snapshot = add(hub, "aaa", "main")
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin, a pickle"):
        open_checkpoint("org/tiny")


@pytest.mark.parametrize("name", ["org/tiny", "org/other", "a/b..c", "a/" + "b" * 200])
def test_a_model_that_is_not_in_the_cache_is_told_where_it_was_looked_for(hub: Path, name: str) -> None:
    add(hub, "aaa")  # of no branch
    assert f"local Hugging Face cache ({hub.parent}); fetch it with: moesaic models get hf:{name}" in refusal(name)


def test_offline_is_told_to_be_left_for_the_download(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal("org/tiny").endswith("fetch it with HF_HUB_OFFLINE unset with: moesaic models get hf:org/tiny")


VARIABLES = {
    "HF_HOME": ("{home}/hf", "hub"),
    "HF_HOME with ~": ("~/hf", "hub"),
    "HF_HUB_CACHE": ("{home}/hf/hub", ""),
    "HF_HUB_CACHE with ~": ("~/hf/hub", ""),
    "HUGGINGFACE_HUB_CACHE": ("{home}/hf/hub", ""),
    "XDG_CACHE_HOME": ("{home}", ""),
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_cache_is_where_its_variables_say(variable: str, tmp_path: Path) -> None:
    place = tmp_path / ("huggingface" if variable == "XDG_CACHE_HOME" else "hf") / "hub" / "models--org--tiny"
    snapshot = add(place, "aaa", "main")
    value = VARIABLES[variable][0].format(home=tmp_path)
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    clean = {name: text for name, text in os.environ.items() if name not in names}
    environment = {**clean, "HOME": str(tmp_path), variable.split()[0]: value}
    code = "from moesaic.models.locate import locate; import sys; print(locate('org/tiny'), 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == f"{snapshot} False\n"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "~/.cache/moesaic"),
        ({"XDG_CACHE_HOME": "/there"}, "/there/moesaic"),
        ({"XDG_CACHE_HOME": "~/there"}, "~/there/moesaic"),
        ({"XDG_CACHE_HOME": "there"}, "~/.cache/moesaic"),
        ({"XDG_CACHE_HOME": "./there"}, "~/.cache/moesaic"),
        ({"XDG_CACHE_HOME": ""}, "~/.cache/moesaic"),
        ({"XDG_CACHE_HOME": "/there", "MOESAIC_CACHE": "~/mine"}, "~/mine"),
        ({"MOESAIC_CACHE": "/mine"}, "/mine"),
        ({"MOESAIC_CACHE": ""}, "~/.cache/moesaic"),
    ],
)
def test_what_is_kept_lies_where_the_variables_say(
    variables: dict[str, str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "MOESAIC_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(wanted.replace("~", str(tmp_path)))

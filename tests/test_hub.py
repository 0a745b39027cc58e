"""Models of the Hugging Face Hub, fetched from one on this machine: told first, resumed, compared, pinned."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import edit_json, llama
from fake_hub import COMMIT, FakeHub, fake_hub
from huggingface_hub import constants

from moesaic.cli.main import main
from moesaic.models.checkpoint import open_checkpoint
from moesaic.models.errors import CheckpointError, FetchError
from moesaic.models.hub_names import pin_file, split_name
from moesaic.models.intake.hub import get_from_hub
from moesaic.models.locate import locate


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with a Llama, and caches of its own; the library reads its variables once, when it is imported."""
    llama(tmp_path / "published")
    (tmp_path / "published" / "LICENSE").write_text("as is")
    (tmp_path / "published" / "notes.bin").write_text("not asked for")
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    with fake_hub(FakeHub(tmp_path / "published")) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield served


def got(name: str = "hf:org/tiny") -> list[str]:
    """What is told of a model that is fetched."""
    lines: list[str] = []
    get_from_hub(name, lines.append)
    return lines


def test_what_will_be_downloaded_is_told_with_sizes_and_licence(hub: FakeHub) -> None:
    lines = got()
    assert lines[0].startswith("hf:org/tiny at 0123456789ab, licence apache-2.0: 0.")
    assert {line.split()[0] for line in lines[1:]} == {
        "LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert {name for name, _ in hub.asked} == {line.split()[0] for line in lines[1:]}


def test_a_fetched_model_is_opened_without_a_network(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", "hf:org/tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(locate("hf:org/tiny")) == str(locate("org/tiny"))
    hub.error = (500, "")
    assert main(["inspect", "hf:org/tiny"]) == 0
    assert open_checkpoint(f"hf:org/tiny@{COMMIT}").path == locate("hf:org/tiny")


@pytest.mark.parametrize("form", [("spiece.model",), ("source.spm", "target.spm", "vocab.json")], ids=len)
def test_older_forms_of_a_tokenizer_are_fetched_where_there_is_no_tokenizer_json(
    form: tuple[str, ...], hub: FakeHub
) -> None:
    for name in form:
        (hub.folder / name).write_text("{}")
    assert not {line.split()[0] for line in got()} & {"spiece.model", "source.spm"}
    (hub.folder / "tokenizer.json").unlink()
    assert set(form) <= {line.split()[0] for line in got()}
    assert all((locate("hf:org/tiny") / name).is_file() for name in form)


def test_the_commit_is_pinned_with_the_hash_of_each_file(hub: FakeHub) -> None:
    got()
    pin = json.loads(pin_file("org/tiny").read_text())
    assert (pin["commit"], pin["licence"]) == (COMMIT, "apache-2.0")
    assert len(pin["sha256"]) == 5 and all(len(each) == 64 for each in pin["sha256"].values())


def test_a_download_that_was_cut_short_goes_on_where_it_was(hub: FakeHub) -> None:
    hub.breaks = {"model.safetensors"}
    got()
    asked = [part for name, part in hub.asked if name == "model.safetensors"]
    assert asked[0] is None and asked[1] and not asked[1].startswith("bytes=0-")
    assert open_checkpoint("hf:org/tiny").entries


def test_a_model_that_was_not_fetched_says_the_one_command(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hf:org/tiny", "Once"]) == 2
    assert "fetch it with: moesaic models get hf:org/tiny" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="fetch it with: moesaic models get hf:org/tiny@v1"):
        locate("hf:org/tiny@v1")
    assert not hub.asked


def test_a_file_that_the_hub_lists_otherwise_is_not_pinned(hub: FakeHub) -> None:
    hub.lies = {"model.safetensors"}
    with pytest.raises(FetchError, match="model.safetensors is not the file that the hub lists: .* bytes with SHA-256"):
        got()
    assert not pin_file("org/tiny").exists()


def test_a_model_that_does_not_run_here_is_refused_before_its_weights(hub: FakeHub) -> None:
    edit_json(hub.folder / "config.json", model_type="mamba")
    with pytest.raises(CheckpointError, match="model_type is 'mamba'; moesaic runs the families"):
        got()
    assert [name for name, _ in hub.asked] == ["config.json"]


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        ("pytorch_model.bin", "hf:org/tiny has its weights in pickles, which can run code"),
        ("tiny.Q4_0.gguf", "hf:org/tiny has GGUF files; fetch one yourself, such as tiny.Q4_0.gguf, and .* import"),
        ("weights.msgpack", "hf:org/tiny has no config.json with safetensors beside it"),
    ],
)
def test_a_model_without_safetensors_is_refused_with_the_way_out(hub: FakeHub, renamed: str, said: str) -> None:
    (hub.folder / "notes.bin").unlink()
    (hub.folder / "model.safetensors").rename(hub.folder / renamed)
    with pytest.raises(FetchError, match=said):
        got()
    assert not hub.asked


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ((404, "RepoNotFound"), "the hub has no such model, or it is private: check it, or hf auth login"),
        ((403, "GatedRepo"), "is for those who accept its licence: do so on its page, then hf auth login"),
        ((404, "RevisionNotFound"), "the model has no such revision; leave it out for the newest"),
        ((418, ""), "could not be fetched: .*418.*; check the network and try again, which goes on where this one"),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_sentence(hub: FakeHub, error: tuple[int, str], said: str) -> None:
    hub.error = error
    with pytest.raises(FetchError, match=said):
        got()


def test_without_a_network_it_is_said(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match="hf:org/tiny could not be fetched: .*; check the network"):
        got()


def test_a_dtype_is_of_models_of_the_list_alone(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", "hf:org/tiny", "--dtype", "float16"]) == 2
    assert "those of the hub are kept as they are" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hf:", "hf:tiny", "hf:org/tiny/more", "hf:../tiny", "hf:org/tiny@"])
def test_what_is_no_name_of_the_hub_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="is no name of the hub; it is written hf:organisation/model"):
        split_name(name)

"""What stands around foreign clients, which `make interop` runs."""

import json
from pathlib import Path

import pytest
from interop.run import HERE, PROTOS, clients


def test_packages_of_node_are_pinned_by_their_hashes_and_by_no_address() -> None:
    packages = json.loads((HERE / "node" / "package-lock.json").read_text())["packages"]
    found = [about for name, about in packages.items() if name]
    assert len(found) > 20 and all(about["integrity"].startswith("sha512-") for about in found)
    assert not [about for about in found if "resolved" in about]


def test_a_machine_without_node_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = clients("python", "python", tmp_path / "node_modules", "http://127.0.0.1:1")
    assert [name for name, _ in found] == ["tritonclient", "guidellm"]
    assert "skipped" in capsys.readouterr().out


def test_the_files_that_clients_load_are_there() -> None:
    names = ("generation.proto", "google/rpc/error_details.proto")
    assert all((folder / name).is_file() for folder, name in zip(PROTOS, names, strict=True))

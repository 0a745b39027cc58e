"""Hundreds of damaged files of models; `make mutations` tries 10,000 of each kind."""

import base64
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import edit_json
from mutated_files import KINDS, model_files, opened

from moesaic.models.errors import CheckpointError
from moesaic.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    folders, files = model_files(tmp_path_factory.mktemp("mutated"))
    return folders, files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turn", range(5))
def test_a_damaged_file_is_read_or_refused_in_one_sentence(
    kind: str, turn: int, made: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    folders, files = made
    for seed in range(40 * turn, 40 * turn + 40):
        said = KINDS[kind](files if kind == "gguf" else folders, tmp_path, random.Random(seed))
        assert "\n" not in said and len(said) < 1500, said
        assert not (tmp_path / "out").exists() or not said  # nothing half-made is left


PANICS: dict[str, tuple[str, dict[str, Any], str]] = {
    "map": ("t5", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": 3}}, "Precompiled: Error"),
    "token": (
        "bert",
        {"post_processor": {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}], "pair": [],
            "special_tokens": {"[ELSE]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
        }},
        "no entry found for key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PANICS)
def test_what_the_library_of_tokenizers_panics_over_is_refused(
    kind: str, made: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    family, changes, words = PANICS[kind]
    source = next(folder for folder in made[0] if folder.name == family)
    shutil.copy(source / "tokenizer.json", tmp_path)
    edit_json(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(CheckpointError, match=f"cannot be read as a tokenizer: {words}.*; copy it again"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("padded", [True, False])
def test_a_map_of_letters_that_claims_all_memory_is_refused_before_the_library_makes_room(
    padded: bool, made: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    source = next(folder for folder in made[0] if folder.name == "t5")
    shutil.copy(source / "tokenizer.json", tmp_path)
    huge = base64.b64encode(b"\xf0\xff\xff\xff" + b"\0" * 16).decode()
    huge = huge if padded else huge.rstrip("=")
    maps = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": huge}]}
    edit_json(tmp_path / "tokenizer.json", normalizer=maps)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: its map of letters.* leads outside of itself"):
        Tokenizer.open(tmp_path)


def test_what_is_damaged_was_whole_before(made: tuple[list[Path], list[Path]]) -> None:
    folders, files = made
    assert [opened(folder) for folder in folders] == [""] * len(folders)
    assert {"bert", "t5", "classifier"} < {folder.name for folder in folders} and len(files) == len(folders) - 1

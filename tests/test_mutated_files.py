"""Hundreds of damaged files of models; `make mutations` tries 10,000 of each kind."""

import random
from pathlib import Path

import pytest
from mutated_files import KINDS, model_files


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

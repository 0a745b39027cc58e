"""Numbers with an exponent are numbers in every YAML that users write."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from moesaic.bench.reference.description import read_description
from moesaic.compress.recipe import read_recipe
from moesaic.models.yaml_file import read_yaml
from moesaic.server.config import configuration

DESCRIPTION = "{family: llama, width: 32, layers: 1, heads: 2, ffn_width: 64, tokens: 1e6, learning_rate: 6e-4}"


def value_of(text: str, folder: Path) -> Any:
    (folder / "file.yaml").write_text(f"key: {text}\n")
    return read_yaml(folder / "file.yaml")["key"]


@pytest.mark.parametrize(
    "text",
    ["2e-5", "1e-4", "1E-4", "1e4", "1E4", "+1e4", "-3e2", ".5e-3", "5.e-3", "2.0e-5", "1.5e3", "1_0e3", "1e+5", "0e0"],
)
def test_a_number_with_an_exponent_is_a_number(text: str, tmp_path: Path) -> None:
    value = value_of(text, tmp_path)
    assert type(value) in (int, float) and value == float(text.replace("_", ""))


@pytest.mark.parametrize("text", ["'2e-5'", '"1e4"', "!!str 1e4", "e5", "1e", "1e5x", "2e-5 tokens", "0x1e-5", "1e5.5"])
def test_text_that_looks_like_a_number_stays_text(text: str, tmp_path: Path) -> None:
    assert isinstance(value_of(text, tmp_path), str)


@pytest.mark.parametrize(
    "text", ["1_000", "12", "0.1", "-.inf", "1:30", "010", "true", "null", "2024-01-01", "abc", "[1]"]
)
def test_everything_else_is_read_as_before(text: str, tmp_path: Path) -> None:
    value, before = value_of(text, tmp_path), yaml.safe_load(text)
    assert value == before and type(value) is type(before)


def test_a_whole_number_with_an_exponent_is_a_count(tmp_path: Path) -> None:
    assert type(value_of("1e6", tmp_path)) is int and type(value_of("2.5e3", tmp_path)) is int
    assert value_of("1e999999999", tmp_path) == float("inf")


@pytest.mark.parametrize("text", ["[", "a: b: c", "\x00", "!!python/object/apply:os.getcwd []", "[" * 5000])
def test_what_is_not_yaml_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_yaml(tmp_path / "file.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("lr", "value"), [("2e-5", 2e-5), ("1e-4", 1e-4), ("1E-3", 1e-3), ("2.0e-5", 2e-5)])
def test_a_recipe_takes_a_learning_rate_as_people_write_it(lr: str, value: float, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"stages: [{{distill: {{tokens: 1e4, lr: {lr}}}}}]")
    [stage] = read_recipe(file).stages
    assert stage.settings.model_dump()["lr"] == value and stage.settings.model_dump()["tokens"] == 10_000


def test_a_description_and_a_server_config_take_them_too(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(DESCRIPTION)
    assert read_description(tmp_path / "model.yaml").learning_rate == 6e-4
    (tmp_path / "serve.yaml").write_text("models: {a: stories260k}\nstall_seconds: 6e1\nport: 5e4\n")
    options = configuration({}, {}, tmp_path / "serve.yaml").options
    assert (options.stall_seconds, options.port) == (60, 50000)

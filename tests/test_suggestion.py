"""A word that is nearly right is answered with the right one: models, tiers, options, choices, names of a recipe."""

from pathlib import Path

import pytest

from moesaic.cli.main import main
from moesaic.compress.recipe import read_recipe
from moesaic.models.dial import Dial
from moesaic.models.errors import CheckpointError, RecipeError, Unsupported
from moesaic.models.locate import locate
from moesaic.models.suggestion import likely, meant, suggestion

TIERS = ("full", "high", "balanced", "low")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("word", "known"), [("balansed", "balanced"), ("LOW", "low"), ("Hihg", "high"), ("turbo", None), ("", None)]
)
def test_the_likeliest_word_is_meant_whatever_its_case(word: str, known: str | None) -> None:
    assert meant(word, TIERS) == known
    assert likely(word, TIERS) == (f"; did you mean {known!r}?" if known else "")


def test_where_nothing_is_like_it_all_that_is_known_is_listed() -> None:
    assert suggestion("turbo", ["low", "high"]) == "known here: high, low"


def refusal(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(name)
    return str(caught.value)


@pytest.mark.parametrize("name", ["storis260k", "./stories260", "models/Stories260K", "out/stories_260k/"])
def test_a_path_that_is_like_a_short_name_is_answered_with_it(name: str) -> None:
    assert f"{name!r}" in refusal(name) and "did you mean 'stories260k'?" in refusal(name)


@pytest.mark.parametrize("name", ["smolm2", "smollm", "models/smollm2"])
def test_a_model_that_was_not_fetched_yet_comes_with_the_way_to_it(name: str) -> None:
    assert "did you mean 'smollm2'? smollm2 is not at hand yet" in refusal(name)
    assert "moesaic models get smollm2" in refusal(name)


def test_a_name_of_the_hub_that_is_like_none_is_looked_for_there_alone() -> None:
    said = refusal("org/some-model")
    assert "did you mean" not in said and "moesaic models get hf:org/some-model" in said
    assert "Else fetch it with: moesaic models get hf:models/stories260k" in refusal("models/stories260k")


@pytest.mark.parametrize(
    "command",
    [
        "run storis260k hi",
        "inspect storis260k",
        "eval storis260k",
        "eval stories260k --against storis260k",
        "compress storis260k out",
        "export storis260k out --to dense",
        "serve storis260k --port 0",
        "bench engine --model storis260k",
        "models get storis260k",
    ],
)
def test_every_command_that_takes_a_model_says_which_was_meant(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    assert "did you mean 'stories260k'?" in capsys.readouterr().err


def test_a_tier_is_told_with_all_that_there_are_and_the_likeliest() -> None:
    dial = Dial(TIERS, tuple((float(i), 1 - i / 10) for i in range(4)))
    with pytest.raises(Unsupported, match="'balansed' .* full, high, balanced, low; did you mean 'balanced'") as caught:
        dial.operating_point("balansed", None)
    assert "\n" not in str(caught.value)
    with pytest.raises(Unsupported, match="tiers: full, high, balanced, low$"):
        dial.operating_point("turbo", None)


@pytest.mark.parametrize("command", ["run stories260k hi --tier ful", "eval stories260k --documents 1 --tier ful"])
def test_a_tier_of_a_command_is_told_likewise(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    assert "did you mean 'full'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compress a b --recipee x", "--recipee x; did you mean '--recipe'?"),
        ("compress a b --recipee=x", "--recipee=x; did you mean '--recipe'?"),
        ("models get smollm2 --dtypo x", "--dtypo x; did you mean '--dtype'?"),
        ("run stories260k hi there", "unrecognized arguments: there\n"),
        ("run stories260k hi --zzz", "unrecognized arguments: --zzz\n"),
    ],
)
def test_an_option_that_does_not_exist_is_answered_with_one_that_does(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command.split())
    assert said in capsys.readouterr().err


def test_a_choice_of_a_recipe_is_told_likewise() -> None:
    stage = {"moefy": {"expert_size": 1, "router": "bit_plane", "tiers": {"low": 0.5}}}
    with pytest.raises(RecipeError, match="router: .*; did you mean 'bit_planes'"):
        read_recipe({"stages": [stage]})

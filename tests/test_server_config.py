"""A server's settings: from flags, the environment, a file and defaults, in this order, and each says whence it is."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from house import ROOT
from server_harness import Server

from moesaic.cli.main import build_parser, main
from moesaic.cli.parser import commands_of
from moesaic.engine.options import EngineOptions
from moesaic.models.errors import AddressError, SetupError
from moesaic.server.config import PREFIX, SERVER, SETTINGS, Configuration, configuration, variable
from moesaic.server.config_text import PAGE_BEGIN, PAGE_END, config_file, settings_page, start_lines
from moesaic.server.options import ServeOptions

MODELS = (("a", "x"),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "serve.yaml"


def refusal(flags: dict[str, Any], environment: dict[str, str], file: Path | None = None) -> str:
    with pytest.raises(SetupError) as caught:
        configuration(flags, environment, file)
    return str(caught.value)


# --- where a value comes from --------------------------------------------------------------------------------------


def test_a_flag_beats_the_environment_which_beats_a_file_which_beats_a_default(file: Path) -> None:
    file.write_text("models: {a: x}\nport: 1\nmax_streams: 1\nmax_requests: 1\n")
    found = configuration(
        {"port": 3}, {"MOESAIC_SERVE_PORT": "2", "MOESAIC_SERVE_MAX_STREAMS": "2", "MOESAIC_SERVE_HOST": ""}, file
    )
    assert found.options == ServeOptions(MODELS, port=3, max_streams=2, max_requests=1)
    assert found.origins == {
        "models": f"file {file}",
        "port": "flag --port",
        "max_streams": "environment MOESAIC_SERVE_MAX_STREAMS",
        "max_requests": f"file {file}",
    }


def test_a_file_gives_the_options(file: Path) -> None:
    file.write_text("models: {a: ./a, b: stories260k}\nport: 0\nengine: {threads: 2}\nmax_request_bytes: 5M\n")
    options = configuration({}, {}, file).options
    models = (("a", "./a"), ("b", "stories260k"))
    engine = EngineOptions(threads=2)
    assert options == ServeOptions(models, port=0, engine=engine, max_request_bytes=5 << 20)


def test_the_environment_may_name_the_file_and_the_models(file: Path) -> None:
    file.write_text("models: {a: x}\nport: 7\n")
    assert configuration({}, {"MOESAIC_SERVE_CONFIG": str(file)}).options == ServeOptions(MODELS, port=7)
    given = configuration({}, {"MOESAIC_SERVE_MODELS": "small=./out/small, stories260k"}).options.models
    assert given == (("small", "./out/small"), ("stories260k", "stories260k"))


def test_what_kubernetes_says_of_a_service_of_this_name_is_no_setting() -> None:
    injected = {"MOESAIC_PORT": "tcp://10.0.0.1:50051", "MOESAIC_SERVICE_HOST": "10.0.0.1"}
    assert configuration({}, injected) == Configuration(ServeOptions(()), {})


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag_a_variable_and_a_key(name: str, file: Path) -> None:
    """Each by its default, or by what takes its place, read as text, in all three places."""
    each = SETTINGS[name]
    text = {None: "1"}.get(each.default, str(each.default).lower())
    text = each.choices[0] if each.choices else text
    by_variable = configuration({}, {variable(name): text})
    by_flag = configuration({name: each.read(text)}, {})
    file.write_text(f"{name}: {text!r}\n" if name in SERVER else f"engine: {{{name}: {text!r}}}\n")
    assert by_variable.options == by_flag.options
    if each.read is str:
        assert configuration({}, {}, file).options == by_flag.options


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: x}\nprot: 1", "there is no setting 'prot'; did you mean 'port'?"),
        ("models: {a: x}\nengine: {thread: 1}", "there is no setting 'thread'; did you mean 'threads'?"),
        ("models: {a: x}\nport: many", "port: Input should be a valid integer"),
        ("models: [a]", "models must map names to paths"),
        ("models: {a: 5}", "models: Input should be a valid string"),
        ("max_request_bytes: many", "max_request_bytes: 'many' is not a number of bytes"),
        ("engine: {dtype: float31}", "dtype is 'float31'; did you mean 'float32'?"),
        ("engine: 5", "must hold keys and values, it holds int"),
        ("just words", "must hold keys and values, it holds str"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    told = refusal({}, {}, file)
    assert words in told and str(file) in told


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("PROT", "1", "there is no setting MOESAIC_SERVE_PROT; did you mean 'MOESAIC_SERVE_PORT'?"),
        ("TOKEN", "moesaic_secret", "did you mean 'MOESAIC_SERVE_TOKENS'?"),
        ("PORT", "many", "MOESAIC_SERVE_PORT: 'many' is no whole number"),
        ("DRAIN_SECONDS", "soon", "MOESAIC_SERVE_DRAIN_SECONDS: 'soon' is no number"),
        ("REFLECTION", "maybe", "MOESAIC_SERVE_REFLECTION: 'maybe' is neither true nor false"),
        ("MAX_REQUESTS", "0", "MOESAIC_SERVE_MAX_REQUESTS: max_requests is 0, it must be at least 1"),
        ("KV_CACHE", "int9", "MOESAIC_SERVE_KV_CACHE: kv_cache is 'int9'; did you mean 'int8'?"),
        ("SLOTS", "5000", "num_slots is 5000"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name_and_one_that_is_unknown_is_not_quoted(
    name: str, text: str, words: str
) -> None:
    told = refusal({}, {PREFIX + name: text})
    assert words in told and told.startswith("environment") and "moesaic_secret" not in told


def test_a_wrong_value_is_refused_though_a_better_place_says_another(file: Path) -> None:
    file.write_text("port: 70000\n")
    with pytest.raises(AddressError, match=f"^{file}: port 70000 does not exist"):
        configuration({"port": 1}, {}, file)


# --- how it is written ---------------------------------------------------------------------------------------------


def test_the_start_says_all_settings_a_line_for_each_place(file: Path) -> None:
    file.write_text("models: {a: x}\n")
    lines = list(start_lines(configuration({"port": 3}, {"MOESAIC_SERVE_THREADS": "2"}, file)))
    told = dict(line.removeprefix("configuration from ").split(": ", 1) for line in lines)
    assert told[f"file {file}"] == "models=a=x" and told["flag"] == "port=3" and told["environment"] == "threads=2"
    names = [pair.partition("=")[0] for line in told.values() for pair in line.split()]
    assert sorted(names) == sorted(["models", *SETTINGS]) and lines[-1].startswith("configuration from defaults: ")


def test_the_printed_file_gives_the_same_configuration_again(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "serve a=stories260k --port 3 --slots 2 --no-reflection --max-request-bytes 5M --print-config"
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    file.write_text(printed)
    again = configuration({}, {}, file).options
    engine = EngineOptions(num_slots=2)
    models = (("a", "stories260k"),)
    assert again == ServeOptions(models, port=3, engine=engine, reflection=False, max_request_bytes=5 << 20)
    assert "port: 3  # flag --port\n" in printed and "max_streams: 100  # default\n" in printed


def test_strange_names_and_paths_come_back_out_of_a_printed_file(file: Path) -> None:
    models = (("a: b", "./x # y"), ("ü", "- 'q'"))
    file.write_text(config_file(Configuration(ServeOptions(models, host="::1"), {})))
    assert configuration({}, {}, file).options == ServeOptions(models, host="::1")


def test_a_server_says_at_its_start_whence_its_settings_are() -> None:
    with Server() as server:
        assert "configuration from defaults: models=echo=stories260k host=127.0.0.1 port=0 " in server.printed


def test_the_page_of_settings_is_made_of_them() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    assert page.partition(PAGE_BEGIN)[2].partition(PAGE_END)[0].strip() == settings_page().strip()


def test_the_command_has_every_setting() -> None:
    serve: argparse.ArgumentParser = commands_of(build_parser())["serve"]
    assert {each.flag for each in SETTINGS.values()} <= set(serve._option_string_actions)

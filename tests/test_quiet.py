"""Nothing that a library says to programmers reaches whoever runs a command; what moesaic says does.

Each kind was seen: a warning of Python, a logger without a handler, the C core of gRPC, a font without a letter.
"""

import ast
import builtins
import logging
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from house import FOLDERS, ROOT

from moesaic.cli.main import main
from moesaic.evaluate.files import as_png
from moesaic.server import worker

QUIET = "from moesaic.models.quiet import quiet_libraries; quiet_libraries(print)\n"
HUB = QUIET + "import huggingface_hub.constants"
OLD_VARIABLE = {"HF_HUB_ENABLE_HF_TRANSFER": "1"}  # of which huggingface_hub warns when it is imported


def python(code: str, options: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> str:
    """What a process of ours that runs this says on stdout and stderr together."""
    asking = ("PYTHONWARNINGS", "GRPC_VERBOSITY", "HF_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(asking)}
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, env={**clean, **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_warning_of_a_library_is_not_shown() -> None:
    assert python(HUB, environment=OLD_VARIABLE) == ""


def test_who_asks_python_for_warnings_gets_them() -> None:
    assert "FutureWarning" in python(HUB, ("-W", "default"), OLD_VARIABLE)
    assert "FutureWarning" in python(HUB, environment={**OLD_VARIABLE, "PYTHONWARNINGS": "default"})


def test_a_warning_of_ours_is_said_in_its_own_words() -> None:
    code = "import warnings; from moesaic.engine.defaults import GenerationConfigWarning as Ours\n"
    assert python(QUIET + code + "warnings.warn('set aside', Ours)") == "set aside\n"


def test_a_line_of_a_logger_that_nobody_listens_to_is_not_shown() -> None:
    assert python(QUIET + "import logging; logging.getLogger('bitsandbytes.backends').warning('install kernels')") == ""


def test_matplotlib_without_a_place_for_its_fonts_says_nothing_of_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    assert python(QUIET + "import matplotlib", environment={"MPLCONFIGDIR": str(tmp_path / "file" / "folder")}) == ""


def test_letters_that_the_font_lacks_are_no_warning() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.suptitle("日本")
    assert as_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("verbosity", [{}, {"GRPC_VERBOSITY": "ERROR"}])
def test_the_core_of_grpc_says_nothing_unless_it_is_asked_to(verbosity: dict[str, str]) -> None:
    """It logs a port that is taken, of which its caller hears by an exception."""
    code = QUIET + "import grpc, socket; from concurrent.futures import ThreadPoolExecutor\n"
    code += "held = socket.create_server(('127.0.0.1', 0))\n"
    code += "server = grpc.server(ThreadPoolExecutor(1), options=(('grpc.so_reuseport', 0),))\n"
    code += "try: server.add_insecure_port(f'127.0.0.1:{held.getsockname()[1]}')\nexcept RuntimeError: print('refused')"
    said = python(code, environment=verbosity)
    assert "refused\n" in said and ("Address already in use" in said) == bool(verbosity)


def test_an_engine_process_is_as_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*_: object) -> int:
        warnings.warn("said to programmers", UserWarning, stacklevel=1)
        logging.getLogger("of.a.library").warning("said to programmers")
        return 7

    monkeypatch.setattr(logging, "lastResort", logging.lastResort)  # which is put back then
    monkeypatch.setattr(worker, "run", run)
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(sys, "argv", ["", str(theirs.detach()), "stories260k", "{}"])
    with ours, warnings.catch_warnings():
        warnings.simplefilter("always")
        assert worker.main() == 7
    assert capsys.readouterr().err == ""


def test_every_warning_of_ours_has_a_category_of_ours() -> None:
    """The category tells it from those of libraries."""
    trees = [ast.parse(file.read_text()) for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    warned = [call for call in calls if ast.unparse(call.func) == "warnings.warn"]
    kinds = [ast.unparse(call.args[1]) if len(call.args) > 1 else "none" for call in warned]
    assert "GenerationConfigWarning" in kinds
    assert not [kind for kind in kinds if hasattr(builtins, kind) or not kind.endswith("Warning")]


def test_no_command_warns_here_where_a_warning_is_an_error(tmp_path: Path) -> None:
    recipe, out = tmp_path / "quick.yaml", str(tmp_path / "日本")
    recipe.write_text("stages: [{quantize: {linears: int8}}]\nevaluation: {documents: 1, truncate: 16}\n")
    assert main(["compress", "stories260k", out, "--recipe", str(recipe)]) == 0
    assert main(["export", out, str(tmp_path / "plain"), "--to", "dense"]) == 0
    assert main(["inspect", out, "--experts", "--text", "--tokens", "64", "--picture", str(tmp_path / "a.png")]) == 0

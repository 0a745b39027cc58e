"""A server's options from a file."""

from pathlib import Path

import pytest

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import SetupError
from moesaic.server.config import configuration
from moesaic.server.options import ServeOptions


def test_a_file_gives_the_options(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models: {a: ./a, b: stories260k}\nport: 0\nengine: {threads: 2}\n")
    models = (("a", "./a"), ("b", "stories260k"))
    assert configuration({}, {}, file).options == ServeOptions(models=models, port=0, engine=EngineOptions(threads=2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {a: x}\nprot: 1", "there is no setting 'prot'; did you mean 'port'?"),
        ("models: {a: x}\nengine: {thread: 1}", "there is no setting 'thread'; did you mean 'threads'?"),
        ("models: {a: x}\nport: many", "port: Input should be a valid integer"),
        ("models: [a]", "models must map names to paths"),
        ("just words", "must hold keys and values, it holds str"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(SetupError) as caught:
        configuration({}, {}, file)
    assert words in str(caught.value) and str(file) in str(caught.value)

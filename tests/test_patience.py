"""`moesaic generate` while a model loads on a real server: it waits, as long as it may, and for nobody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS, FakeClock
from server_harness import LISTENS, Server, free_port

from moesaic.cli.main import main
from moesaic.engine.completion import Chunk
from moesaic.engine.options import EngineOptions
from moesaic.models.errors import Unavailable
from moesaic.server import patience
from moesaic.server.client import Client
from moesaic.server.patience import when_loaded


@dataclass
class Loading:
    """A server whose model has loaded once `open` was called."""

    server: Server
    gate: Path

    @property
    def address(self) -> str:
        return str(self.server.address)

    def open(self) -> None:
        self.gate.touch()


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Loading]:
    gate = tmp_path / "gate"
    with Server(engine=EngineOptions(device="gated", dtype=str(gate)), said=LISTENS) as server:
        yield Loading(server, gate)


def generate(address: str, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "moesaic.cli.main", "generate", "Once", "--address", address, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_generate_says_once_that_it_waits_and_answers_when_the_model_is_there(loading: Loading) -> None:
    with generate(loading.address, "--max-new-tokens", "3") as asked:
        assert asked.stderr
        assert asked.stderr.readline() == f"waiting for {loading.address} to load echo\n"
        loading.open()
        answer, rest = asked.communicate(timeout=PATIENCE_SECONDS)
    assert asked.returncode == 0 and "Once" in answer
    assert rest.startswith("[2 prompt + 3 new tokens") and "waiting" not in rest


def test_generate_waits_no_longer_than_it_may(
    loading: Loading, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "time", clock := FakeClock())
    monkeypatch.setattr(patience, "POLL_SECONDS", 300.0)
    assert main(["generate", "Once", "--address", loading.address, "--timeout", "1000"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "moesaic: error: model echo is still loading after 1000 s" in shown.err
    assert clock.now == 1000.0


def test_a_server_that_ends_while_it_loads_is_not_waited_for(loading: Loading) -> None:
    with generate(loading.address) as asked:
        assert asked.stderr and asked.stderr.readline().startswith("waiting for ")
        loading.server.send(signal.SIGKILL)
        _, rest = asked.communicate(timeout=PATIENCE_SECONDS)
    words = f"the server at {loading.address} ended while it was loading echo; its log says why"
    assert asked.returncode == 2 and rest == f"moesaic: error: {words}\n"


def test_nobody_at_all_is_refused_without_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Once", "--address", f"127.0.0.1:{free_port()}"]) == 2
    shown = capsys.readouterr().err
    assert "nobody answers" in shown and "waiting" not in shown


def test_a_model_that_is_there_is_asked_once() -> None:
    with Server() as server, server.client() as client:
        told: list[str] = []
        chunks = when_loaded(
            client, lambda left: client.stream([5], max_new_tokens=2), "", None, lambda name, _: told.append(name)
        )
        assert [id for chunk in chunks for id in chunk.token_ids] == [5, 5] and not told


def test_what_no_waiting_helps_against_is_raised(loading: Loading) -> None:
    def refuse(left: float | None) -> Iterator[Chunk]:
        raise Unavailable("this server is shutting down", "DRAINING")

    with Client(loading.address) as client, pytest.raises(Unavailable, match="shutting down"):
        next(when_loaded(client, refuse, "", 1.0, lambda *_: None))


def test_the_answer_has_the_time_that_waiting_left(loading: Loading) -> None:
    given: list[float | None] = []

    def ask(left: float | None) -> Iterator[Chunk]:
        given.append(left)
        if len(given) == 1:
            raise Unavailable("model echo is loading", "LOADING")
        yield from ()

    with Client(loading.address) as client:
        assert list(when_loaded(client, ask, "", PATIENCE_SECONDS, lambda *_: loading.open())) == []
    assert given[0] == PATIENCE_SECONDS and given[1] is not None and given[1] < PATIENCE_SECONDS

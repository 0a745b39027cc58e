"""How a server starts, drains and ends, and what it does when its engine does not."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo_engine import CRASH, HOLD, STALL
from grpc_health.v1 import health_pb2, health_pb2_grpc
from patience import PATIENCE_SECONDS, alive, eventually
from server_harness import LISTENS, Server

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import InvalidRequest, SetupError, Unavailable
from moesaic.server.client import Client
from moesaic.server.engine_process import EngineProcess
from moesaic.server.options import ServeOptions
from moesaic.server.serve import serve

ECHO = (sys.executable, str(Path(__file__).with_name("echo_engine.py")))


def engine_of(client: Client, name: str = "") -> int:
    return int(client.model(name).device)


def healthy(client: Client, service: str = "") -> bool:
    return bool(client.health(service) == "SERVING")


def test_a_term_signal_lets_running_streams_finish_and_refuses_new_ones() -> None:
    with Server() as server, server.client() as client:
        engine = engine_of(client)
        with server.held():
            stream = client.stream([HOLD], max_new_tokens=60)
            first = next(stream)
            server.send(signal.SIGTERM)
            eventually(lambda: not healthy(client))
            with pytest.raises(Unavailable, match="shutting down") as caught:
                client.generate([5])
            assert caught.value.reason == "DRAINING" and client.model().state == "DRAINING"
        assert sum(len(chunk.token_ids) for chunk in [first, *stream]) == 60
        assert server.end() == 0 and not alive(engine)
        assert "Traceback" not in server.log


def test_what_runs_longer_than_the_drain_is_told_why() -> None:
    with Server(drain_seconds=0.1) as server, server.client() as client, server.held():
        stream = client.stream([HOLD])
        next(stream)
        server.send(signal.SIGINT)
        with pytest.raises(Unavailable) as caught:
            list(stream)
        assert caught.value.reason == "DRAINING" and server.end() == 0


def test_a_second_signal_does_not_wait() -> None:
    with Server(drain_seconds=1e6) as server, server.client() as client, server.held():
        stream = client.stream([HOLD])
        next(stream)
        server.send(signal.SIGTERM)
        eventually(lambda: not healthy(client))
        server.send(signal.SIGTERM)
        with pytest.raises(Unavailable):
            list(stream)
        assert server.end() == 0


def test_who_watches_the_health_is_told_of_the_drain() -> None:
    with Server() as server, grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="model:echo"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.send(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert server.end() == 0


def test_a_term_signal_while_the_server_is_imported_ends_it_as_asked() -> None:
    script = """
import os, signal, sys
class Ends:
    def find_spec(self, name, path=None, target=None):
        if name == "moesaic.server.serve":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Ends())
from moesaic.cli.main import main
main(["serve", "stories260k", "--port", "0"])
sys.exit("it was imported")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=PATIENCE_SECONDS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_an_idle_server_ends_at_once() -> None:
    with Server() as server:
        server.send(signal.SIGTERM)
        assert server.end() == 0 and server.log == ""


def test_a_killed_engine_is_told_to_its_callers_and_started_again() -> None:
    with Server() as server, server.client() as client:
        engine = engine_of(client)
        with server.held():
            stream = client.stream([HOLD])
            next(stream)
            os.kill(engine, signal.SIGKILL)
            with pytest.raises(Unavailable, match="is being started again") as caught:
                list(stream)
            assert caught.value.reason == "ENGINE_RESTARTING" and caught.value.retry_after_seconds > 0
            eventually(lambda: not healthy(client) and not healthy(client, "model:echo"))
            assert client.model().state == "FAILED"
            with pytest.raises(Unavailable, match="is being started again"):
                client.generate([5])
        client.wait_until_ready(PATIENCE_SECONDS)
        assert client.generate([5], max_new_tokens=2).token_ids == (5, 5) and engine_of(client) != engine
        eventually(lambda: "was ended by signal 9" in server.log)


def test_an_engine_that_crashes_in_a_step_takes_only_its_own_model_down() -> None:
    with Server(names=("one", "two")) as server, server.client() as client:
        with server.held():
            stream = client.stream([HOLD], model="two", max_new_tokens=100)
            first = next(stream)
            with pytest.raises(Unavailable, match="model one ended"):
                client.generate([CRASH], model="one")
            eventually(lambda: not healthy(client))
            assert healthy(client, "model:two")
        assert sum(len(chunk.token_ids) for chunk in [first, *stream]) == 100
        client.wait_until_ready(PATIENCE_SECONDS)
        with pytest.raises(InvalidRequest, match="is empty and several are served: one, two"):
            client.generate([6])
        assert [model.name for model in client.models()] == ["one", "two"]


def test_the_engine_ends_with_a_killed_server() -> None:
    with Server() as server, server.client() as client:
        engine = engine_of(client)
        server.send(signal.SIGKILL)
        server.end()
        eventually(lambda: not alive(engine))


def test_health_is_progress() -> None:
    with Server(stall_seconds=0.5) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        with server.held():
            answer = pool.submit(client.generate, [STALL], max_new_tokens=5)
            names = ("", "model:echo", "moesaic.v1.Generation")
            eventually(lambda: not any(healthy(client, name) for name in names))
        assert len(answer.result().token_ids) == 5
        eventually(lambda: healthy(client))


def test_a_loading_server_answers_that_it_loads_and_ends_when_told() -> None:
    with Server(engine=EngineOptions(device="endless"), said=LISTENS) as server, server.client() as client:
        assert client.health() == client.health("model:echo") == "NOT_SERVING"
        assert client.model().state == "LOADING" and client.model().load is None
        with pytest.raises(Unavailable, match="is loading") as caught:
            client.generate([5])
        assert caught.value.reason == "LOADING" and caught.value.retry_after_seconds > 0
        server.send(signal.SIGTERM)
        assert server.end() == 0


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("broken", "moesaic: error: config.json names 6 layers and the weights hold 5\n"),
        ("dead", "the engine of model echo ended with code 1 while it was loading; the log says why\n"),
    ],
)
def test_an_engine_that_cannot_load_ends_the_server_with_one_sentence(device: str, words: str) -> None:
    with Server(engine=EngineOptions(device=device), said="") as server:
        assert server.end() == 2
        assert server.log.endswith(words) and ("Traceback" in server.log) == (device == "dead")


@pytest.mark.parametrize("door", ["port", "http_port", "health_port"])
def test_a_taken_port_is_named_with_the_way_out(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports: dict[str, Any] = {"port": 0, door: taken.getsockname()[1]}
        assert serve(ServeOptions(models=(("a", "stories260k"),), **ports)) == 2
    words = f"127.0.0.1:{ports[door]} is taken by another program; stop it, or choose another port with --"
    assert f"moesaic: error: {words}{door.replace('_', '-')} (0" in capsys.readouterr().err


def test_a_public_host_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(ServeOptions(models=(("a", "stories260k"),), host="0.0.0.0")) == 2
    assert "takes both TLS and tokens" in capsys.readouterr().err


def test_a_missing_model_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(ServeOptions(models=(("a", "/nowhere"),), port=0)) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_stopping_while_an_engine_loads_leaves_no_process() -> None:
    async def scene() -> None:
        engine = EngineProcess("m", "", EngineOptions(device="endless"), lambda: None, ECHO)
        loading = asyncio.create_task(engine.start())
        while engine._child is None:
            await asyncio.sleep(0)
        loading.cancel()
        with suppress(asyncio.CancelledError, SetupError):
            await loading
        await engine.stop()
        assert engine._child is None

    asyncio.run(scene())

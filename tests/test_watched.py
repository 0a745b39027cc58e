"""A folder whose models are served as they come and go."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from http_caller import HttpCaller
from patience import eventually
from server_harness import LISTENS, Server

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import NotFound, Overloaded, SetupError, Unavailable
from moesaic.models.locate import locate
from moesaic.server.client import Client
from moesaic.server.memory import expected_bytes
from moesaic.server.options import ServeOptions, check
from moesaic.server.watched import Watched, directories


def put(folder: Path, name: str) -> Path:
    """A model, written beside and renamed."""
    shutil.copytree(locate("stories260k"), folder / f".{name}")
    return (folder / f".{name}").rename(folder / name)


def states(client: Client) -> dict[str, str]:
    return {model.name: model.state for model in client.models()}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Server, Client, Path]]:
    """A server without a model of its own."""
    with Server(names=(), watch=str(tmp_path), said=LISTENS, http=True) as server, server.client() as client:
        server.wait_for("HTTP at")
        yield server, client, tmp_path


def test_what_appears_is_served_and_what_goes_is_not(watched: tuple[Server, Client, Path]) -> None:
    _, client, folder = watched
    assert client.health() == "NOT_SERVING"
    put(folder, "one")
    eventually(lambda: states(client) == {"one": "SERVING"} and client.health() == "SERVING")
    assert client.generate([5], max_new_tokens=1).token_ids == (5,)
    (folder / "one").rename(folder / ".gone")
    eventually(lambda: not states(client))
    with pytest.raises(NotFound):
        client.generate([5], model="one")


def test_what_cannot_be_loaded_is_said_once_until_it_is_another(watched: tuple[Server, Client, Path]) -> None:
    server, client, folder = watched
    config = put(folder, "one") / "config.json"
    eventually(lambda: states(client) == {"one": "SERVING"})
    right = config.read_text()
    config.write_text("{")
    eventually(lambda: states(client) == {"one": "FAILED"} and client.health("model:one") == "NOT_SERVING")
    assert "config.json" in client.models()[0].problem
    assert str(folder) not in client.models()[0].problem
    with pytest.raises(Unavailable, match="model one could not be loaded"):
        client.generate([5], model="one")
    with HttpCaller(server.web) as caller:
        caller.send(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b'"one":"FAILED"' in caller.rest()
    put(folder, "two")
    eventually(lambda: states(client).get("two") == "SERVING")
    assert server.log.count("model one is not served") == 1
    config.write_text(right)
    eventually(lambda: states(client) == {"two": "SERVING", "one": "SERVING"})


def test_a_model_that_finds_no_room_comes_when_there_is(tmp_path: Path) -> None:
    put(tmp_path, "one")
    budget = expected_bytes(tmp_path / "one", EngineOptions())
    with Server(names=(), watch=str(tmp_path), said=LISTENS, memory_budget=budget) as server, server.client() as client:
        eventually(lambda: states(client) == {"one": "SERVING"})
        put(tmp_path, "two")
        eventually(lambda: states(client).get("two") == "FAILED")
        assert "of the memory budget" in client.models()[1].problem
        (tmp_path / "one").rename(tmp_path / ".one")
        eventually(lambda: states(client) == {"two": "SERVING"})
        assert server.log.count("model two is not served") == 1


class Loads:
    """Stands for a fleet: it notes what it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.catalog = SimpleNamespace(problems={})
        self.asked: list[str] = []
        self.error = error

    async def load(self, name: str, path: str) -> None:
        self.asked.append(f"load {name}")
        if self.error is not None:
            raise self.error

    async def unload(self, name: str) -> None:
        self.asked.append(f"unload {name}")


def after(looks: list[dict[str, Any]], error: Exception | None = None) -> list[str]:
    """What is asked of a fleet when this is seen, look after look."""
    fleet = Loads(error)

    async def look() -> None:
        watched = Watched(Path("/models"), fleet, lambda: None)  # type: ignore[arg-type]
        for found in looks:
            watched.look(found)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(look())
    return fleet.asked


FULL = Overloaded("there is no room", "MEMORY_BUDGET")
LOOKS: list[tuple[list[dict[str, Any]], Exception | None, list[str]]] = [
    ([{"a": 1}], None, []),
    ([{"a": 1}, {"a": 2}, {"a": 3}], None, []),
    ([{"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}], None, ["load a"]),
    ([{"a": 1}, {"a": 1}, {}, {}], None, ["load a", "unload a"]),
    ([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}], None, ["load a", "unload a", "load a"]),
    ([{"a": 1}, {"a": 1}, {"a": 1}], NotFound("a", "a"), ["load a"]),
    ([{"a": 1}, {"a": 1}, {}, {"a": 1}, {"a": 1}], NotFound("a", "a"), ["load a", "load a"]),
    ([{"a": 1}, {"a": 1}, {"a": ()}, {"a": ()}, {"a": 1}], None, ["load a"]),
    ([{"a": 1}, {"a": 1}, {"a": 1}], FULL, ["load a", "load a"]),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "error", "asked"), LOOKS)
def test_a_directory_is_loaded_once_it_stays_the_same(looks: Any, error: Any, asked: list[str]) -> None:
    assert after(looks, error) == asked


def test_a_directory_that_is_being_written_is_another_at_each_look(tmp_path: Path) -> None:
    folder = put(tmp_path, "one")
    (tmp_path / ".two").mkdir()
    (tmp_path / "three").mkdir()
    before = directories(tmp_path)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    after_that = directories(tmp_path)
    assert before is not None and after_that is not None
    assert before.keys() == after_that.keys() == {"one"} and before != after_that
    assert directories(tmp_path / "nothing") is None


def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="watch: there is no folder .*/none; make it, or leave out --watch"):
        check(ServeOptions((), watch=str(tmp_path / "none")))

"""Models that come and go while a server runs, and what happens to their requests and to everybody else's."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from echo_engine import CRASH, HOLD
from http_caller import HttpCaller
from patience import alive, eventually
from server_harness import Server

from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.models.errors import (
    AlreadyExists,
    InvalidRequest,
    MoesaicError,
    NotFound,
    Overloaded,
    Unavailable,
    Unsupported,
)
from moesaic.models.locate import locate
from moesaic.server.admin_client import AdminClient
from moesaic.server.client import Client
from moesaic.server.memory import expected_bytes


@pytest.fixture
def two(admin: AdminClient) -> Iterator[str]:
    """A second model, which may be gone afterwards."""
    admin.load_model("two", "stories260k")
    yield "two"
    if "two" in names(admin):
        admin.unload_model("two", 0)


def answered(web: str, body: object) -> bytes:
    """All that comes back over HTTP."""
    with HttpCaller(web) as caller:
        caller.post(body, connection="close")
        found: bytes = caller.rest()
        return found


@contextmanager
def gated(gate: Path, **options: Any) -> Iterator[Server]:
    """A server whose further models load once there is such a file."""
    gate.touch()
    with Server(engine=EngineOptions(device="gated", dtype=str(gate)), **options) as server:
        gate.unlink()
        yield server


def names(admin: AdminClient) -> list[str]:
    return [model.name for model in admin.server_info().models]


def test_a_loaded_model_serves_by_its_name_and_has_a_health_of_its_own(client: Client, two: str) -> None:
    assert [model.name for model in client.models()] == ["echo", "two"]
    assert client.generate([7, 8], model=two, max_new_tokens=2).token_ids == (7, 8)
    assert client.health("model:two") == client.health("model:echo") == client.health() == "SERVING"
    with pytest.raises(InvalidRequest, match="model: is empty and several are served: echo, two"):
        client.generate([7])


def test_the_name_alone_is_a_short_name(client: Client, admin: AdminClient) -> None:
    loaded = admin.load_model("stories260k")
    assert loaded.state == "SERVING" and Path(loaded.path).name == "stories260k"
    admin.unload_model("stories260k")
    assert client.generate([7], max_new_tokens=1).token_ids == (7,)


def test_an_unloaded_model_is_as_if_it_had_never_been(client: Client, admin: AdminClient, two: str) -> None:
    assert admin.unload_model(two) == 0
    with pytest.raises(NotFound, match="no model 'two' is served here; there is: echo"):
        client.generate([7], model=two)
    with pytest.raises(NotFound):
        client.health("model:two")
    assert client.generate([7], max_new_tokens=1).token_ids == (7,) and client.health() == "SERVING"


def test_an_unload_lets_running_requests_end(server: Server, client: Client, admin: AdminClient, two: str) -> None:
    with ThreadPoolExecutor(1) as pool, server.held():
        stream = client.stream([HOLD], model=two, max_new_tokens=5)
        first = next(stream)
        unloading = pool.submit(admin.unload_model, two)
        eventually(lambda: client.model(two).state == "DRAINING")
        with pytest.raises(Unavailable, match="model two is being unloaded") as caught:
            client.generate([7], model=two)
        assert caught.value.reason == "UNLOADING" and client.health("model:two") == "NOT_SERVING"
        assert client.health() == "SERVING" and client.generate([7], model="echo", max_new_tokens=1).token_ids == (7,)
        server._gate.unlink()
        assert len([token for chunk in (first, *stream) for token in chunk.token_ids]) == 5
        assert unloading.result() == 0
        server._gate.touch()


def test_a_full_model_that_is_being_unloaded_says_that_and_not_that_it_is_full() -> None:
    with Server(max_requests=1) as server, server.client() as client, server.admin() as admin:
        with ThreadPoolExecutor(1) as pool:
            with server.held():
                stream = client.stream([HOLD], max_new_tokens=5)
                next(stream)
                unloading = pool.submit(admin.unload_model, "echo")
                eventually(lambda: client.model("echo").state == "DRAINING")
                with pytest.raises(Unavailable, match="model echo is being unloaded"):
                    client.generate([7])
            assert list(stream) and unloading.result() == 0


def test_an_unload_whose_time_is_over_ends_what_runs(
    server: Server, client: Client, admin: AdminClient, two: str
) -> None:
    with server.held():
        streams = [client.stream([HOLD], model=two) for _ in range(12)]  # more than there are slots
        for stream in streams[:8]:
            next(stream)
        eventually(lambda: sum(model.requests for model in admin.load().models) == 12)
        assert admin.unload_model(two, 0) == 12
        for stream in streams:
            with pytest.raises(Unavailable, match="being unloaded"):
                list(stream)
    eventually(lambda: admin.load().requests == 0)


def test_an_unload_that_nobody_waits_for_goes_on(server: Server, client: Client, two: str) -> None:
    with server.held():
        stream = client.stream([HOLD], model=two, max_new_tokens=5)
        next(stream)
        with server.admin() as leaving, ThreadPoolExecutor(1) as pool:
            left = pool.submit(leaving.unload_model, two)
            eventually(lambda: client.model(two).state == "DRAINING")
            leaving.close()
            with pytest.raises(MoesaicError):
                left.result()
    assert list(stream)
    eventually(lambda: [model.name for model in client.models()] == ["echo"])


def test_a_batch_and_a_score_of_a_model_that_is_unloaded_end_with_it(
    server: Server, client: Client, admin: AdminClient, two: str
) -> None:
    with server.held(), client.generate_batch([[HOLD]] * 40, model=two, max_new_tokens=9) as batch:
        eventually(lambda: sum(model.requests for model in admin.load().models) >= 32)
        admin.unload_model(two, 0)
        found = dict(batch)
    assert len(found) == 40 and {type(item) for item in found.values()} <= {Unavailable, NotFound}


def test_models_that_come_and_go_leave_no_process_and_no_file_behind(
    server: Server, client: Client, admin: AdminClient
) -> None:
    def once() -> int:
        admin.load_model("two", "stories260k")
        client.tokenize("a " * 20_000, model="two")  # starts another process
        engine = int(client.model("two").device)
        admin.unload_model("two")
        assert not alive(engine)
        return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

    first = once()
    for _ in range(5):
        last = once()
    assert last <= first + 1  # a call that ends may have its socket still


def test_an_engine_that_crashes_takes_only_its_own_model_down(client: Client, two: str) -> None:
    with pytest.raises(Unavailable, match="two ended and is being started again"):
        client.generate([CRASH, 5, 6, 7], model=two, max_new_tokens=9)
    assert client.generate([7], model="echo", max_new_tokens=1).token_ids == (7,)
    eventually(lambda: client.health("model:two") == "SERVING")


def test_one_name_is_given_once(admin: AdminClient, two: str) -> None:
    with pytest.raises(AlreadyExists) as caught:
        admin.load_model(two)
    assert caught.value.reason == "MODEL_EXISTS"
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(admin.load_model, "twice", "stories260k") for _ in range(4)]
        errors = [error for load in loads if (error := load.exception()) is not None]
    assert len(errors) == 3 and all(isinstance(error, AlreadyExists) for error in errors)
    admin.unload_model("twice")


@pytest.mark.parametrize("name", ["", "two words", "a=b", "x" * 65, "é", "a\n"])
def test_a_name_that_nobody_could_type_is_refused(admin: AdminClient, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        admin.load_model(name, "stories260k")
    assert [violation.field for violation in caught.value.violations] == ["name"]


def test_a_path_that_holds_no_model_is_refused_by_its_field(admin: AdminClient, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["Bert"]}')
    for path in ("nowhere", str(tmp_path), "/dev/null", "/"):
        with pytest.raises(InvalidRequest) as caught:
            admin.load_model("new", path)
        assert [violation.field for violation in caught.value.violations] == ["path"]
    assert names(admin) == ["echo"]


def test_models_that_there_are_not_or_are_on_their_way_are_not_unloaded(admin: AdminClient) -> None:
    for name, kind in (("gone", NotFound), ("", InvalidRequest)):
        with pytest.raises(kind):
            admin.unload_model(name)


def test_a_model_that_loads_is_told_so_and_hides_nobody(tmp_path: Path) -> None:
    with gated(gate := tmp_path / "gate") as server, ThreadPoolExecutor(1) as pool:
        with server.client() as client, server.admin() as admin:
            loading = pool.submit(admin.load_model, "late", "stories260k")
            eventually(lambda: len(client.models()) == 2)
            with pytest.raises(Unavailable, match="model late is loading"):
                client.generate([7], model="late")
            assert (client.health(), client.health("model:late")) == ("SERVING", "NOT_SERVING")
            assert client.generate([7], max_new_tokens=1).token_ids == (7,)  # no name still means the one that serves
            with pytest.raises(Unavailable, match="model late is being loaded"):
                admin.unload_model("late")
            gate.touch()
            assert loading.result().state == "SERVING" and client.health("model:late") == "SERVING"


def test_an_answer_that_began_without_a_name_stays_with_its_model() -> None:
    with Server(http=True) as server, server.client() as client, server.admin() as admin, ThreadPoolExecutor(3) as pool:
        engine = int(client.model().device)  # the echo's process, by its number
        os.kill(engine, signal.SIGSTOP)
        try:
            answers = [pool.submit(client.generate, [7], max_new_tokens=1)]
            bodies = [{"prompt": [7], "max_tokens": 1, "stream": stream} for stream in (False, True)]
            answers += [pool.submit(answered, server.web, body) for body in bodies]
            eventually(lambda: admin.load().requests == 3)
            admin.load_model("two", "stories260k")
        finally:
            os.kill(engine, signal.SIGCONT)
        assert answers[0].result().token_ids == (7,)
        assert all(b"200 OK" in answer.result() and b'"model":"echo"' in answer.result() for answer in answers[1:])


def test_a_load_that_nobody_waits_for_leaves_nothing(tmp_path: Path) -> None:
    with gated(tmp_path / "gate") as server, ThreadPoolExecutor(1) as pool:
        with server.client() as client, server.admin() as leaving:
            loading = pool.submit(leaving.load_model, "late", "stories260k")
            eventually(lambda: len(client.models()) == 2)
            leaving.close()
            eventually(lambda: len(client.models()) == 1)
            assert loading.exception() is not None and client.health() == "SERVING"
            server.send(15)  # SIGTERM
            assert server.end() == 0


def test_a_server_that_ends_while_a_model_loads_ends_as_ever(tmp_path: Path) -> None:
    with gated(tmp_path / "gate", last_words_seconds=0.1) as server:
        with server.client() as client, server.admin() as admin, ThreadPoolExecutor(1) as pool:
            loading = pool.submit(admin.load_model, "late", "stories260k")
            eventually(lambda: len(client.models()) == 2)
            server.send(15)
            assert server.end() == 0 and loading.exception() is not None


def test_an_engine_that_cannot_start_is_told_with_its_sentence(tmp_path: Path) -> None:
    marker = tmp_path / "first"
    with Server(engine=EngineOptions(device="once", dtype=str(marker))) as server, server.admin() as admin:
        with pytest.raises(Unsupported, match="model two cannot be loaded: .*two.* while it was loading"):
            admin.load_model("two", "stories260k")
        with server.client() as client:
            assert client.generate([7], max_new_tokens=1).token_ids == (7,) and client.health() == "SERVING"


def test_the_last_model_can_go_and_another_one_come(tmp_path: Path) -> None:
    with Server() as server, server.client() as client, server.admin() as admin:
        admin.unload_model("echo")
        assert client.health() == "NOT_SERVING" and client.models() == []
        with pytest.raises(NotFound, match="there is none at all now"):
            client.generate([7])
        admin.load_model("new", "stories260k")
        assert client.health() == "SERVING" and client.generate([7], max_new_tokens=1).token_ids == (7,)


# --- the budget ----------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_the_budget_is_refused_with_both_figures() -> None:
    needed = expected_bytes(locate("stories260k"), EngineOptions())
    with Server(memory_budget=needed) as server, server.admin() as admin:
        with pytest.raises(Overloaded) as caught:
            admin.load_model("two", "stories260k")
        assert caught.value.reason == "MEMORY_BUDGET" and names(admin) == ["echo"]
        free = needed - 2000  # which the echo says that it takes
        assert f"needs {needed:,} bytes, and of the memory budget of {needed:,} bytes {free:,}" in str(caught.value)


def test_models_of_the_start_that_do_not_fit_are_refused_at_once() -> None:
    with Server(memory_budget=1000, said="") as server:
        assert server.end() == 2 and "memory_budget is 1,000" in server.log


def test_what_a_model_needs_is_its_weights_and_a_full_cache() -> None:
    folder = locate("stories260k")
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    small = expected_bytes(folder, EngineOptions(num_slots=1, max_context=64))
    assert expected_bytes(folder, EngineOptions(num_slots=2, max_context=64)) - weights == 2 * (small - weights) > 0
    assert expected_bytes(folder, EngineOptions(kv_memory=1000)) == weights + 1000


@pytest.mark.parametrize("kv_cache", [None, "int8"])
def test_what_is_expected_of_a_model_is_what_its_engine_then_holds(kv_cache: str | None) -> None:
    options = EngineOptions(device="cpu", num_slots=3, kv_cache=kv_cache)
    about = LLM("stories260k", options).description
    expected = expected_bytes(locate("stories260k"), options)
    assert expected == pytest.approx(about.weight_bytes + about.kv_bytes, rel=0.01)

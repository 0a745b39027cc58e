"""The client where there is no server, or one that is not ours."""

import pytest
from echo_engine import HOLD
from patience import PATIENCE_SECONDS, FakeClock, eventually
from server_harness import Server, all_free, free_port

from moesaic.models.errors import AddressError, NotFound, Unavailable
from moesaic.server import client as module
from moesaic.server.client import Client


@pytest.fixture
def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


def test_nobody_there_says_how_to_start_a_server(nobody: str) -> None:
    with Client(nobody) as client, pytest.raises(AddressError) as caught:
        client.generate("x")
    assert (
        str(caught.value) == f"nobody answers at {nobody}; start a server with: moesaic serve PATH --port {nobody[10:]}"
    )


def test_nobody_there_is_said_by_a_stream_too(nobody: str) -> None:
    with Client(nobody) as client, pytest.raises(AddressError, match="moesaic serve PATH"):
        next(client.stream("x"))


def test_waiting_for_nobody_ends_in_time(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_POLL_SECONDS", 300.0)
    with Client(nobody) as client, pytest.raises(AddressError):
        client.wait_until_ready(1000.0)
    assert clock.now == 1000.0


def test_waiting_sees_a_server_that_comes_later(nobody: str) -> None:
    with Client(nobody) as client:
        with pytest.raises(AddressError):
            client.health()
        with Server(port=int(nobody.rpartition(":")[2])):
            client.wait_until_ready(PATIENCE_SECONDS)
            assert client.generate([5], max_new_tokens=2).token_ids == (5, 5)


def test_a_server_that_dies_in_a_stream_is_a_lost_connection() -> None:
    with Server() as server, server.client() as client, server.held():
        stream = client.stream([HOLD])
        next(stream)
        server.process.kill()
        with pytest.raises(Unavailable, match="was lost") as caught:
            list(stream)
        assert caught.value.reason == "CONNECTION_LOST"
        with pytest.raises(AddressError):
            client.models()


def test_leaving_the_client_cancels_its_streams_and_frees_their_slots() -> None:
    with Server() as server, server.held():
        with server.client() as client:
            stream = client.stream([HOLD])
            next(stream)
        with pytest.raises(Unavailable, match="cancelled"):
            list(stream)
        with server.client() as other:
            eventually(lambda: all_free(other))
            with pytest.raises(NotFound, match="knows nothing of this name"):
                other.health("model:unknown")

"""The admin socket: who can open it, what it tells, and what it does to a server that is at work."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from echo_engine import HOLD
from patience import eventually
from server_harness import LISTENS, Server, all_free

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import Aborted, AddressError, InvalidRequest, MoesaicError, Unavailable
from moesaic.models.version import VERSION
from moesaic.proto import generation_pb2 as pb
from moesaic.server import admin_door
from moesaic.server.admin_client import AdminClient
from moesaic.server.batch import MOST_REQUESTS
from moesaic.server.client import Client
from moesaic.server.handlers import GENERATION, stub
from moesaic.server.status import error_of


@pytest.fixture
def held(server: Server) -> Iterator[None]:
    with server.held():
        yield


# --- the socket ----------------------------------------------------------------------------------------------------


def test_only_its_owner_can_open_the_socket(server: Server) -> None:
    found = os.stat(server.admin_socket)
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600


def test_the_public_port_knows_nothing_of_administration(server: Server) -> None:
    with AdminClient("unused") as admin, server.client() as client:
        admin._channel = client._channel
        with pytest.raises(MoesaicError, match="UNIMPLEMENTED"):
            admin.server_info()


def test_a_socket_that_another_server_listens_on_is_not_taken(server: Server) -> None:
    with Server(admin_socket=server.admin_socket, said="") as second:
        assert second.end() == 2 and "admin socket of a server that runs" in second.log
    with server.admin() as admin:
        assert admin.server_info().version == VERSION


def test_a_socket_that_a_killed_server_left_is_used_again(tmp_path: Path) -> None:
    path = str(tmp_path / "left.sock")
    with Server(admin_socket=path):
        pass  # ends by SIGKILL
    assert Path(path).is_socket()
    with Server(admin_socket=path), AdminClient(path) as admin:
        assert admin.server_info().version == VERSION


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("file", "is there and is no socket"), ("x" * 120, "a socket may have 107"), ("no/folder", "cannot be made")],
)
def test_a_path_that_can_be_no_socket_is_refused_with_the_way_out(tmp_path: Path, path: str, sentence: str) -> None:
    (tmp_path / "file").touch()
    with Server(admin_socket=str(tmp_path / path), said="") as server:
        assert server.end() == 2 and sentence in server.log and "--admin-socket" in server.log
    assert (tmp_path / "file").read_bytes() == b""


def test_a_server_whose_own_folder_is_not_to_be_had_serves_without_a_socket(tmp_path: Path) -> None:
    (tmp_path / "moesaic").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with Server(admin_socket=None) as server, server.client() as client:
            assert "there is no admin socket" in server.printed
            assert client.generate([5], max_new_tokens=1).token_ids == (5,)


def test_left_out_it_is_in_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert admin_door.default_path(50051) == tmp_path / "moesaic" / "admin-50051.sock"
    assert stat.S_IMODE((tmp_path / "moesaic").stat().st_mode) == 0o700
    (tmp_path / "moesaic").chmod(0o755)
    with pytest.raises(AddressError, match="only this user can open"):
        admin_door.default_path(50051)


# --- what it tells -------------------------------------------------------------------------------------------------


def test_it_tells_what_the_server_is(server: Server, admin: AdminClient) -> None:
    info = admin.server_info()
    assert (info.version, list(info.addresses), info.log_level) == (VERSION, [server.address], "WARNING")
    assert [(model.name, model.state) for model in info.models] == [("echo", "SERVING")]
    assert info.configuration["max_requests"] == "64" and info.configuration["num_slots"] == "8"
    assert info.limits["batch_requests"] == MOST_REQUESTS and info.limits["message_bytes"] == 4 << 20
    assert info.uptime_seconds > 0 and info.memory_budget > 1 << 20


@pytest.mark.usefixtures("held")
def test_it_tells_how_full_the_server_is(client: Client, admin: AdminClient) -> None:
    with client.stream([HOLD, 5]) as stream:
        next(stream)
        load = admin.load()
        (model,) = load.models
        assert (load.requests, load.draining, model.requests, model.prompt_tokens) == (1, False, 1, 2)
        assert load.request_bytes > 0 and model.running == 1 and model.free_slots == model.num_slots - 1
    eventually(lambda: admin.load().requests == 0)


# --- what it does --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("held")
def test_an_aborted_request_is_told_so_and_leaves_others_alone(client: Client, admin: AdminClient) -> None:
    with client.stream([HOLD], request_id="mine") as mine, client.stream([HOLD], request_id="other") as other:
        next(mine), next(other)
        assert admin.abort("mine") == 1
        with pytest.raises(Aborted, match="whoever runs this server"):
            list(mine)
        eventually(lambda: admin.load().requests == 1 and admin.load().models[0].requests == 1)
        assert admin.abort("mine") == 0


@pytest.mark.usefixtures("held")
def test_an_abort_ends_the_requests_of_one_id_of_every_caller(server: Server, admin: AdminClient) -> None:
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[HOLD]), request_id="same")
    with server.client() as client, grpc.insecure_channel(server.address, own_connection) as channel:
        mine, other = client.stream([HOLD], request_id="same"), stub(channel, GENERATION, "GenerateStream")(request)
        next(mine), next(other)
        assert admin.abort("same", caller="nobody") == 0 and admin.abort("same") == 2
        with pytest.raises(Aborted):
            list(mine)
        with pytest.raises(grpc.RpcError) as caught:
            list(other)
        assert caught.value.code() is grpc.StatusCode.CANCELLED and isinstance(error_of(caught.value), Aborted)


@pytest.mark.usefixtures("held")
def test_an_abort_frees_the_slot_of_a_stream_that_nobody_reads(client: Client, admin: AdminClient) -> None:
    with client.stream([HOLD], request_id="unread"):
        eventually(lambda: admin.load().models[0].running == 1)
        assert admin.abort("unread") == 1
        eventually(lambda: all_free(client))


@pytest.mark.usefixtures("held")
def test_a_batch_item_can_be_aborted_and_its_batch_goes_on(client: Client, admin: AdminClient) -> None:
    with client.generate_batch([[HOLD]], request_id="item", max_new_tokens=9) as batch:
        eventually(lambda: admin.abort("item") == 1)
        ((index, item),) = list(batch)
        assert index == 0 and isinstance(item, Aborted)


def test_the_log_level_can_be_changed_while_the_server_runs(admin: AdminClient) -> None:
    assert admin.set_log_level("DEBUG") == "WARNING"
    assert admin.server_info().log_level == "DEBUG"
    assert admin.set_log_level("WARNING") == "DEBUG"
    with pytest.raises(InvalidRequest, match=r"level: is 'LOUD', it must be DEBUG, INFO, WARNING or ERROR"):
        admin.set_log_level("LOUD")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 2e9])
def test_a_drain_of_no_time_is_refused_and_drains_nothing(admin: AdminClient, client: Client, seconds: float) -> None:
    with pytest.raises(InvalidRequest, match=r"seconds: is .*, it must be a finite number"):
        list(admin.drain(seconds))
    assert client.generate([5], max_new_tokens=1).token_ids == (5,)


def test_a_drain_tells_what_is_left_and_ends_the_server_as_a_signal_does() -> None:
    with Server() as server, server.client() as client, server.admin() as admin:
        with server.held():
            stream = client.stream([HOLD], max_new_tokens=5)
            first = next(stream)
            progress = admin.drain()
            assert (next(progress).requests_left, client.health()) == (1, "NOT_SERVING")
            with pytest.raises(Unavailable, match="shutting down"):
                client.generate([5])
        assert len([token for chunk in (first, *stream) for token in chunk.token_ids]) == 5
        last = list(progress)[-1]
        assert (last.done, last.requests_left, server.end()) == (True, 0, 0)


def test_a_drain_whose_time_is_over_ends_what_runs() -> None:
    with Server() as server, server.held(), server.client() as client, server.admin() as admin:
        stream = client.stream([HOLD])
        next(stream)
        last = list(admin.drain(0))[-1]
        assert (last.done, last.requests_left) == (True, 1)
        with pytest.raises(Unavailable, match="shutting down"):
            list(stream)
        assert server.end() == 0


def test_a_second_drain_may_end_it_sooner_and_not_later() -> None:
    with Server() as server, server.held(), server.client() as client, server.admin() as admin:
        stream = client.stream([HOLD])
        next(stream)
        assert next(admin.drain()).requests_left == next(admin.drain(1e9)).requests_left == 1
        assert list(admin.drain(0))[-1].requests_left == 1 and server.end() == 0


def test_leaving_a_drain_stops_nothing() -> None:
    with Server() as server, server.client() as client:
        with server.held():
            stream = client.stream([HOLD], max_new_tokens=5)
            next(stream)
            with server.admin() as admin:
                next(admin.drain())
        assert list(stream) and server.end() == 0


def test_a_server_that_still_loads_can_be_drained() -> None:
    with Server(said=LISTENS, engine=EngineOptions(device="endless")) as server, server.admin() as admin:
        server.wait_for("the admin socket is")
        assert [each.done for each in admin.drain()][-1] and server.end() == 0

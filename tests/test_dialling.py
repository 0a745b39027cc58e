"""How a client reaches a server: what it shows, what it refuses to show, and what it tries again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pki import Authority, put
from server_harness import Server

from moesaic.cli.main import main
from moesaic.models.errors import Aborted, AddressError, MoesaicError, Overloaded, SetupError, Unavailable
from moesaic.proto import generation_pb2 as pb
from moesaic.server.client import Client
from moesaic.server.dialling import ClientSettings, dial
from moesaic.server.status import refusal

TOKEN = "moesaic_" + "t" * 43


def sent(address: str, environment: dict[str, str] | None = None, **settings: Any) -> str:
    """The authorization of a client's calls."""
    found: ClientSettings = settings  # type: ignore[assignment]
    return dict(dial(address, found, environment or {}).metadata).get("authorization", "")


# --- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_comes_from_the_argument_a_file_or_the_environment_in_this_order(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(tmp_path / name, f"{name}\n".encode())
    everywhere = {"MOESAIC_TOKEN": "environment", "MOESAIC_TOKEN_FILE": str(tmp_path / "two")}
    assert sent("localhost", everywhere, token="given", token_file=tmp_path / "one") == "Bearer given"
    assert sent("localhost", everywhere, token_file=tmp_path / "one") == "Bearer one"
    assert sent("localhost", everywhere) == "Bearer environment"
    assert sent("localhost", {"MOESAIC_TOKEN_FILE": str(tmp_path / "two")}) == "Bearer two"
    assert sent("localhost") == ""


@pytest.mark.parametrize(
    "address", ["example.com", "http://10.0.0.7:1", "dns:///example.com:1", "xds:///it", "[fe80::1]"]
)
@pytest.mark.parametrize("environment", [{}, {"MOESAIC_TOKEN": TOKEN}])
def test_a_token_never_travels_in_the_clear(address: str, environment: dict[str, str]) -> None:
    given = {} if environment else {"token": TOKEN}
    with pytest.raises(AddressError, match="write https:// before the address") as caught:
        sent(address, environment, **given)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["localhost", "127.0.0.1:7", "[::1]:7", "unix:/run/moesaic.sock", "https://far.example"]
)
def test_a_token_travels_within_this_machine_and_by_tls(address: str) -> None:
    assert sent(address, token=TOKEN) == f"Bearer {TOKEN}"


@pytest.mark.parametrize("token", ["two words", "a\nb", "é", " ", "a\x00"])
def test_what_can_be_no_token_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(SetupError, match="^the token is no line of printable ASCII") as caught:
        sent("localhost", token=token)
    assert token not in str(caught.value) or token == " "


def test_a_file_that_others_may_read_is_no_place_for_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(SetupError, match="others may read or change .*; run: chmod 600"):
        sent("localhost", token_file=tmp_path / "token")


def test_no_text_of_a_client_holds_its_token() -> None:
    client = Client("localhost:9", token=TOKEN)
    assert TOKEN not in f"{client!r} {client._dialled!r}"


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_tls_is_asked_for_by_the_scheme_or_by_who_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert dial("https://localhost", {}, {}).credentials and dial("localhost", {"ca": authority.file}, {}).credentials
    assert dial("localhost", {}, {"MOESAIC_CA": str(authority.file)}).credentials is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ca": "none.pem"}, "ca: none.pem cannot be read: No such file"),
        ({"ca": __file__}, "holds no certificate in PEM"),
        ({"client_cert": __file__}, "client_cert and client_key come together"),
        ({"retries": 5}, "retries is 5, it must be at least 0 and at most 4; 0 tries nothing twice"),
    ],
)
def test_what_no_client_can_be_made_with_is_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        Client("https://localhost", **settings)


def test_the_command_takes_a_token_and_who_is_trusted_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "x", "--ca", str(tmp_path / "none.pem")]) == 2
    assert "ca: " in capsys.readouterr().err
    assert main(["generate", "x", "--token-file", str(tmp_path / "none")]) == 2
    assert "token_file: " in capsys.readouterr().err


# --- what is tried again -------------------------------------------------------------------------------------------


class Busy:
    """A server that refuses so many calls, and then answers."""

    def __init__(self, refusals: list[MoesaicError]) -> None:
        self.refusals = refusals
        self.asked = 0

    def answer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked += 1
        if self.asked <= len(self.refusals):
            error = self.refusals[self.asked - 1]
            if error is DROPPED:
                context.abort(grpc.StatusCode.CANCELLED, "")
            told = refusal(error)
            context.set_trailing_metadata(told.metadata)
            context.abort(told.code, told.message)
        return bytes(pb.ListModelsResponse().SerializeToString())


@contextmanager
def busy(*refusals: MoesaicError) -> Iterator[tuple[Busy, str]]:
    found = Busy(list(refusals))
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"ListModels": grpc.unary_unary_rpc_method_handler(found.answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("moesaic.v1.Models", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found, address
    finally:
        server.stop(None)


FULL, GONE = Overloaded("full", retry_after_seconds=0.01), Unavailable("gone", "DRAINING")
DROPPED = MoesaicError("by gRPC, before a handler of ours had it")


@pytest.mark.parametrize("refusals", [[FULL], [GONE, FULL], [FULL] * 4, [DROPPED, GONE]])
def test_a_busy_server_is_asked_again_until_it_answers(refusals: list[MoesaicError]) -> None:
    with busy(*refusals) as (server, address), Client(address) as client:
        assert client.models() == [] and server.asked == len(refusals) + 1


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (1, 2), (4, 5)])
def test_a_server_that_stays_busy_is_asked_as_often_as_was_said(retries: int, asked: int) -> None:
    with busy(*[FULL] * 9) as (server, address), Client(address, retries=retries) as client:
        with pytest.raises(Overloaded, match="full"):
            client.models()
        assert server.asked == asked


@pytest.mark.parametrize("told", [MoesaicError("a mistake"), Aborted("whoever runs this has ended it")])
def test_a_mistake_or_what_was_aborted_is_not_sent_again(told: MoesaicError) -> None:
    with busy(told) as (server, address), Client(address) as client:
        with pytest.raises(type(told), match=str(told)):
            client.models()
        assert server.asked == 1


def test_a_time_limit_of_the_client_is_that_of_each_call(server: Server) -> None:
    with server.client(timeout=0.0) as client:
        with pytest.raises(Unavailable) as caught:
            client.models()
        assert caught.value.reason == "DEADLINE_EXCEEDED" and client.models(timeout=100.0)


def test_of_two_servers_one_may_end_and_no_call_fails() -> None:
    """Balanced by gRPC: who drains says NOT_SERVING first, and refuses before any answer has begun."""
    with Server(last_words_seconds=1) as one, Server() as two:
        both = f"ipv4:{one.address},{two.address}"
        with Client(both, balance=True) as client, ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(client.generate, [5], max_new_tokens=2) for _ in range(100)]
            one.process.terminate()
            asked += [pool.submit(client.generate, [5], max_new_tokens=2) for _ in range(100)]
            assert {answer.result().token_ids for answer in asked} == {(5, 5)}
        assert one.end() == 0

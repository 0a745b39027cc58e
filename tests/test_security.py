"""TLS and tokens of a server that runs: who gets in, what they are told, and what changes while it runs."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from echo_engine import HOLD
from google.rpc import error_details_pb2 as rpc
from google.rpc.status_pb2 import Status
from patience import PATIENCE_SECONDS, eventually
from pki import Authority, put
from server_harness import Server

from moesaic.bench.server.http2_caller import Http2Caller
from moesaic.models.errors import AddressError, AlreadyExists, Overloaded, PermissionDenied, Unauthenticated
from moesaic.server.certificates import TlsFiles
from moesaic.server.client import Client
from moesaic.server.handlers import GENERATION, MODELS
from moesaic.server.tokens import add_token


class Secured:
    """A server with TLS and tokens, and what its callers need."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.files = self.authority.issue()
        self.tokens = folder / "tokens.jsonl"
        self.alice = add_token(self.tokens, "alice", ["generate"])
        self.bob = add_token(self.tokens, "bob", ["generate"])
        self.watcher = add_token(self.tokens, "watcher", ["metrics"])
        self.hasty = add_token(self.tokens, "hasty", ["generate"], requests_per_minute=1)
        self.batcher = add_token(self.tokens, "batcher", ["generate"], requests_per_minute=10)
        self.reader = add_token(self.tokens, "reader", ["generate"], tokens_per_minute=100)
        given = {"tls_cert": self.files.cert, "tls_key": self.files.key, "tokens": self.tokens}
        self.options = {name: str(file) for name, file in given.items()}
        self.server: Server

    def client(self, token: str | None = None) -> Client:
        client: Client = self.server.client(ca=self.authority.file, token=token)
        return client

    @property
    def probed(self) -> str:
        """Where health is answered without TLS."""
        printed: str = self.server.printed
        return printed.partition("health alone, without TLS, on ")[2].split()[0]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(tmp_path_factory.mktemp("secured"))
    with Server(**secured.options, health_port=0, log_requests=True) as secured.server:
        yield secured


def shown_by(address: str, authority: Authority) -> bytes:
    """The certificate that a connection which begins now is shown."""
    context = ssl.create_default_context(cafile=str(authority.file))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            return wrapped.getpeercert(binary_form=True) or b""


def first_of(files: TlsFiles) -> bytes:
    """The certificate of a server, as bytes on the wire."""
    end = b"-----END CERTIFICATE-----\n"
    first = files.cert.read_bytes().partition(end)[0] + end
    return ssl.PEM_cert_to_DER_cert(first.decode())


# --- who gets in ---------------------------------------------------------------------------------------------------


def test_a_caller_with_a_token_is_served_over_tls(secured: Secured) -> None:
    with secured.client(secured.alice) as client:
        assert client.generate([5], max_new_tokens=2).token_ids == (5, 5)
        assert [each.name for each in client.models()] == ["echo"]


def test_without_a_token_nothing_is_served_but_health(secured: Secured) -> None:
    with secured.client() as client:
        assert client.health() == "SERVING"
        for ask in (client.models, lambda: client.generate([5]), lambda: list(client.stream([5]))):
            with pytest.raises(Unauthenticated, match="asks who calls: send `authorization: Bearer TOKEN`"):
                ask()


def test_every_method_but_health_asks_who_calls(secured: Secured) -> None:
    """As reflection would list them; a method that is added asks for a token until a line opens it."""
    roots = grpc.ssl_channel_credentials(secured.authority.file.read_bytes())
    services = [GENERATION, MODELS]
    paths = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]
    paths += [f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")]
    with grpc.secure_channel(secured.server.address, roots) as channel:
        for path in paths:
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.unary_stream(path)(b""))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, path


@pytest.mark.parametrize("token", ["moesaic_" + "a" * 43, "x"])
def test_a_token_that_is_not_known_is_refused_and_not_quoted(secured: Secured, token: str) -> None:
    with secured.client(token) as client, pytest.raises(Unauthenticated) as caught:
        client.generate([5])
    assert caught.value.reason == "TOKEN_UNKNOWN" and str(caught.value) == "this token is not known here"


def test_a_token_for_something_else_may_not_generate(secured: Secured) -> None:
    with secured.client(secured.watcher) as client:
        assert client.models()
        with pytest.raises(PermissionDenied, match="the token of watcher may metrics; this call takes generate"):
            client.generate([5])


def test_who_is_too_fast_is_told_when_to_come_again_and_others_are_served(secured: Secured) -> None:
    with secured.client(secured.hasty) as client, secured.client(secured.alice) as other:
        client.generate([5], max_new_tokens=1)
        with pytest.raises(Overloaded, match="hasty has spent its 1 requests a minute") as caught:
            client.generate([5], max_new_tokens=1)
        assert caught.value.reason == "RATE_LIMITED" and 0 < caught.value.retry_after_seconds <= 60
        assert other.generate([5], max_new_tokens=1).token_ids == (5,)


def test_each_item_of_a_batch_is_a_request(secured: Secured) -> None:
    with secured.client(secured.batcher) as client:
        assert len(list(client.generate_batch([[5]] * 10, max_new_tokens=1))) == 10
        with pytest.raises(Overloaded, match="batcher has spent its 10 requests a minute"):
            client.generate([5], max_new_tokens=1)


def test_what_is_read_for_a_score_is_spent(secured: Secured) -> None:
    with secured.client(secured.reader) as client:
        client.score([5] * 30, [[6]] * 4)
        with pytest.raises(Overloaded, match="reader has spent its 100 tokens a minute"):
            client.tokenize("a")


def test_who_may_only_watch_may_not_use_the_other_calls_either(secured: Secured) -> None:
    with secured.client(secured.watcher) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.score([5], [[6]]),
            lambda: client.tokenize("a"),
            lambda: client.validate("a"),
            lambda: list(client.generate_batch([[5]])),
        ]
        for call in calls:
            with pytest.raises(PermissionDenied, match="this call takes generate"):
                call()


def test_the_status_of_a_rate_names_the_caller_as_what_is_used_up(secured: Secured) -> None:
    roots = grpc.ssl_channel_credentials(secured.authority.file.read_bytes())
    metadata = (("authorization", f"Bearer {secured.hasty}"),)
    with grpc.secure_channel(secured.server.address, roots) as channel, pytest.raises(grpc.RpcError) as caught:
        for _ in range(2):
            channel.unary_unary("/moesaic.v1.Generation/Generate")(b"", metadata=metadata)
    trailers = dict(caught.value.trailing_metadata())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and int(trailers["grpc-retry-pushback-ms"]) > 0
    quota = rpc.QuotaFailure()
    details = Status.FromString(trailers["grpc-status-details-bin"]).details
    assert any(each.Unpack(quota) for each in details) and quota.violations[0].subject == "caller"


# --- who a caller is -----------------------------------------------------------------------------------------------


def test_a_caller_is_its_token_and_not_its_connection(secured: Secured) -> None:
    """One name on two connections is one caller; an id of another caller is free."""
    with secured.client(secured.alice) as one, secured.client(secured.alice) as two, secured.client(secured.bob) as bob:
        with secured.server.held(), one.stream([HOLD], request_id="mine") as stream:
            next(stream)
            with pytest.raises(AlreadyExists):
                two.generate([5], request_id="mine")
            assert bob.generate([5], max_new_tokens=1, request_id="mine").token_ids == (5,)


def test_a_line_of_the_log_names_the_caller(secured: Secured) -> None:
    with secured.client(secured.bob) as bob:
        bob.generate([5], max_new_tokens=1, request_id="logged")
    eventually(lambda: "logged" in secured.server.log)
    [line] = [json.loads(line) for line in secured.server.log.splitlines() if '"logged"' in line]
    assert line["caller"] == "bob"


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_a_caller_without_tls_is_told_where_it_is_missing(secured: Secured) -> None:
    with (
        secured.server.client() as client,
        pytest.raises(AddressError, match="if it speaks TLS, write https:// before"),
    ):
        client.health()


def test_a_caller_that_trusts_somebody_else_refuses_the_server(secured: Secured, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    with secured.server.client(ca=other.file) as client, pytest.raises(AddressError, match="TLS with it fails: .*ca"):
        client.health()


def test_a_server_without_tls_is_told_apart(server: Server, secured: Secured) -> None:
    with server.client(ca=secured.authority.file) as client, pytest.raises(AddressError, match="answers without TLS"):
        client.health()


def test_the_port_for_probes_answers_health_and_nothing_else(secured: Secured) -> None:
    with Client(secured.probed, retries=0) as probe:
        assert probe.health() == probe.health("model:echo") == "SERVING"
        for ask in (probe.models, lambda: probe.generate([5])):
            with pytest.raises(Exception, match="UNIMPLEMENTED"):
                ask()


def test_callers_must_show_a_certificate_where_that_is_asked(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), (tmp_path / "stranger")
    stranger.mkdir()
    files, mine, theirs = authority.issue(), authority.issue("caller"), Authority(stranger).issue("caller")
    given = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": authority.file}
    with Server(**{name: str(file) for name, file in given.items()}) as server:
        with server.client(ca=authority.file, client_cert=mine.cert, client_key=mine.key) as client:
            assert client.generate([5], max_new_tokens=1).token_ids == (5,)
        for shown in ({}, {"client_cert": theirs.cert, "client_key": theirs.key}):
            asking = server.client(ca=authority.file, **shown)
            with asking as client, pytest.raises(AddressError, match="TLS with it fails: .*Socket closed"):
                client.health()
        assert "and callers show one too" in server.printed


def test_large_headers_end_their_own_call_alone(secured: Secured, server: Server) -> None:
    """A server of its own without TLS, which the caller by hand does not speak; the limits are the same."""
    with Http2Caller(server.address) as caller, server.client() as client:
        caller.large_headers("/moesaic.v1.Generation/Generate", 1 << 20)
        assert client.generate([5], max_new_tokens=1).token_ids == (5,)


# --- what changes while it runs ------------------------------------------------------------------------------------


def test_a_new_certificate_is_shown_to_new_connections_and_a_wrong_one_to_none(secured: Secured) -> None:
    old = first_of(secured.files)
    with secured.client(secured.alice) as client:
        assert shown_by(secured.server.address, secured.authority) == old and client.models()
        new = first_of(secured.authority.issue())
        eventually(lambda: shown_by(secured.server.address, secured.authority) == new != old)
        put(secured.files.cert, b"-----BEGIN CERTIFICATE-----\n")
        eventually(lambda: "TLS: what was read before stays in force: tls_cert, tls_key: " in secured.server.log)
        assert shown_by(secured.server.address, secured.authority) == new and client.models()
    secured.authority.issue()


def test_a_token_that_is_added_may_call_and_one_that_is_taken_out_may_not(secured: Secured) -> None:
    before = secured.tokens.read_bytes()
    with secured.client(add_token(secured.tokens, "guest", ["generate"])) as guest:
        eventually(lambda: allowed(guest))
        put(secured.tokens, before)
        eventually(lambda: not allowed(guest))


def test_half_of_a_file_of_tokens_changes_nothing_and_is_said(secured: Secured) -> None:
    before = secured.tokens.read_bytes()
    put(secured.tokens, before[:-30])
    eventually(lambda: "tokens: what was read before stays in force" in secured.server.log)
    with secured.client(secured.hasty) as client:
        assert client.models()
    put(secured.tokens, before)


def test_a_file_of_tokens_that_everybody_can_write_is_not_read(secured: Secured) -> None:
    secured.tokens.chmod(0o666)
    eventually(lambda: "others may read or change" in secured.server.log)
    with secured.client(secured.alice) as client:
        assert client.models()
    secured.tokens.chmod(0o600)


def allowed(client: Client) -> bool:
    try:
        return bool(client.models())
    except Unauthenticated:
        return False


def test_files_that_change_again_and_again_harm_nobody(secured: Secured) -> None:
    """Right and wrong ones by turns, while callers come and go."""
    data = secured.tokens.read_bytes()
    with ThreadPoolExecutor(2) as pool, secured.client(secured.alice) as client:
        asked = [pool.submit(client.generate, [5], max_new_tokens=1) for _ in range(50)]
        for number in range(20):
            put(secured.tokens, data[: len(data) // (1 + number % 2)])
            secured.authority.issue()
        put(secured.tokens, data)
        assert {answer.result(PATIENCE_SECONDS).token_ids for answer in asked} == {(5,)}


# --- at the start --------------------------------------------------------------------------------------------------


def test_an_address_that_others_can_reach_is_listened_on_with_both(tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    with Server(host="0.0.0.0", **secured.options) as server:
        port = server.address.rpartition(":")[2]
        with Client(f"https://localhost:{port}", ca=secured.authority.file, token=secured.alice, retries=0) as client:
            assert client.generate([5], max_new_tokens=1).token_ids == (5,)
    for missing in secured.options:
        fewer = {name: value for name, value in secured.options.items() if name != missing}
        with Server(host="0.0.0.0", said="", **fewer) as server:
            assert server.end() == 2 and "takes" in server.log


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tls_key": None}, "tls_cert is given alone; TLS takes a certificate and its key: add --tls-key"),
        ({"tokens": "none.jsonl"}, "none.jsonl cannot be read: No such file"),
        ({"tls_cert": None, "tls_key": None, "tls_client_ca": "ca.pem"}, "tls_client_ca is given without TLS"),
    ],
)
def test_what_no_server_can_start_with_is_told(change: dict[str, str | None], words: str, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    given = {"tls_cert": str(files.cert), "tls_key": str(files.key), **change}
    with Server(said="", **given) as server:
        assert server.end() == 2
        assert words in server.log and server.log.count("\n") == 1


def test_the_command_takes_them_from_the_environment() -> None:
    environment = {**os.environ, "MOESAIC_SERVE_HOST": "0.0.0.0", "MOESAIC_SERVE_MODELS": "a=stories260k"}
    command = [sys.executable, "-m", "moesaic.cli.main", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 2 and "add --tls-cert and --tls-key and --tokens; or listen on 127.0.0.1" in done.stderr

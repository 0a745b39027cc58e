"""TLS and tokens at the HTTP door: the same check, the same certificate, the same words."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from echo_engine import HOLD
from patience import PATIENCE_SECONDS, eventually
from server_harness import Server
from test_security import Secured, first_of

from moesaic.server.http.errors import HttpError
from moesaic.server.http.origin import check_origin
from moesaic.server.scopes import Door, asked_by

HELLO = {"model": "echo", "prompt": [5], "max_tokens": 2}
PATHS = (
    "/v1/models",
    "/v1/models/echo",
    "/metrics",
    "/v1/embeddings",
    "/v1/classify",
    "/nothing",
    "//v1/models",
    "/v1/",
)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(tmp_path_factory.mktemp("secured"))
    with Server(**secured.options, http=True, log_requests=True) as secured.server:
        yield secured


def ask(
    secured: Secured, path: str, token: str = "", body: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Code, headers and text of one request over TLS. A length without a body is a body that does not come."""
    context = ssl.create_default_context(cafile=str(secured.authority.file))
    place = secured.server.web.removeprefix("https://")
    connection = http.client.HTTPSConnection(place, context=context, timeout=PATIENCE_SECONDS)
    given = {"Content-Type": "application/json", **headers}
    given |= {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body)
    try:
        connection.request("POST" if body or "Content-Length" in headers else "GET", path, data, given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def test_the_door_says_https_and_openais_client_comes_in(secured: Secured) -> None:
    context = ssl.create_default_context(cafile=str(secured.authority.file))
    with openai.DefaultHttpxClient(verify=context) as web:
        client = openai.OpenAI(base_url=f"{secured.server.web}/v1", api_key=secured.alice, http_client=web)
        found = client.completions.create(model="echo", prompt="Once", max_tokens=3)
    assert secured.server.web.startswith("https://") and found.usage and found.usage.completion_tokens == 3


def test_without_a_token_nothing_is_answered_but_the_page_and_probes(secured: Secured) -> None:
    assert [ask(secured, path)[0] for path in ("/", "/livez", "/readyz", "/health")] == [200] * 4
    for path in PATHS:
        code, headers, text = ask(secured, path)
        assert (code, headers["www-authenticate"]) == (401, "Bearer"), path
        assert json.loads(text)["error"]["code"] == "token_missing" and "echo" not in text
    assert ask(secured, "/v1/completions", body=HELLO)[0] == 401


def test_nobody_waits_for_the_body_of_whoever_may_not_ask(secured: Secured) -> None:
    code, headers, text = ask(secured, "/v1/completions", secured.watcher, **{"Content-Length": "1000000"})
    assert code == 403 and json.loads(text)["error"]["type"] == "permission_error"
    assert "takes generate" in text and headers["connection"] == "close"


def test_metrics_take_their_own_scope(secured: Secured) -> None:
    assert ask(secured, "/metrics", secured.alice)[0] == 403
    code, _, text = ask(secured, "/metrics", secured.watcher)
    assert code == 200 and not [name for name in ("alice", "bob", secured.alice) if name in text]


def test_a_rate_is_one_for_both_doors(secured: Secured) -> None:
    with secured.client(secured.hasty) as client:
        client.generate([5], max_new_tokens=1)
    code, headers, text = ask(secured, "/v1/completions", secured.hasty, HELLO)
    assert code == 429 and json.loads(text)["error"]["code"] == "rate_limited" and int(headers["retry-after"]) > 0


def test_a_line_of_the_log_names_the_caller_of_this_door_too(secured: Secured) -> None:
    ask(secured, "/v1/completions", secured.bob, HELLO, **{"x-request-id": "over-http"})
    eventually(lambda: '"over-http"' in secured.server.log)
    [line] = [json.loads(line) for line in secured.server.log.splitlines() if '"over-http"' in line]
    assert line["caller"] == "bob"


def test_a_request_id_is_a_callers_own_at_both_doors(secured: Secured) -> None:
    with secured.client(secured.alice) as client, secured.server.held():
        with client.stream([HOLD], request_id="both") as stream:
            next(stream)
            assert ask(secured, "/v1/completions", secured.alice, HELLO, **{"x-request-id": "both"})[0] == 409
            assert ask(secured, "/v1/completions", secured.bob, HELLO, **{"x-request-id": "both"})[0] == 200


@pytest.mark.parametrize("headers", [{"Authorization": "Basic x"}, {"Authorization": "Bearer " + "x" * 2000}])
def test_what_is_no_token_is_told_so(secured: Secured, headers: dict[str, str]) -> None:
    code, _, text = ask(secured, "/v1/models", **headers)
    assert code == 401 and json.loads(text)["error"]["code"] == "token_malformed"


def test_a_server_that_asks_who_calls_may_have_any_name_and_other_pages_may_not_use_it() -> None:
    check_origin({"host": "ai.example"}, asks=True)
    with pytest.raises(HttpError, match="is not this machine"):
        check_origin({"host": "ai.example"}, asks=False)
    for origin in ("https://evil.example", "null", "http://[::"):
        with pytest.raises(HttpError, match="may not use this server"):
            check_origin({"host": "ai.example", "origin": origin}, asks=True)


def test_no_path_is_open_that_nobody_has_opened() -> None:
    assert not [path for path in PATHS if asked_by(path) is Door.OPEN]


def test_a_new_certificate_is_shown_here_as_well(secured: Secured) -> None:
    new = first_of(secured.authority.issue())
    place = secured.server.web.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(secured.authority.file))

    def shown() -> bytes:
        with socket.create_connection((place[0], int(place[2])), PATIENCE_SECONDS) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                return wrapped.getpeercert(binary_form=True) or b""

    eventually(lambda: shown() == new)


def test_silent_and_wrong_handshakes_keep_nobody_out(secured: Secured) -> None:
    """Half a hello, none at all, and HTTP without TLS; more than there is room for."""
    with Server(**secured.options, http=True, max_connections=16) as server:
        place = server.web.removeprefix("https://").rpartition(":")
        silent = [socket.create_connection((place[0], int(place[2]))) for _ in range(48)]
        for number, each in enumerate(silent):
            each.sendall((b"\x16\x03\x01\x02\x00\x01", b"", b"GET / HTTP/1.1\r\n\r\n")[number % 3])
        secured.server, before = server, secured.server
        try:
            assert ask(secured, "/v1/completions", secured.alice, HELLO)[0] == 200
        finally:
            secured.server = before
            for each in silent:
                each.close()
        server.process.terminate()
        assert server.end() == 0

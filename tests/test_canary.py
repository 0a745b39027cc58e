"""Canaries: a prompt and tokens, looked for in all that a server writes and tells while it is used and misused."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from echo_engine import CRASH, FAIL, HOLD
from patience import PATIENCE_SECONDS, eventually
from pki import put
from server_harness import Server

from moesaic.models.errors import MoesaicError, SetupError
from moesaic.proto import generation_pb2 as pb
from moesaic.server.client import Client
from moesaic.server.client_request import build_request
from moesaic.server.tokens import add_token, new_token, read_tokens

BIRD = "zqcanaryxv"
PROMPT = f"the {BIRD} sings"
TALK = [{"role": "user", "content": PROMPT}]


class Cage:
    """A server that logs all it can, its callers' tokens, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.jsonl"
        self.token = add_token(self.file, "alice", ["generate"])
        self.watcher = add_token(self.file, "watcher", ["metrics"])
        self.expired = add_token(self.file, "old", ["generate"], expires="2020-01-01T00:00:00+00:00")
        self.stranger, self.pasted = new_token(), new_token()
        self.server: Server
        self.told: list[str] = []

    @property
    def secrets(self) -> list[str]:
        return [BIRD, self.token, self.expired, self.stranger, self.pasted]

    def ask(self, use: Callable[[Client], Any], token: str | None = None) -> None:
        """One call, whatever comes of it; an error's text, status and details are kept."""
        with self.server.client(token=token or self.token) as client:
            try:
                use(client)
            except (MoesaicError, SetupError) as error:
                self.told.append(f"{error!r} {error.__cause__!r} {error.__context__!r}")


@pytest.fixture(scope="module")
def cage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    cage = Cage(tmp_path_factory.mktemp("cage"))
    with Server(tokens=str(cage.file), log_requests=True, http=True) as cage.server:
        yield cage


MISUSES: dict[str, Callable[[Client], Any]] = {
    "answered": lambda client: client.generate(PROMPT, max_new_tokens=2),
    "streamed": lambda client: list(client.stream(PROMPT, max_new_tokens=2)),
    "a template that there is not": lambda client: client.chat(TALK),
    "settings that are wrong": lambda client: client.generate(PROMPT, temperature=-1, top_p=9, stop=[BIRD] * 99),
    "a prompt that is too long": lambda client: client.generate(PROMPT * 1000),
    "a prompt beyond all limits": lambda client: client.generate(PROMPT * 80_000),
    "a schema that is none": lambda client: client.generate(PROMPT, json_schema='{"type": "' + BIRD + '"}'),
    "a regular expression that is none": lambda client: client.generate(PROMPT, regex=f"({BIRD}"),
    "a grammar that is none": lambda client: client.generate(PROMPT, grammar=f"start: {BIRD}("),
    "choices": lambda client: client.generate(PROMPT, choices=[BIRD, BIRD]),
    "no time": lambda client: client.generate(PROMPT, timeout=0),
    "an engine that fails": lambda client: client.generate([FAIL], stop=[BIRD], max_new_tokens=9),
    "a salt": lambda client: client.generate(PROMPT, cache_salt=BIRD * 20),
    "cancelled": lambda client: next(client.stream(PROMPT)),
    "a character that cannot be": lambda client: client.generate(f"{BIRD} \udcff"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_no_prompt_and_no_token_is_told_or_logged(cage: Cage, misuse: str) -> None:
    cage.ask(MISUSES[misuse])
    told = " ".join(cage.told)
    assert not any(secret in told for secret in (cage.token, cage.expired, cage.stranger))
    assert BIRD not in told or misuse in OWN_WORDS
    assert not [secret for secret in cage.secrets if secret in cage.server.log + cage.server.printed]
    cage.told.clear()


OWN_WORDS = {  # what the one who wrote a rule is told of it, and nobody else
    "a schema that is none",
    "a regular expression that is none",
    "a grammar that is none",
}


def test_bytes_that_are_no_message_are_not_quoted(cage: Cage) -> None:
    """As they are, cut anywhere, and with text that is not UTF-8."""
    whole = build_request(PROMPT).SerializeToString()
    metadata = (("authorization", f"Bearer {cage.token}"),)
    with grpc.insecure_channel(cage.server.address) as channel:
        for data in (PROMPT.encode(), *(whole[:cut] for cut in range(1, len(whole), 3)), whole + b"\xff"):
            with suppress(grpc.RpcError):
                channel.unary_unary("/moesaic.v1.Generation/Generate")(data, metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/moesaic.v1.Generation/Generate")(PROMPT.encode(), metadata=metadata)
    assert BIRD not in f"{caught.value.details()} {caught.value.trailing_metadata()}"
    assert BIRD not in cage.server.log


def test_tokens_that_are_refused_are_not_quoted(cage: Cage) -> None:
    for token in (cage.stranger, cage.expired):
        cage.ask(lambda client: client.models(), token)
    assert "TOKEN" not in cage.server.log and len(cage.told) == 2
    assert not [secret for secret in cage.secrets if secret in " ".join(cage.told) + cage.server.log]
    cage.told.clear()


def test_a_token_that_is_pasted_where_a_name_belongs_is_masked_in_the_log(cage: Cage) -> None:
    cage.ask(lambda client: client.generate(PROMPT, model=cage.pasted, request_id="pasted"))
    eventually(lambda: '"pasted"' in cage.server.log)
    assert cage.pasted not in cage.server.log and "moesaic_***" in cage.server.log
    cage.told.clear()


def test_a_token_in_the_file_of_tokens_is_not_quoted(cage: Cage, tmp_path: Path) -> None:
    """Where a hash belongs, as a key, and as a line of its own."""
    for line in ({"name": "a", "sha256": cage.pasted, "scopes": ["generate"]}, {cage.pasted: 1}, cage.pasted):
        put(tmp_path / "tokens", json.dumps(line).encode())
        with pytest.raises(SetupError) as caught:
            read_tokens(tmp_path / "tokens")
        assert cage.pasted not in str(caught.value)


def over_http(cage: Cage, path: str, token: str, body: dict[str, Any] | None = None) -> str:
    """What is answered, headers and all."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    try:
        with urlopen(Request(cage.server.web + path, data, headers), timeout=PATIENCE_SECONDS) as answer:
            return f"{answer.headers} {answer.read().decode()}"
    except HTTPError as error:
        with error:
            return f"{error.headers} {error.read().decode()}"


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": PROMPT, "max_tokens": 2, "temperature": -1},
        {"prompt": PROMPT, "stop": [BIRD] * 99},
        {"messages": TALK},
        {"prompt": [FAIL], "stop": [BIRD]},
        {"prompt": PROMPT, "user": BIRD, "metadata": {BIRD: BIRD}, "max_tokens": 1, "stream": False, "n": -1},
    ],
)
def test_the_other_door_tells_and_logs_none_of_them_either(cage: Cage, body: dict[str, Any]) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    told = over_http(cage, path, cage.token, body) + over_http(cage, path, cage.stranger, body)
    assert '"error"' in told and not [secret for secret in cage.secrets if secret in told]
    assert not [secret for secret in cage.secrets if secret in cage.server.log + cage.server.printed]


def test_metrics_hold_no_prompt_no_token_and_no_callers_name(cage: Cage) -> None:
    over_http(cage, "/v1/completions", cage.token, {"prompt": PROMPT, "max_tokens": 2, "model": cage.pasted})
    over_http(cage, f"/{cage.pasted}", cage.token)
    cage.ask(lambda client: client.generate(PROMPT, max_new_tokens=2, model=cage.pasted))
    told = over_http(cage, "/metrics", cage.watcher)
    assert "requests" in told and not [each for each in (*cage.secrets, "alice", "watcher") if each in told]
    cage.told.clear()


def test_an_engine_that_dies_with_a_prompt_does_not_say_it(cage: Cage) -> None:
    cage.ask(lambda client: client.generate([CRASH], stop=[BIRD], max_new_tokens=9))
    with cage.server.client(token=cage.token) as client:
        client.wait_until_ready(PATIENCE_SECONDS)
    assert not [secret for secret in cage.secrets if secret in " ".join(cage.told) + cage.server.log]
    cage.told.clear()


def test_what_is_under_way_at_the_end_is_not_said_either(tmp_path: Path) -> None:
    cage = Cage(tmp_path)
    with Server(tokens=str(cage.file), log_requests=True, drain_seconds=0) as cage.server:
        with cage.server.client(token=cage.token) as client, cage.server.held():
            stream = client.stream([HOLD], stop=[BIRD])
            next(stream)
            cage.server.process.terminate()
            cage.server.end()
        assert not [secret for secret in cage.secrets if secret in cage.server.log + cage.server.printed]


def test_no_message_of_a_model_has_room_for_a_prompt() -> None:
    """What is told to all callers, by the names of its fields."""
    fields = {field.name for kind in (pb.ModelInfo, pb.Load) for field in kind.DESCRIPTOR.fields}
    assert not fields & {"prompt", "text", "token_ids", "caller", "callers", "request_id"}

"""Tokens: the file that knows them, who is let in by them, and how often."""

import hmac
import json
import random
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from moesaic.cli.main import main
from moesaic.models.errors import Overloaded, PermissionDenied, SetupError, Unauthenticated
from moesaic.server.access import Access
from moesaic.server.caller import Caller, called_by, caller_of
from moesaic.server.masking import masked
from moesaic.server.scopes import Asked, Door, Scope, asked_by
from moesaic.server.tokens import Known, add_token, digest_of, new_token, read_tokens

HASH = "ab" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.jsonl"


def write(file: Path, *lines: Any) -> Path:
    file.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    file.chmod(0o600)
    return file


def line(**fields: Any) -> dict[str, Any]:
    return {"name": "alice", "sha256": HASH, "scopes": ["generate"], **fields}


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_new_token_is_printed_once_and_only_its_hash_is_kept(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", "alice", "--file", str(file), "--scope", "metrics", "--days", "1"]) == 0
    token = capsys.readouterr().out.strip()
    [known] = read_tokens(file).values()
    assert (known.name, known.digest, known.scopes) == ("alice", digest_of(token), frozenset({Scope.METRICS}))
    assert token not in file.read_text() and file.stat().st_mode & 0o777 == 0o600


def test_no_two_tokens_are_alike_and_each_has_256_random_bits() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000 and {len(token) for token in tokens} == {len("moesaic_") + 43}


def test_a_second_token_of_the_same_caller_overlaps_with_the_first(file: Path) -> None:
    one, two = add_token(file, "alice", ["generate"]), add_token(file, "alice", ["generate"])
    access = Access(lambda: read_tokens(file))
    assert {access.admit([f"Bearer {token}"], Scope.GENERATE).name for token in (one, two)} == {"alice"}
    with pytest.raises(SetupError, match="has a token of alice with other scopes or rates"):
        add_token(file, "alice", ["admin"])


def test_comments_and_empty_lines_are_left_alone(file: Path) -> None:
    assert len(read_tokens(write(file, "# who may call", "", line()))) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "holds none; make one with: moesaic token new NAME"),
        (['{"name": "alice", "sha2'], "line 1: is no JSON"),
        ([line(), "[]"], "line 2: is no mapping"),
        (["[" * 100_000], "line 1: is no JSON"),
        ([line(scope=["generate"])], "line 1: there is no key 'scope'; did you mean 'scopes'?"),
        ([line(scopes=["generat"])], "line 1: scopes.0: Input should be 'generate', 'metrics' or 'admin'"),
        ([line(scopes=[])], "line 1: scopes: List should have at least 1 item"),
        ([line(name="ipv4:127.0.0.1:1")], "line 1: name: String should match pattern"),
        ([line(name="a\n")], "line 1: name: String should match pattern"),
        ([line(sha256="moesaic_secret")], "line 1: sha256: String should match pattern"),
        ([line(requests_per_minute=0)], "line 1: requests_per_minute: Input should be greater than or equal to 1"),
        ([line(expires="2027-01-01T00:00:00")], "line 1: expires: Input should have timezone info"),
        ([line(), line()], "line 2: the hash is that of a line before"),
        ([line(), line(sha256="cd" * 32, scopes=["admin"])], "line 2: another token of alice has other scopes"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number_and_not_quoted(file: Path, lines: list[Any], words: str) -> None:
    with pytest.raises(SetupError) as caught:
        read_tokens(write(file, *lines))
    assert words in str(caught.value) and "moesaic_secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    write(file, line()).chmod(mode)
    with pytest.raises(SetupError, match=f"mode {mode:o}.; run: chmod 600"):
        read_tokens(file)
    with pytest.raises(SetupError, match="chmod 600"):
        add_token(file, "bob", ["generate"])


@pytest.mark.parametrize("words", ["--scope generat", "--requests-per-minute 0", "--days never", "--file /nowhere/x"])
def test_what_no_token_can_have_is_one_sentence_and_no_file(
    file: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["token", "new", "alice", "--file", str(file), *words.split()]) == 2
    except SystemExit as end:
        assert end.code == 2
    assert "error: " in capsys.readouterr().err and not file.exists()


def test_a_token_in_a_text_is_masked() -> None:
    token = new_token()
    assert masked(f"{token} and Bearer {token}.") == "moesaic_*** and Bearer moesaic_***."


# --- who is let in -------------------------------------------------------------------------------------------------


class Doorkeeper:
    """Access by one token, with clocks that stand still."""

    def __init__(self, **rights: Any) -> None:
        self.token = new_token()
        self.now = 1000.0
        known = Known("alice", digest_of(self.token), **{"scopes": frozenset({Scope.GENERATE}), **rights})
        self.access = Access(lambda: {known.digest: known}, wall=lambda: self.now, clock=lambda: self.now)

    def ask(self, *authorization: str, asked: Asked = Scope.GENERATE) -> Caller:
        return self.access.admit(authorization or (f"Bearer {self.token}",), asked)

    def reason(self, *authorization: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            self.ask(*authorization)
        assert self.token not in str(caught.value) and not any(each in str(caught.value) for each in authorization)
        return str(caught.value.reason)


def test_without_tokens_everybody_is_let_in_and_nobody_has_a_name() -> None:
    assert Access().admit([], Scope.ADMIN) == Caller()


def test_a_token_says_who_calls_in_any_spelling_of_the_scheme() -> None:
    door = Doorkeeper()
    assert {door.ask(f"{word} {door.token}").name for word in ("Bearer", "bearer", " BEARER ")} == {"alice"}


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (["Bearer moesaic_none"], "TOKEN_UNKNOWN"),
        (["Bearer \udcff"], "TOKEN_UNKNOWN"),
        (["Basic YWxpY2U6"], "TOKEN_MALFORMED"),
        (["Bearer   "], "TOKEN_MALFORMED"),
        (["moesaic_none"], "TOKEN_MALFORMED"),
        (["Bearer " + "x" * (1 << 20)], "TOKEN_MALFORMED"),
        (["Bearer a", "Bearer b"], "TOKEN_MALFORMED"),
    ],
)
def test_what_is_no_token_in_force_is_refused_with_the_reason(authorization: list[str], reason: str) -> None:
    assert Doorkeeper().reason(*authorization) == reason


def test_no_authorization_is_refused_with_the_way_to_give_one() -> None:
    with pytest.raises(Unauthenticated, match="send `authorization: Bearer TOKEN`") as caught:
        Doorkeeper().access.admit([], Scope.GENERATE)
    assert caught.value.reason == "TOKEN_MISSING"


def test_a_token_that_differs_in_one_character_is_not_known() -> None:
    door = Doorkeeper()
    for place in (len("moesaic_"), -1):
        wrong = list(door.token)
        wrong[place] = "a" if wrong[place] != "a" else "b"
        assert door.reason(f"Bearer {''.join(wrong)}") == "TOKEN_UNKNOWN"


def test_nothing_but_hashes_is_compared_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = MagicMock(wraps=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compared)
    door = Doorkeeper()
    door.ask()
    compared.assert_called_once_with(digest_of(door.token), digest_of(door.token))


def test_a_token_ends_when_its_time_is_over_also_when_the_clock_jumps() -> None:
    door = Doorkeeper(expires=2000.0)
    door.ask()
    door.now = 2000.0
    assert door.reason(f"Bearer {door.token}") == "TOKEN_EXPIRED"
    door.now = 1999.0
    assert door.ask().name == "alice"


def test_a_token_without_the_scope_is_told_what_it_may() -> None:
    door = Doorkeeper()
    for asked in (Scope.ADMIN, Scope.METRICS):
        with pytest.raises(PermissionDenied, match=f"the token of alice may generate; this call takes {asked}"):
            door.ask(asked=asked)
    assert door.ask(asked=Door.KNOWN).name == "alice"


@pytest.mark.parametrize("method", ["/moesaic.admin.v1.Admin/Load", "/x/y", "", "/moesaic.v1.Models", "//", "/v1/"])
def test_a_method_that_nobody_has_named_takes_the_most(method: str) -> None:
    assert asked_by(method) is Scope.ADMIN


def test_health_is_open_and_the_list_of_models_takes_any_token() -> None:
    assert asked_by("/grpc.health.v1.Health/Watch") is Door.OPEN
    assert asked_by("/moesaic.v1.Models/ListModels") is asked_by("/v1/models/a/b") is Door.KNOWN
    assert Doorkeeper().access.admit([], Door.OPEN) == Caller()


def test_a_name_is_one_caller_on_any_connection_and_none_is_its_connection() -> None:
    connections: list[Any] = [SimpleNamespace(peer=lambda name=name: name) for name in ("ipv4:1", "ipv4:2")]
    with called_by(Caller("alice")):
        assert {caller_of(each) for each in connections} == {"alice"}
    assert [caller_of(each) for each in connections] == ["ipv4:1", "ipv4:2"]


# --- how often -----------------------------------------------------------------------------------------------------


def limited(door: Doorkeeper) -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        door.ask()
    assert caught.value.reason == "RATE_LIMITED"
    return caught.value


def test_a_minutes_worth_of_requests_may_come_at_once_and_then_one_as_time_goes() -> None:
    door = Doorkeeper(requests_per_minute=6)
    for _ in range(6):
        door.ask()
    assert limited(door).retry_after_seconds == pytest.approx(10.0)
    door.now += 10.0
    door.ask()
    limited(door)


def test_tokens_that_were_used_are_paid_before_the_next_request() -> None:
    door = Doorkeeper(tokens_per_minute=60)
    door.ask().spend(90)
    assert "alice has spent its 60 tokens a minute" in str(limited(door))
    assert limited(door).retry_after_seconds == pytest.approx(31.0)
    door.now += 31.0
    door.ask()


def test_another_rate_in_the_file_counts_at_once() -> None:
    door, tokens = Doorkeeper(), {}
    known = Known("alice", digest_of(door.token), frozenset({Scope.GENERATE}), 1)
    tokens[known.digest] = known
    door.access = Access(lambda: dict(tokens), clock=lambda: door.now)
    door.ask()
    limited(door)
    tokens[known.digest] = Known("alice", known.digest, known.scopes, 2)
    door.ask()


def test_salts_of_two_callers_never_meet_whatever_they_ask_for() -> None:
    """Names hold no NUL, so that no name and salt are another name and salt."""
    generator = random.Random(0)
    texts = ["", *("".join(generator.choices(string.ascii_lowercase + "\0", k=2)) for _ in range(200))]
    salts = {(name, asked): Caller(name).salt(asked) for name in ("a", "ab", "b") for asked in texts}
    assert len({*salts.values()}) == len(salts) and Caller().salt("x") == "x"

"""Servers that answer nonsense, over both doors: every answer is counted as one that failed, by a plain name."""

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest

from moesaic.bench.load import http_line
from moesaic.bench.load.arrivals import Asked, Level
from moesaic.bench.load.completion_event import NO_COMPLETION, NO_COUNT, STREAM_ERROR
from moesaic.bench.load.door import OK, Door
from moesaic.bench.load.drive import EMPTY, Record, drive
from moesaic.bench.load.figures import Limits, figures
from moesaic.bench.load.grpc_door import NO_CHUNK, GrpcDoor
from moesaic.bench.load.openai_door import NO_STREAM, TOO_LONG, OpenAIDoor, models_at
from moesaic.cli.main import main
from moesaic.models.errors import AddressError
from moesaic.proto import generation_pb2 as pb

TWO = Level("two", (Asked(8, 2, at=0.0), Asked(8, 2, at=0.0)), 0.1)
GOOD = b'data: {"choices": [{"text": "a"}]}\n\n'


@contextmanager
def answering(said: bytes, status: int = 200) -> Iterator[tuple[str, int]]:
    """A server of HTTP that says the same to everybody."""

    class Says(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield "127.0.0.1", server.server_port
        server.shutdown()


def records(door: Door, level: Level = TWO) -> list[Record]:
    with closing(door):
        return drive(door, level, lambda number, tokens: "a story", 5.0).records


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (b"data: hello\n\n", NO_COMPLETION),
        (b"data: 5\n\n", NO_COMPLETION),
        (b"data: null\n\n", NO_COMPLETION),
        (b"data: hello", NO_COMPLETION),
        (b"data: " + b"[" * 100_000 + b"\n\n", NO_COMPLETION),
        (b"data: \xff\xfe\n\n", NO_COMPLETION),
        (b'data: ["error"]\n\n', NO_COMPLETION),
        (b'data: {"choices": "abc"}\n\n', NO_COMPLETION),
        (b'data: {"choices": {"text": "a"}}\n\n', NO_COMPLETION),
        (b'data: {"choices": [{"text": 5}]}\n\n', NO_COMPLETION),
        (GOOD + b'data: {"choices": [5]}\n\n' + GOOD, NO_COMPLETION),
        (GOOD + b'data: {"usage": {"completion_tokens": "x"}}\n\n', NO_COUNT),
        (GOOD + b'data: {"usage": {"prompt_tokens": -1}}\n\n', NO_COUNT),
        (GOOD + b'data: {"usage": {"prompt_tokens": true}}\n\n', NO_COUNT),
        (GOOD + b'data: {"usage": {"completion_tokens": 1e99}}\n\n', NO_COUNT),
        (GOOD + b'data: {"usage": 7}\n\n', NO_COUNT),
        (GOOD + b'data: {"error": {"message": "no"}}\n\n', STREAM_ERROR),
        (b"<html><body>It works!</body></html>\n", NO_STREAM),
        (b'{"choices": [{"text": "a"}]}', NO_STREAM),
        (b"", NO_STREAM),
        (b"data: [DONE]\n\n", EMPTY),
        (b'data: {"choices": []}\n\n', EMPTY),
        (GOOD + b"x" * (3 << 20), TOO_LONG),
    ],
)
def test_nonsense_over_http_is_an_answer_that_failed(said: bytes, outcome: str) -> None:
    with answering(said) as place:
        found = records(OpenAIDoor(*place, "/v1", "m"))
    assert [record.outcome for record in found] == [outcome] * 2 and not any(record.ok for record in found)


def test_what_failed_is_told_by_name_and_never_as_ok() -> None:
    with answering(b"<html>") as place, closing(OpenAIDoor(*place, "/v1", "m")) as door:
        found = figures(drive(door, TWO, lambda number, tokens: "a story", 5.0), Limits())
    assert found["errors"] == {NO_STREAM: 2} and found["answered"] == found["tokens"] == 0


def test_a_good_answer_is_still_good_whatever_else_a_stream_may_hold() -> None:
    said = b": ping\n\nevent: x\n" + GOOD + b'data: {"choices": [], "error": null, "usage": null}\n\n' + GOOD
    with answering(said + b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\ndata: [DONE]') as place:
        found = records(OpenAIDoor(*place, "/v1", "m"))
    assert [(record.outcome, record.tokens, record.prompt_tokens) for record in found] == [(OK, 2, 3)] * 2


def test_the_command_says_what_a_server_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(b"<html>It works!") as (host, port):
        words = [f"it=http://{host}:{port}?model=m", "--users", "1", "--seconds", "0.2"]
        assert main(["bench", "serve", *words, "--out", str(tmp_path / "load.json")]) == 2
    assert f"a first request ended with {NO_STREAM}: <html>It works!" in capsys.readouterr().err


@pytest.mark.parametrize("said", [b"hello", b"5", b'{"data": "x"}', b'{"data": [5]}', b"[" * 100_000])
def test_a_list_of_models_that_is_none_is_told(said: bytes) -> None:
    with answering(said) as place, pytest.raises(AddressError, match="does not list models"):
        models_at(*place, "/v1")


def test_a_server_that_never_lists_its_models_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_line, "_PATIENCE_SECONDS", 0.1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        with pytest.raises(AddressError, match="gives no answer"):
            models_at("127.0.0.1", silent.getsockname()[1], "/v1")


def test_nonsense_over_grpc_is_an_answer_that_failed() -> None:
    good = pb.GenerateChunk(token_ids=[1, 2]).SerializeToString()
    handler = grpc.unary_stream_rpc_method_handler(lambda asked, context: iter([good, b"\xff", good]))
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("moesaic.v1.Generation", {"GenerateStream": handler}),)
        )
        server.start()
        found = records(GrpcDoor(f"127.0.0.1:{port}"))
        server.stop(None).wait()
    assert Counter(record.outcome for record in found) == {NO_CHUNK: 2}

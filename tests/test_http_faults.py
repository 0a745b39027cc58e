"""Callers of the HTTP door who send halves, read nothing, come in thousands or go without a word."""

import signal
import socket
from contextlib import ExitStack

import pytest
from echo_engine import HOLD
from http_caller import SMALL, HttpCaller, asked
from patience import PATIENCE_SECONDS, eventually
from server_harness import Server, all_free

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
LONG = {
    "prompt": [7], "max_tokens": 500, "n": 8, "stream": True, "logprobs": 20,
    "stream_options": {"continuous_usage_stats": True},
}  # fmt: skip


def honest(server: Server) -> bool:
    """Whether somebody else is served."""
    code, _ = asked(server.web, {"prompt": [7], "max_tokens": 2})
    return bool(code == 200)


def busy(server: Server) -> bool:
    with server.client() as client:
        return not all_free(client)


def test_a_body_that_never_ends_has_its_time() -> None:
    with Server(http=True, receive_seconds=0.2) as server, HttpCaller(server.web) as caller:
        caller.send(HEAD + b"content-length: 100\r\n\r\n{")
        code, told = caller.answer()
        assert (code, told["error"]["code"]) == (408, "not_received") and caller.rest() == b""


@pytest.mark.parametrize("begin", [b"", HEAD, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nGET / HT"])
def test_a_head_that_never_ends_is_hung_up_on(begin: bytes) -> None:
    with Server(http=True, receive_seconds=0.2) as server, HttpCaller(server.web) as caller:
        caller.send(begin)
        caller.rest()
        assert honest(server)


def test_a_head_of_too_many_bytes_is_refused() -> None:
    with Server(http=True) as server, HttpCaller(server.web) as caller:
        caller.send(HEAD + b"x: " + b"a" * 200_000)
        assert caller.rest().startswith(b"HTTP/1.1 400")


def test_a_thousand_silent_connections_keep_nobody_out() -> None:
    with Server(http=True, max_connections=64) as server, ExitStack() as stack:
        callers = [stack.enter_context(HttpCaller(server.web)) for _ in range(1000)]
        assert honest(server)
        callers[-1].post({"prompt": [7], "max_tokens": 2})
        assert callers[-1].answer()[0] == 200 and callers[0].rest() == b""


def test_connections_at_work_are_not_closed_for_others() -> None:
    with Server(http=True, max_connections=2) as server, server.held(), ExitStack() as stack:
        callers = [stack.enter_context(HttpCaller(server.web)) for _ in range(2)]
        for caller in callers:
            caller.post({"prompt": [HOLD], "stream": True, "max_tokens": 4})
            caller.receive(b"data:")
        assert stack.enter_context(HttpCaller(server.web)).rest() == b""
        assert busy(server)


def test_silent_connections_leave_files_for_engines() -> None:
    with Server(http=True, files=80) as server, ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(HttpCaller(server.web))
        assert "connections, since this process may open few files" in server.printed and honest(server)
        assert "system resource" not in server.log  # or nobody is taken in for a second


def test_a_caller_that_goes_without_a_word_frees_its_slot() -> None:
    with Server(http=True) as server, server.held():
        for body in ({"prompt": [HOLD], "stream": True}, {"prompt": [HOLD]}):
            caller = HttpCaller(server.web)
            caller.post(body)
            eventually(lambda: busy(server))
            caller.reset()
            eventually(lambda: not busy(server))
        assert "Traceback" not in server.log


def test_two_hundred_callers_that_go_leave_nothing_behind() -> None:
    with Server(http=True, log_requests=True) as server:
        for i in range(200):
            caller = HttpCaller(server.web)
            caller.post({**LONG, "stream": bool(i % 2)})
            if i % 4 == 1:
                caller.receive(b"data:")
            caller.reset()
        eventually(lambda: not busy(server))
        assert honest(server) and "Traceback" not in server.log and "ERROR" not in server.log


def test_callers_who_were_refused_and_left_have_no_turn() -> None:
    with Server(http=True, max_requests=2) as server, ExitStack() as stack:
        with server.held(), HttpCaller(server.web) as first, HttpCaller(server.web) as second:
            for caller in (first, second):
                caller.post({"prompt": [HOLD], "stream": True})
                caller.receive(b"data:")
            refused = [asked(server.web, {"prompt": [7]})[0] for _ in range(200)]
        assert refused == [429] * 200
        stack.enter_context(server.held())
        eventually(lambda: not busy(server))
        one = stack.enter_context(HttpCaller(server.web))
        one.post({"prompt": [HOLD], "stream": True})
        one.receive(b"data:")  # half of the places are taken: who was refused comes first
        assert honest(server)


def test_a_stream_that_is_not_read_is_given_up_and_others_are_served() -> None:
    with Server(http=True, write_seconds=0.5) as server, HttpCaller(server.web, receives=SMALL) as caller:
        caller.post(LONG)
        with server.admin() as admin:  # the engine is done with it long before its caller is given up
            eventually(lambda: admin.load().requests == 1)
            eventually(lambda: admin.load().requests == 0)
        assert honest(server) and not busy(server)
        assert b"[DONE]" not in caller.rest()


def test_a_request_that_takes_too_long_is_ended_and_told() -> None:
    with Server(http=True, request_seconds=0.3) as server, server.held():
        with HttpCaller(server.web) as caller:
            caller.post({"prompt": [HOLD], "stream": True})
            assert b'"code":"request_too_long"' in caller.receive(b"}}\n\n")
        code, told = asked(server.web, {"prompt": [HOLD]})
        assert (code, told["error"]["code"]) == (504, "request_too_long")
        eventually(lambda: not busy(server))


def test_a_term_signal_ends_a_server_whose_streams_nobody_reads() -> None:
    with Server(http=True, drain_seconds=0.1, last_words_seconds=0.2) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(HttpCaller(server.web, receives=SMALL)).post(LONG)
            stack.enter_context(HttpCaller(server.web)).send(HEAD)
        server.send(signal.SIGTERM)
        assert server.end() == 0 and "Traceback" not in server.log


def test_a_draining_server_refuses_what_is_new_and_ends_what_runs_with_a_word() -> None:
    with Server(http=True, drain_seconds=PATIENCE_SECONDS) as server, server.held(), HttpCaller(server.web) as caller:
        caller.post({"prompt": [HOLD], "stream": True})
        caller.receive(b"data:")
        server.send(signal.SIGTERM)
        eventually(lambda: asked(server.web, {"prompt": [7]})[0] == 503)
        server.send(signal.SIGTERM)
        assert b'"code":"draining"' in caller.rest() and server.end() == 0


def test_a_port_that_was_asked_for_is_had_or_the_server_does_not_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Server(http=True, http_port=port, said="") as server:
            assert server.end() == 2
            assert f"127.0.0.1:{port} is taken by another program" in server.log and "--http-port" in server.log

"""What a server and an engine are set up with: every number judged by one rule, every setting seen by what it does."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo_engine import HOLD
from grpc._cython import cygrpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from patience import PATIENCE_SECONDS, eventually
from server_harness import Server, free_port

from moesaic.cli.main import main
from moesaic.engine import build
from moesaic.engine.llm import LLM
from moesaic.engine.options import BOUNDS as ENGINE
from moesaic.engine.options import EngineOptions
from moesaic.models.bounds import PROCESSORS, Bound
from moesaic.models.errors import AddressError, SetupError
from moesaic.models.threads import choose_threads
from moesaic.server import dialling, serve, transport
from moesaic.server.client import Client
from moesaic.server.config import configuration
from moesaic.server.options import BOUNDS as SERVER
from moesaic.server.options import ServeOptions, check

NAN, INFINITE = math.nan, math.inf
WRONG: dict[str, list[Any]] = {
    "threads": [0, -1, 100_000, 2.5, "2", True],
    "max_context": [0, -1, 10**9],
    "kv_memory": [0, -1, 10**30, NAN],
    "num_slots": [0, -1, 1_000_000],
    "seed": [-1, 2**64, 1.5],
    "step_share": [0, -0.5, 1.5, NAN, INFINITE],
    "max_requests": [0, -1, 10**10],
    "max_prompt_tokens": [0, -1],
    "drain_seconds": [-1, NAN, INFINITE, -INFINITE],
    "stall_seconds": [0, -1, NAN, INFINITE],
    "load_seconds": [0, -1, NAN, INFINITE],
    "max_request_bytes": [0, -1],
    "request_seconds": [0, -1, NAN, INFINITE, 10**9],
    "write_seconds": [0, -1, NAN, INFINITE, 10**9],
    "receive_seconds": [0, -1, NAN, INFINITE],
    "max_connections": [0, -1, 10**9, 2.5],
    "max_streams": [0, -1, 10**9],
    "memory_budget": [0, -1, 10**30],
}
FLAGS = {"num_slots": "slots", "seed": None, "max_prompt_tokens": None}


def wrong(names: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name in names for value in WRONG[name]]


def test_every_number_has_a_rule_and_wrong_values_here() -> None:
    numbers = {
        field.name
        for kind in (EngineOptions, ServeOptions)
        for field in fields(kind)
        if re.match("int|float", str(getattr(field.type, "__name__", field.type)))
    }
    assert numbers - {"port", "http_port", "health_port"} == {*ENGINE, *SERVER} == {*WRONG}


@pytest.mark.parametrize(("name", "value"), wrong(ENGINE))
def test_python_refuses_what_no_engine_can_be_with_name_value_and_way_out(name: str, value: Any) -> None:
    with pytest.raises(SetupError, match=f"^{name} is {value}, .*(;|context is 1 to 512)"):
        LLM("stories260k", EngineOptions(**{name: value}))


@pytest.mark.parametrize(("name", "value"), wrong([*ENGINE, *SERVER]))
def test_a_server_refuses_it_before_any_process_is_started(
    name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given: Any = {"engine": EngineOptions(**{name: value})} if name in ENGINE else {name: value}
    if (name, value) == ("max_context", 10**9):
        return  # what the model holds is known when it is opened
    assert serve.serve(ServeOptions(models=(("a", "stories260k"),), **given), worker=("/nothing/here",)) == 2
    assert f"moesaic: error: {name} is {value}, it must be " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), wrong([*ENGINE, *SERVER]))
def test_a_file_refuses_it_by_the_same_sentence(name: str, value: Any, tmp_path: Path) -> None:
    shown = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(str(value), json.dumps(value))
    line = f"engine: {{{name}: {shown}}}" if name in ENGINE else f"{name}: {shown}"
    (tmp_path / "serve.yaml").write_text(f"models: {{a: stories260k}}\n{line}\n")
    if (name, value) in (("threads", "2"), ("threads", True), ("max_context", 10**9)):
        return  # a 2 in quotes is a 2 in this file
    with pytest.raises(SetupError, match=f"serve.yaml: .*{name}"):
        configuration({}, {}, tmp_path / "serve.yaml")


@pytest.mark.parametrize(("name", "value"), wrong(name for name in WRONG if FLAGS.get(name, name) is not None))
def test_the_command_refuses_it_in_one_line(name: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flag = f"--{(FLAGS.get(name) or name).replace('_', '-')}={value}"
    if (name, value) == ("max_context", 10**9) or value in ("2", True):
        return
    try:
        assert main(["serve", "stories260k", "--port", "0", flag]) == 2
    except SystemExit as end:  # what is no number at all argparse refuses
        assert end.code == 2
    shown = capsys.readouterr().err
    assert flag.partition("=")[0] in shown or f"moesaic: error: {name} is " in shown


@pytest.mark.parametrize("port", [-1, 65536, 1.5, True])
def test_a_port_that_does_not_exist_is_refused(port: Any) -> None:
    with pytest.raises(AddressError, match=f"port {port} does not exist"):
        check(ServeOptions(models=(("a", "x"),), port=port))


def test_as_many_threads_as_are_asked_for_and_no_more_than_can_be() -> None:
    assert [choose_threads(count, 1) for count in (1, 2, 16)] == [1, 2, 16]
    assert LLM("stories260k", EngineOptions(threads=2)).description.threads == 2
    with pytest.raises(SetupError, match=f"there are {PROCESSORS} processors: leave it out"):
        choose_threads(100_000, 1)


def test_blocks_stay_within_the_memory_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of stories260k takes 1,310,720 bytes in fp32: its heads of 8 values are stored as 16."""
    monkeypatch.setattr(build, "memory_bytes", lambda: 8 * 1_310_720)
    assert LLM("stories260k").description.kv_tokens == 2 * 512
    assert LLM("stories260k", EngineOptions(kv_memory=5 * 1_310_720)).description.kv_bytes == 5 * 1_310_720
    with pytest.raises(SetupError, match="10,240 tokens of keys and values take 26,214,400 bytes, 10,485,760 are free"):
        LLM("stories260k", EngineOptions(kv_memory=1 << 30, num_slots=20))


@pytest.mark.parametrize(("kept", "part"), [("model", 1.0), ("int8", 20 / 64)])
def test_int8_keys_and_values_take_a_third_and_say_nearly_the_same(kept: str, part: float) -> None:
    llm = LLM("stories260k", EngineOptions(kv_cache=kept))
    assert llm.description.kv_bytes == part * 8 * 1_310_720
    assert llm.generate(["Once upon a time"], temperature=0, max_new_tokens=4)[0].text.startswith(", there was a")


def test_a_cache_of_a_type_that_there_is_not_is_refused() -> None:
    with pytest.raises(SetupError, match="kv_cache is 'int4'; .*int8"):
        LLM("stories260k", EngineOptions(kv_cache="int4"))


def test_a_bound_says_what_it_asks() -> None:
    assert Bound(1).rule == "at least 1" and Bound(0, 1, False, True).rule == "a finite number, above 0 and at most 1"
    assert not Bound(0, whole=False).holds(NAN) and Bound(0, whole=False).holds(3) and not Bound(0).holds(3.0)


@pytest.mark.parametrize(
    ("words", "seed"), [([], 5), (["--seed", "0"], 0), (["--seed", "7"], 7)], ids=["file", "zero", "other"]
)
def test_what_is_typed_wins_over_the_file_a_zero_too(
    words: list[str], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve.yaml").write_text("models: {a: stories260k}\nengine: {seed: 5, num_slots: 3}\n")
    taken: list[ServeOptions] = []
    monkeypatch.setattr(serve, "serve", lambda options, **_: taken.append(options))
    main(["serve", "--config", str(tmp_path / "serve.yaml"), *words])
    assert taken[0].engine == EngineOptions(seed=seed, num_slots=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval stories260k --max-context 0", "max_context is 0, it must be at least 1"),
        ("eval stories260k --seed -1", "seed is -1, it must be at least 0"),
        ("eval stories260k --threads 100000", "threads is 100000"),
        ("eval stories260k --step-share 0.5", "unrecognized arguments: --step-share"),
        ("bench engine --quick --threads 0", "threads is 0"),
        ("bench engine --quick --documents 0", "documents is 0"),
        ("bench engine --quick --truncate 1", "truncate is 1, it must be at least 2; one token to read"),
        ("retention stories260k --text FILE --windows 1 --length 8 --seed -1", "seed is -1, it must be at least 0"),
        ("retention stories260k --text FILE --windows 1 --length 8 --seed 99999999999999999999", "seed is 9999"),
        (
            "generate hi --timeout nan",
            "timeout is nan, it must be a finite number, at least 0 and at most",
        ),
    ],
)
def test_every_command_judges_its_numbers_before_any_work(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("Once upon a time there was a girl who had a dog. " * 9)
    try:
        assert main(words.split()) == 2
    except SystemExit as end:
        assert end.code == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- settings that gRPC takes by name ------------------------------------------------------------------------------


OPTIONS = transport.channel_options(ServeOptions(()), 9)


@pytest.mark.parametrize("key", [key for key, _ in (*OPTIONS, *dialling.CHANNEL_OPTIONS, *dialling.NO_PROXY)])
def test_every_setting_of_grpc_is_one_that_its_core_knows(key: str) -> None:
    core = Path(cygrpc.__file__).read_bytes()
    assert key.encode() + b"\0" in core


def test_a_key_that_the_core_does_not_know_would_be_seen() -> None:
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms" not in Path(cygrpc.__file__).read_bytes()


@contextmanager
def silent_call(options: Any) -> Iterator[Any]:
    """A call that a server with these settings leaves open; its client pings as fast as gRPC lets it, once a second."""
    server = grpc.server(ThreadPoolExecutor(2), options=[*options, ("grpc.http2.max_ping_strikes", 1)])
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    pinging = (("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0), *dialling.NO_PROXY)
    with grpc.insecure_channel(address, options=pinging) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(call)
        yield call
    server.stop(None)


def test_a_silent_call_whose_client_pings_lives_as_long_as_the_interval_allows() -> None:
    """Ours, ten times faster: pings may come every 500 ms, where clients that may ping every 10 s come to a tenth."""
    known = "grpc.http2.min_ping_interval_without_data_ms"
    faster = [(key, value // 10 if key == known else value) for key, value in OPTIONS]
    without = [(key, value) for key, value in faster if key != known]
    assert (known, 500) in faster
    with silent_call(faster) as ours, silent_call(without) as theirs:
        with pytest.raises(grpc.RpcError) as caught:
            next(theirs)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "too many pings" in caught.value.details().lower().replace("_", " ")
        assert ours.is_active()


# --- settings of a server, by what they do -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def silent() -> Iterator[Server]:
    """A server with all off that can be."""
    with Server(reflection=False, log_requests=False) as server:
        yield server


def test_reflection_off_is_off(silent: Server) -> None:
    with grpc.insecure_channel(silent.address, options=dialling.NO_PROXY) as channel:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request])))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_requests_are_logged_only_where_that_was_asked(silent: Server) -> None:
    with silent.client() as asking, Server(log_requests=True) as telling, telling.client() as other:
        for each in (asking, other):
            each.generate([5], max_new_tokens=2, request_id="seen")
        eventually(lambda: "seen" in telling.log)
        assert "seen" not in silent.log


def test_a_stream_that_goes_on_ends_with_the_drain_and_not_before() -> None:
    with Server(drain_seconds=0.5) as server, server.client() as asking, server.held():
        stream = asking.stream([HOLD])
        next(stream)
        began = time.monotonic()
        server.process.terminate()
        with pytest.raises(Exception, match="shutting down"):
            list(stream)
        assert time.monotonic() - began > 0.4 and server.end() == 0


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_no_proxy_is_asked_for_this_machine(
    silent: Server, name: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Client(f"{host}:{silent.address.rpartition(':')[2]}") as asking:
        assert asking.health() == "SERVING"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("localhost:50051", "localhost:50051"),
        ("localhost", "localhost:50051"),
        (" localhost:7 ", "localhost:7"),
        ("http://localhost:7", "localhost:7"),
        ("HTTP://127.0.0.1:7/", "127.0.0.1:7"),
        ("grpc://localhost", "localhost:50051"),
        ("https://localhost:7", "localhost:7"),
        ("::1", "[::1]:50051"),
        ("[::1]:7", "[::1]:7"),
        ("my-host.example:7", "my-host.example:7"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
        ("dns:///localhost:7", "dns:///localhost:7"),
    ],
)
def test_an_address_is_read_as_it_is_meant(written: str, meant: str) -> None:
    assert Client(written).address == meant


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("ftp://localhost:7", "has the scheme 'ftp'"),
        ("http://localhost:7/v1/models", "has a path, which a server has not; write localhost:7"),
        ("localhost:", "has no port behind the colon .* leave the colon out for 50051"),
        ("localhost:0", "from 1 to 65535"),
        ("localhost:65536", "from 1 to 65535"),
        ("localhost:http", "is no host with a port"),
        (":50051", "is no host with a port; write for example localhost:50051"),
        ("", "is no host with a port"),
        ("me@localhost:7", "is no host with a port"),
        ("two words", "is no host with a port"),
    ],
)
def test_an_address_that_names_no_server_is_refused_with_the_way_out(
    written: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AddressError, match=words):
        Client(written)
    assert main(["generate", "x", "--address", written]) == 2
    assert capsys.readouterr().err.startswith("moesaic: error: address ")


def test_a_far_host_where_nobody_answers_is_told_of_the_proxy_and_the_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client("192.0.2.1:7") as asking, pytest.raises(AddressError) as caught:
        asking.health(timeout=PATIENCE_SECONDS)
    assert "asked through the proxy of http_proxy=http://127.0.0.1:9" in str(caught.value)
    assert "`ssh -L 7:127.0.0.1:7 192.0.2.1` and use localhost:7" in str(caught.value)


def test_where_no_server_can_listen_none_is_advised(tmp_path: Path) -> None:
    with (
        Client(f"unix:{tmp_path}/none") as asking,
        pytest.raises(AddressError, match="listens on ports: give host:port"),
    ):
        asking.health()


def test_the_server_that_is_advised_is_one_that_would_answer(tmp_path: Path) -> None:
    """What the sentence says is typed as it stands."""
    asking = Client(f"localhost:{free_port()}")
    with pytest.raises(AddressError) as caught:
        asking.health()
    words = str(caught.value).partition("with: moesaic ")[2].replace("PATH", "stories260k").split()
    server = subprocess.Popen([sys.executable, "-m", "moesaic.cli.main", *words], stdout=subprocess.DEVNULL)
    try:
        asking.wait_until_ready(PATIENCE_SECONDS)
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("timeout", [NAN, INFINITE, -1, 1e300])
def test_a_timeout_that_is_no_time_is_refused(silent: Server, timeout: float) -> None:
    """gRPC takes each of them for a time that is over."""
    with silent.client() as asking:
        for call in (asking.health, asking.models, asking.wait_until_ready):
            with pytest.raises(SetupError, match=f"timeout is {re.escape(str(timeout))}"):
                call(timeout=timeout)
        with pytest.raises(SetupError, match="leave it out to wait as long as it takes"):
            asking.stream([5], timeout=timeout)

"""One test for each family of faults of which servers of this field had to warn their users.

docs/security.md has the table. What other files hold member by member is held here by its shortest case; numbers of
advisories are examples.
"""

import ast
import pickle
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import edit_json, llama
from echo_engine import FAIL, SECRET
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from house import FOLDERS, ROOT
from packaging.requirements import Requirement
from patience import eventually
from server_harness import Server

from moesaic.bench.local_server import local_server
from moesaic.bench.server.http2_caller import Http2Caller
from moesaic.models.chat_renderer import Renderer, RenderLimits
from moesaic.models.checkpoint import load
from moesaic.models.errors import AddressError, CheckpointError, InvalidRequest, NotFound, RequestFailed, Unsupported
from moesaic.proto import engine_pb2, generation_pb2
from moesaic.server.client import Client
from moesaic.server.client_request import build_request
from moesaic.server.handlers import GENERATION
from moesaic.server.listening import check_exposure
from moesaic.server.scopes import Door, asked_by
from moesaic.server.tokens import add_token

MODULES = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if "_pb2" not in file.name]
SERVING = [file for file in MODULES if file.relative_to(ROOT).parts[0] in ("server", "engine")]
PROTOS = (engine_pb2, generation_pb2)


class Shell:
    """Whoever unpickles this has run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it ran')",)


def imported(file: Path) -> set[str]:
    """The modules that a module imports from elsewhere, and the packages that they are in."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    others = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {*plain, *others, *(name.partition(".")[0] for name in (*plain, *others))}


def messages() -> Iterator[Any]:
    return (message for proto in PROTOS for message in proto.DESCRIPTOR.message_types_by_name.values())


def test_pickles_over_sockets() -> None:
    """CVE-2024-9053, CVE-2025-32444, CVE-2025-23254, CVE-2024-50050: objects between processes."""
    for kind in (engine_pb2.Command, engine_pb2.Event):
        with pytest.raises(DecodeError):
            kind.FromString(pickle.dumps(Shell()))
    forbidden = {"pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "multiprocessing", "zmq"}
    assert not [file for file in MODULES if forbidden & imported(file)]


def test_checkpoints_that_run_code(tmp_path: Path) -> None:
    """CVE-2025-24357, CVE-2025-32434, CVE-2024-11392: weights that are pickles."""
    llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Shell()))
    with pytest.raises(CheckpointError, match="a pickle, which can run code when it is opened"):
        load(tmp_path)


def test_code_by_configuration(tmp_path: Path) -> None:
    """CVE-2025-66448: auto_map; no flag allows it."""
    llama(tmp_path)
    edit_json(tmp_path / "config.json", auto_map={"AutoConfig": "code.Config"})
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CheckpointError, match="auto_map asks to run Python code"):
        load(tmp_path)
    assert not [file for file in MODULES if re.search(r"trust_remote_code\s*=\s*True", file.read_text())]


def test_templates_that_run_code() -> None:
    """Templates of checkpoints that reach Python's insides; a request cannot bring one."""
    with pytest.raises(Unsupported, match="access to attribute '__class__'"):
        Renderer("{{ ''.__class__.__mro__ }}", {}, RenderLimits()).render([{"role": "user", "content": "x"}])
    assert not [field.full_name for message in messages() for field in message.fields if "template" in field.name]


def test_tensors_in_requests() -> None:
    """CVE-2025-62164, CVE-2025-62372: a caller's bytes that are taken for a tensor. There is no field for any;
    a row is what the engine says."""
    fields = [field for kind in messages() if kind.full_name != "moesaic.engine.v1.Row" for field in kind.fields]
    assert not [field.full_name for field in fields if field.type == FieldDescriptor.TYPE_BYTES]


def test_addresses_that_are_fetched() -> None:
    """CVE-2025-6242: a server that fetches what a request names. Nothing that serves imports what could fetch."""
    fetching = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "urllib3", "huggingface_hub", "fsspec"}
    assert {str(file.relative_to(ROOT)): found for file in SERVING if (found := fetching & imported(file))} == {}


def test_errors_that_tell_of_the_inside(server: Server, client: Client) -> None:
    """Texts of exceptions that reach a caller, as those with addresses of memory did."""
    with pytest.raises(RequestFailed, match=r"^the engine failed on this request, incident [0-9a-f]{8}$"):
        client.generate([FAIL], max_new_tokens=9)
    eventually(lambda: SECRET in server.log)


def test_doors_without_a_lock(tmp_path: Path) -> None:
    """CVE-2023-48022, CVE-2023-43654: an open port for the world, and methods that nobody had thought of."""
    with pytest.raises(AddressError, match="takes both TLS and tokens"):
        check_exposure("0.0.0.0", has_tls=False, has_tokens=False)
    paths = [f"/{GENERATION.full_name}/{method.name}" for method in GENERATION.methods]
    assert not [path for path in (*paths, "/moesaic.admin.v1.Admin/Load", "/any/Thing") if asked_by(path) is Door.OPEN]


def test_locks_that_are_picked_by_time_or_by_a_header(tmp_path: Path) -> None:
    """CVE-2025-59425: keys compared letter by letter; others: a path or a Host that the check did not know."""
    sources = (ROOT / "server" / "access.py").read_text()
    assert "compare_digest" in sources and "host" not in sources
    token = add_token(tmp_path / "tokens.jsonl", "alice", ["generate"])
    with Server(tokens=str(tmp_path / "tokens.jsonl")) as server, Http2Caller(server.address) as caller:
        with server.client(token=token) as client:
            before = client.model().load
            for begin, end in (("//", ""), ("/", "?"), ("/", "/"), ("/x/../", "")):
                caller.call(f"{begin}moesaic.v1.Generation/Generate{end}", build_request([5]).SerializeToString())
            caller.receive(b"grpc-status")
            assert client.model().load == before  # which counts what the engine was given


def asserts(file: Path) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(file.read_text())))


def test_checks_that_vanish() -> None:
    """A check that is an assert is none under python -O."""
    judging = [*SERVING, *(file for file in MODULES if file.relative_to(ROOT).parts[0] in ("models", "cli"))]
    assert not [file for file in judging if asserts(file)]


def test_parameters_that_exhaust(client: Client) -> None:
    """CVE-2024-8768, CVE-2025-48956: empty, negative, endless and nested ones."""
    wrong: list[dict[str, Any]] = [
        {"stop": ["x"] * 10_000},
        {"cache_salt": "x" * 10_000},
        {"max_new_tokens": 1 << 31},
        {"n": 1 << 20},
        {"request_id": "x" * 10_000},
    ]
    for settings in wrong:
        with pytest.raises(InvalidRequest, match=next(iter(settings))):
            client.generate([5], **settings)
    with pytest.raises(InvalidRequest):
        client.generate([])
    assert client.generate([5], max_new_tokens=1).token_ids == (5,)


def test_what_one_caller_can_learn_of_another(tmp_path: Path) -> None:
    """CVE-2025-30202 and times of cached prefixes: two tokens never share one, whatever salt they ask for."""
    file, prompt = tmp_path / "tokens.jsonl", "Once upon a time there was a little girl who " * 6
    tokens = {name: add_token(file, name, ["generate"]) for name in ("alice", "bob")}
    with local_server({"stories": "stories260k"}, "--tokens", str(file)) as address:

        def cached(name: str, **settings: Any) -> int:
            with Client(address, token=tokens[name]) as client:
                return client.generate(prompt, max_new_tokens=1, temperature=0, **settings).usage.cached_prompt_tokens

        assert cached("alice") == 0 < cached("alice")
        assert cached("bob") == cached("bob", cache_salt="alice") == 0 < cached("bob")


def test_memory_that_is_shared_with_callers() -> None:
    """CVE-2025-23320, CVE-2025-23334: regions that a caller names. The front end maps none."""
    mapping = {"mmap", "shared_memory", "posix_ipc", "sysv_ipc"}
    assert not [file for file in SERVING if file.is_relative_to(ROOT / "server") and mapping & imported(file)]


def test_libraries_with_holes() -> None:
    """CVE-2023-33953, CVE-2024-7246 (gRPC), CVE-2025-4565 (protobuf), CVE-2025-27516 (jinja2): no such version fits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    holes = {"grpcio": ["1.53.1", "1.65.3"], "protobuf": ["4.25.7", "5.29.4", "6.31.0"], "jinja2": ["3.1.5"]}
    holes |= {"torch": ["2.5.1"], "pyyaml": ["5.3"]}
    assert not [(name, each) for name, versions in holes.items() for each in versions if each in needed[name]]


def test_streams_that_are_reset(server: Server, client: Client) -> None:
    """CVE-2023-44487: begun and reset as fast as it goes."""
    with Http2Caller(server.address) as caller:
        for _ in range(2_000):
            caller.reset(caller.call("/moesaic.v1.Generation/GenerateStream", b""))
        assert client.generate([5], max_new_tokens=1).token_ids == (5,)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "echo/../echo", "stories260k", "file:///etc/passwd"]
)
def test_models_by_a_path_of_the_caller(client: Client, name: str) -> None:
    """Files that a request to load brings or names: a name is looked up among those served, and is no path."""
    with pytest.raises(NotFound, match="is served here"):
        client.model(name)
    with pytest.raises(NotFound, match="is served here"):
        client.generate([5], model=name)


def test_json_that_is_nested_without_end() -> None:
    """CVE-2026-0994 in json_format: what JSON there is, is read by json into types of our own."""
    assert not [file for file in SERVING if "json_format" in file.read_text()]

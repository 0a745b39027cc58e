"""Messages that nobody meant at every door of one server, as many as you like: make fuzz N=1000000

    python tests/fuzz.py COUNT [--seed N] [--folder DIR]

A run that is stopped goes on where it was: DIR/state.json has how far it is and what was answered, DIR/faults.jsonl
each message that was answered wrongly, as hexadecimal digits. What is wrong: UNKNOWN, INTERNAL, UNAVAILABLE or a code
of 500, a connection that ends without an answer, a refusal that takes longer than a second where it is asked alone, a
probe that waits as long beside a message, no end within half a minute, an engine or a server that ends. Status 1
where there was any. Models are neither loaded nor unloaded.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import h11
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from server_harness import Server
from test_http_fuzz import mutated
from test_mutations import FAULTS, HARMLESS, METHODS, RIGHT, damaged, message_of

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import MoesaicError
from moesaic.models.files import write_whole
from moesaic.models.locate import locate
from moesaic.server.handlers import ADMIN

CHUNK = 500  # messages between two notes of how far it is
AT_ONCE = 16
HANG_SECONDS, END_SECONDS = 1.0, 30.0
HTTP_SHARE, ADMIN_SHARE = 0.2, 0.05
_DOORS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/classify")
_ADMIN = [method for method in HARMLESS if method.name not in ("LoadModel", "UnloadModel")]
TEMPLATE = """{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages %}{{ m.role }}:
{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{% endfor %}"""
NO_ANSWER = "NO_ANSWER"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter, h11.Connection]
_BRIEF = {"max_new_tokens": 2}  # what generates has better things to do than to finish


@dataclass(slots=True)
class State:
    """How far a run is. answers: how often each method was answered with each code."""

    seed: int
    chunks: int = 0
    seconds: float = 0.0
    faults: int = 0
    repeated: int = 0  # since they took long
    answers: dict[str, dict[str, int]] = field(default_factory=dict)

    def note(self, method: str, code: str) -> None:
        found = self.answers.setdefault(method, {})
        found[code] = found.get(code, 0) + 1


@dataclass(frozen=True, slots=True)
class Sent:
    """A message, and where it goes."""

    method: str
    data: bytes
    streams: bool = False


def drawn(chance: random.Random) -> Sent:
    """The next one."""
    what = chance.random()
    if what < HTTP_SHARE:
        return Sent(chance.choice(_DOORS), mutated(chance))
    method: MethodDescriptor = chance.choice(_ADMIN if what < HTTP_SHARE + ADMIN_SHARE else METHODS)
    message: Any = GetMessageClass(method.input_type)(**RIGHT.get(method.name, {}))
    message.MergeFrom(message_of(method.input_type, chance, chance.choice([0.05, 0.2, 0.6])))
    if method.name.startswith("Generate") and chance.random() < 0.9:
        for each in message.requests if method.name == "GenerateBatch" else [message]:
            each.MergeFrom(type(each)(stopping=_BRIEF))
    data = message.SerializeToString()
    path = f"/{method.containing_service.full_name}/{method.name}"
    return Sent(path, damaged(data, chance) if chance.random() < 0.33 else data, method.server_streaming)


class Doors:
    """The doors of a server, asked by several at a time."""

    def __init__(self, server: Server, public: grpc.aio.Channel, admin: grpc.aio.Channel) -> None:
        self._public, self._admin = public, admin
        self._host, port = server.web.removeprefix("http://").rsplit(":", 1)
        self._port = int(port)
        self._idle: list[Connection] = []

    async def close(self) -> None:
        """Ends the connections that rest."""
        for _, writer, _ in self._idle:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, sent: Sent) -> str:
        """The code of the answer."""
        return await (self._ask_http(sent) if sent.method.startswith("/v1/") else self._ask_grpc(sent))

    async def _ask_grpc(self, sent: Sent) -> str:
        channel = self._admin if ADMIN.full_name in sent.method else self._public
        try:
            if sent.streams:
                async for _ in channel.unary_stream(sent.method)(sent.data, timeout=END_SECONDS):
                    pass
            else:
                await channel.unary_unary(sent.method)(sent.data, timeout=END_SECONDS)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    async def _ask_http(self, sent: Sent) -> str:
        """On a connection that rests, as clients do: where the server has closed it meanwhile, on a new one."""
        while self._idle:
            if (code := await self._ask_on(self._idle.pop(), sent)) != NO_ANSWER:
                return code
        reader, writer = await asyncio.open_connection(self._host, self._port)
        return await self._ask_on((reader, writer, h11.Connection(h11.CLIENT)), sent)

    async def _ask_on(self, connection: Connection, sent: Sent) -> str:
        reader, writer, state = connection
        headers = [("host", "localhost"), ("content-type", "application/json"), ("content-length", str(len(sent.data)))]
        request = h11.Request(method="POST", target=sent.method, headers=headers)
        for event in (request, h11.Data(sent.data), h11.EndOfMessage()):
            writer.write(state.send(event))
        try:
            code = await _code_of(reader, state)
        except (ConnectionError, h11.RemoteProtocolError):
            code = NO_ANSWER
        if state.our_state is h11.DONE and state.their_state is h11.DONE:
            state.start_next_cycle()
            self._idle.append(connection)
        else:
            writer.close()
        return code


async def _code_of(reader: asyncio.StreamReader, state: h11.Connection) -> str:
    """Of the answer, once it is whole. Raises h11.RemoteProtocolError where it ends before."""
    code = NO_ANSWER
    while not isinstance(event := state.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            state.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            code = str(event.status_code)
    return code


PROBE = Sent("/grpc.health.v1.Health/Check", b"")
WRONG = {code.name for code in FAULTS} | {NO_ANSWER, "UNAVAILABLE", "500", "502", "503", "504"}


def wrong(sent: Sent, code: str, seconds: float) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if code in WRONG:
        return code
    slow = seconds > HANG_SECONDS and code not in ("OK", "200")
    return f"{code} after {seconds:.1f} s" if slow else ""


async def again(doors: Doors, sent: Sent) -> str:
    """What is wrong with a message that took long beside others, where it alone is asked: it, or what it does to
    probes. A machine that has no time makes everything slow.
    """
    began, waited = time.monotonic(), 0.0
    asking = asyncio.create_task(doors.ask(sent))
    while not asking.done():
        asked = time.monotonic()
        await doors.ask(PROBE)
        waited = max(waited, time.monotonic() - asked)
    if waited > HANG_SECONDS:
        return f"a probe beside it waited {waited:.1f} s"
    return wrong(sent, asking.result(), time.monotonic() - began)


async def run_chunk(doors: Doors, state: State, fault: Callable[[Sent, str], None]) -> None:
    """So many messages, some at a time, and those once more that took long."""
    slow: list[Sent] = []
    chance = random.Random(f"{state.seed}/{state.chunks}")
    waiting = iter([drawn(chance) for _ in range(CHUNK)])

    async def ask() -> None:
        for sent in waiting:
            began = time.monotonic()
            try:
                async with asyncio.timeout(2 * END_SECONDS):
                    code = await doors.ask(sent)
            except (TimeoutError, OSError, h11.RemoteProtocolError) as error:
                code = NO_ANSWER
                sys.stderr.write(f"{sent.method}: {error!r}\n")
            took = time.monotonic() - began
            state.note(sent.method, code)
            if what := wrong(sent, code, 0.0):
                fault(sent, what)
            elif took > HANG_SECONDS:
                slow.append(sent)

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    state.repeated += len(slow)
    for sent in slow:
        if what := await again(doors, sent):
            fault(sent, what)


@asynccontextmanager
async def doors_of(server: Server) -> AsyncIterator[Doors]:
    """All of a server's."""
    async with (
        grpc.aio.insecure_channel(server.address) as public,
        grpc.aio.insecure_channel(f"unix:{server.admin_socket}") as admin,
    ):
        doors = Doors(server, public, admin)
        yield doors
        await doors.close()


async def fuzz(server: Server, count: int, folder: Path, state: State) -> None:
    """Goes on until so many have been sent, with those of earlier runs; what has been found is in the folder."""

    def fault(sent: Sent, what: str) -> None:
        state.faults += 1
        with (folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps({"method": sent.method, "what": what, "data": sent.data.hex()}) + "\n")

    with server.client() as client:
        engine = client.model().device
    async with doors_of(server) as doors:
        while state.chunks * CHUNK < count:
            began = time.monotonic()
            await run_chunk(doors, state, fault)
            state.chunks += 1
            state.seconds += time.monotonic() - began
            if not await asyncio.to_thread(_lives, server, engine):
                fault(Sent("", b""), f"the server or its engine ended in chunk {state.chunks - 1}")
                break
            write_whole(folder / "state.json", json.dumps(vars_of(state), indent=1).encode())
            sys.stderr.write(f"\r{state.chunks * CHUNK:,} of {count:,}, {state.faults} wrong, {state.seconds:.0f} s")


def _lives(server: Server, engine: str) -> bool:
    """Whether server and engine are those that there were."""
    with server.client() as client, suppress(MoesaicError):
        return server.process.poll() is None and client.model().device == engine
    return False


def chatting(folder: Path) -> Path:
    """A model whose template takes tools and all that a conversation may hold."""
    shutil.copytree(locate("stories260k"), folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def vars_of(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in State.__slots__}


def summary(state: State) -> str:
    """A line for each kind of answer."""
    codes = Counter[str]()
    for found in state.answers.values():
        codes.update(found)
    told = ", ".join(f"{code} {number:,}" for code, number in codes.most_common())
    methods = f"{len(state.answers)} methods, {codes.total():,} messages in {state.seconds:.0f} s"
    return f"{methods}: {told}; {state.repeated} asked again; {state.faults} wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file, state = args.folder / "state.json", State(args.seed)
    if file.exists() and (known := json.loads(file.read_text()))["seed"] == args.seed:
        state = State(**known)
    engine = EngineOptions(device="tame", num_slots=64)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(path=str(chatting(Path(folder))), http=True, engine=engine, max_requests=256) as server,
    ):
        asyncio.run(fuzz(server, args.count, args.folder, state))
        for incident in [line for line in server.log.splitlines() if "incident" in line or "Traceback" in line][:20]:
            sys.stderr.write(f"\n{incident}")
    sys.stdout.write(f"\n{summary(state)}\n")
    return 1 if state.faults else 0


if __name__ == "__main__":
    sys.exit(main())

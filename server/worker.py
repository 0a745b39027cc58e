"""The engine process: one model, a thread that steps and one that beats, one socket to the front end that started it.

python -m moesaic.server.worker FD PATH OPTIONS_JSON
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..engine.options import EngineOptions
from ..engine.request import FinishReason, Request, Stopping
from ..engine.sampling import Sampling
from ..models.errors import MoesaicError, SetupError
from ..models.quiet import quiet_libraries
from ..proto import engine_pb2 as pb
from .frames import FrameBuffer, frame
from .messages import ready_message, request_of, step_messages
from .watchdog import BEAT_SECONDS

if TYPE_CHECKING:
    from ..engine.build import BuiltEngine, Steps
    from ..models.sentences import Pooling

_READ_BYTES = 1 << 16


class Speaker:
    """Sends events, those of the engine's thread and the beats of another one; each as a whole."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, event: pb.Event) -> None:
        """Sends one. Raises BrokenPipeError or ConnectionResetError once the front end is gone."""
        with self._lock:
            self._connection.sendall(frame(event))

    def beat(self) -> None:
        """Says that the process runs, unless it is just saying something else."""
        if self._lock.acquire(blocking=False):
            try:
                self._connection.sendall(frame(pb.Event(beat=pb.Beat(cpu_seconds=time.process_time()))))
            finally:
                self._lock.release()


def run(connection: socket.socket, factory: Callable[[], BuiltEngine]) -> int:
    """Builds the engine, warms it up and steps it until the front end says so or is gone.

    Meanwhile a thread of its own says again and again that the process runs.
    """
    speaker = Speaker(connection)
    _attend(connection, speaker)
    try:
        built = factory()
        _warm_up(built.engine, built.description.pooling, built.description.labels is not None)
    except MoesaicError as error:
        with suppress(BrokenPipeError, ConnectionResetError):
            speaker.say(pb.Event(refused=pb.Refused(message=str(error))))
        return 2
    try:
        speaker.say(ready_message(built.description, built.limits, built.engine.load))
        _loop(connection, built.engine, speaker)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the front end is gone; nobody is left to tell
    return 0


def _loop(connection: socket.socket, engine: Steps, speaker: Speaker) -> None:
    """One Step frame per step; waits only when there is no work, and obeys all that has arrived before each step."""
    buffer, num_obeyed = FrameBuffer(), 0
    while True:
        wait = not engine.has_work
        while (data := _read(connection, wait)) is not None:
            if data == b"":
                return
            for payload in buffer.feed(data):
                if not _obey(engine, pb.Command.FromString(payload)):
                    return
                num_obeyed += 1
            wait = False
        # After an abort there may be no work, but the load has changed and is told.
        rows = engine.step() if engine.has_work else []
        for message in step_messages(rows, engine.load, num_obeyed):
            speaker.say(message)


def _read(connection: socket.socket, wait: bool) -> bytes | None:
    """What has arrived; None when nothing has, b"" when the front end is gone."""
    try:
        return connection.recv(_READ_BYTES, 0 if wait else socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


def _obey(engine: Steps, command: pb.Command) -> bool:
    """Carries out one command; False for the last one."""
    if command.HasField("submit"):
        engine.add(request_of(command.submit))
    elif command.HasField("abort"):
        abort = command.abort
        engine.abort(abort.key, abort.choice if abort.HasField("choice") else None)
    return not command.HasField("shutdown")


def _warm_up(engine: Steps, pooling: Pooling | None, classify: bool) -> None:
    """Two tokens, so that prefill and decode have run before anybody waits for them; or the vector or labels of one."""
    stopping = Stopping(max_new_tokens=2, ignore_eos=True)
    engine.add(Request(0, (0,), Sampling(temperature=0.0), stopping, pooling=pooling, classify=classify))
    while engine.has_work:
        for row in engine.step():
            if row.finish is FinishReason.FAILED:
                raise SetupError(f"the model has been loaded but cannot compute a token: {row.error}")


def _attend(connection: socket.socket, speaker: Speaker) -> None:
    """Beats, and ends this process when the other end closes, also in the middle of a load or of a step that hangs."""

    def watch() -> None:
        poll = select.poll()
        poll.register(connection, 0)  # no event asked for: only a hang-up wakes it
        with suppress(BrokenPipeError, ConnectionResetError):
            while not poll.poll(round(1000 * BEAT_SECONDS)):
                speaker.beat()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _warn(text: str) -> None:
    sys.stderr.write(f"moesaic: warning: {text}\n")


def main() -> int:
    """The entry of the process; arguments as in the docstring of this file."""
    quiet_libraries(_warn)
    descriptor, path, options_json = sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)

    def factory() -> BuiltEngine:
        from ..engine.build import build_engine

        return build_engine(path, EngineOptions(**json.loads(options_json)))

    return run(connection, factory)


if __name__ == "__main__":
    sys.exit(main())

"""Our side of the process that runs a chat template: started when first needed, ended when it passes a limit."""

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock, Timer
from typing import Any

from .errors import Unsupported

_SANDBOX = (sys.executable, "-P", "-m", "moesaic.models.chat_sandbox")
_JSON_BYTES_PER_CHARACTER = 12  # "\ud83d\ude00"
_WAY_OUT = "give a plain prompt instead"


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """What one rendering may take. `seconds` is the clock on the wall, for what takes no CPU time."""

    characters: int = 2 << 20
    cpu_seconds: float = 2.0
    memory_bytes: int = 256 << 20
    seconds: float = 20.0


class Refused(Exception):
    """The template itself refuses these messages, in its own words."""


class Renderer:
    """One template in a process of its own, which a hostile one cannot leave, keep busy or fill.

    Threads may share it; one renders at a time. The process ends with this object, and with our own process.
    """

    def __init__(self, template: str, tokens: Mapping[str, str], limits: RenderLimits) -> None:
        self._limits = limits
        self._first = {"template": template, "tokens": dict(tokens), "limits": asdict(limits)}
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The text. tools: what may be called. Raises Refused, or Unsupported with what is wrong with the template."""
        with self._lock:
            answer = self._ask(json.dumps({"messages": messages, "tools": tools}).encode())
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "text" not in answer:
            raise Unsupported(f"the model's chat template cannot be used: {answer['broken']}; {_WAY_OUT}")
        return answer["text"]

    def end(self) -> None:
        """Ends the process, once it renders nothing; another conversation starts a new one."""
        with self._lock:
            self._stop()

    def _ask(self, said: bytes) -> dict[str, str]:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        watchdog = Timer(self._limits.seconds, process.kill)
        watchdog.start()
        line = b""
        try:
            line = self._exchange(process, said)
        except BrokenPipeError:  # it has ended
            pass
        finally:
            watchdog.cancel()
            if not line.endswith(b"\n"):  # nor may a later question get the answer to this one
                self._stop()
        if not line.endswith(b"\n"):
            return {"broken": _why(process.returncode, self._limits)}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _exchange(self, process: "subprocess.Popen[bytes]", said: bytes) -> bytes:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the sandbox was started without pipes")
        process.stdin.write(said + b"\n")
        process.stdin.flush()
        return process.stdout.readline(_JSON_BYTES_PER_CHARACTER * self._limits.characters + 1000)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._stop()
        process = subprocess.Popen(
            _SANDBOX, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us
        )  # fmt: skip
        self._process, self._end = process, weakref.finalize(self, _end, process)
        if process.stdin is not None:
            process.stdin.write(json.dumps(self._first).encode() + b"\n")
        return process

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def _why(code: int, limits: RenderLimits) -> str:
    if code == -signal.SIGPROF:
        return f"it takes more than {limits.cpu_seconds:g} s of CPU time"
    if code == -signal.SIGKILL:
        return f"it did not answer within {limits.seconds:g} s, or its process was killed"
    return f"its process ended with code {code}"

"""A headless Chromium, driven over a pair of pipes by its own protocol; no driver, no network."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from patience import PATIENCE_SECONDS, eventually

PROGRAM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
# Where the browser looks for its pipes.
_AT_3_AND_4 = """import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])"""


class Tab:
    """A page that was opened. complaints: what the browser said of its scripts, policy and requests."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._number = 0
        self._session: str | None = None
        self._left = b""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of one command of the protocol."""
        self._number += 1
        session = {} if self._session is None else {"sessionId": self._session}
        os.write(
            self._write,
            json.dumps({"id": self._number, "method": method, "params": parameters, **session}).encode() + b"\0",
        )
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Returns when an expression is true."""
        eventually(lambda: bool(self.run(condition)))

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int, **more: Any) -> None:
        """A key goes down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def dark(self, is_dark: bool) -> None:
        value = "dark" if is_dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def picture(self) -> bytes:
        """What it looks like, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def strips(self, height: int = 4000, scale: float = 0.25) -> Iterator[bytes]:
        """All of it from top to bottom, as PNGs at a scale, so high each of the page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        for top in range(0, int(size["height"]), height):
            clip = {"x": 0, "y": top, "width": size["width"], "height": min(height, size["height"] - top)}
            shot = self.call("Page.captureScreenshot", clip=clip | {"scale": scale}, captureBeyondViewport=True)
            yield base64.b64decode(shot["data"])

    def printed(self) -> bytes:
        """What a printer gets, as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def _note(self, message: dict[str, Any]) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("warning", "error"):
            self.complaints.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.complaints += [
                url for url in (said["request"]["url"],) if "127.0.0.1" not in url and "data:" not in url
            ]

    def _next(self) -> Any:
        while b"\0" not in self._left:
            data = os.read(self._read, 1 << 16)
            assert data, "the browser has ended"
            self._left += data
        found, _, self._left = self._left.partition(b"\0")
        return json.loads(found)


@contextmanager
def opened(url: str) -> Iterator[Tab]:
    """A page in a browser of its own."""
    ours, theirs = os.pipe(), os.pipe()  # commands, events
    command = [
        PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--remote-debugging-pipe",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [sys.executable, "-c", _AT_3_AND_4, str(ours[0]), str(theirs[1]), *command, f"--user-data-dir={profile}"],
            pass_fds=(ours[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        try:
            tab = Tab(ours[1], theirs[0])
            tab.call("Page.navigate", url=url)
            yield tab
        finally:
            process.kill()
            process.wait(PATIENCE_SECONDS)
            for descriptor in (ours[1], theirs[0]):
                os.close(descriptor)

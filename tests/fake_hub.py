"""A Hugging Face Hub on this machine: the pages that its library asks for, of one model whose files lie in a folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 20_000  # bytes from which on the hub knows the SHA-256 of a file


@dataclass
class FakeHub:
    """What it serves, and what was asked. breaks: files whose first answer ends in the middle; lies: that it lists with
    another hash; error: the status and code of every answer instead."""

    folder: Path
    name: str = "org/tiny"
    breaks: set[str] = field(default_factory=set)
    lies: set[str] = field(default_factory=set)
    error: tuple[int, str] | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # a file, and the range of it
    address: str = ""

    def described(self) -> dict[str, Any]:
        files = [self._file(file) for file in sorted(self.folder.rglob("*")) if file.is_file()]
        return {
            "id": self.name, "modelId": self.name, "sha": COMMIT, "siblings": files, "tags": ["license:apache-2.0"],
            "private": False, "downloads": 0, "likes": 0,
        }  # fmt: skip

    def _file(self, file: Path) -> dict[str, Any]:
        name, data = file.relative_to(self.folder).as_posix(), file.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest() if name not in self.lies else "0" * 64
        large = {"lfs": {"sha256": sha256, "size": len(data), "pointerSize": 130}} if len(data) >= LARGE else {}
        return {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest(), **large}


class _Page(BaseHTTPRequestHandler):
    """protocol: 1.1, since the library keeps connections."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.hub.error:
            self._send(self.hub.error[0], b"{}", {"X-Error-Code": self.hub.error[1]}, with_body)
        elif path.startswith(f"/api/models/{self.hub.name}"):
            self._send(200, json.dumps(self.hub.described()).encode(), {}, with_body)
        elif path.startswith(f"/{self.hub.name}/resolve/{COMMIT}/"):
            self._send_file(path.split(COMMIT)[1].lstrip("/"), with_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

    def _send_file(self, name: str, with_body: bool) -> None:
        data, asked = (self.hub.folder / name).read_bytes(), self.headers.get("Range")
        facts = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not with_body:
            self._send(200, data, facts, with_body)
            return
        self.hub.asked.append((name, asked))
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if first:
            facts["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        breaks = name in self.hub.breaks
        self.hub.breaks.discard(name)
        self._send(206 if first else 200, data[first:], facts, with_body, breaks)

    def _send(self, status: int, body: bytes, facts: dict[str, str], with_body: bool, breaks: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **facts}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[: len(body) // 2] if breaks else body)
        if breaks:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def fake_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """Serves it on a port of its own until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Page", (_Page,), {"hub": hub}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

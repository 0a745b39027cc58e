"""How much of a server's room for keys and values requests hold, asked for in the course of a level.

A server of moesaic tells it with its model; others in /metrics, under a name that vLLM gave it. One that does not tell
it at first is asked no more; an answer that fails to come later leaves a gap.
"""

import re
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Self

from ...models.errors import MoesaicError
from ...server.client import Client

Held = Callable[[], float | None]  # of all pages, 0 to 1; None where the server does not say

_EVERY_SECONDS, _PATIENCE_SECONDS, _MOST_BYTES = 0.5, 2.0, 1 << 20
_METRIC = re.compile(rb"^[a-z_:]*kv_cache_usage_(?:perc|ratio)(\{[^}\n]*\})? ([0-9.eE+-]+)\s*$", re.MULTILINE)
_READ_BYTES = 1 << 16


def held_of_model(client: Client, model: str) -> float | None:
    """Of a server of moesaic."""
    load = client.model(model, timeout=_PATIENCE_SECONDS).load
    return (load.num_blocks - load.free_blocks) / load.num_blocks if load and load.num_blocks else None


def held_in_metrics(host: str, port: int, model: str, token: str) -> float | None:
    """Of this model, where lines name one; else the most that a line says."""
    found = [(labels, float(share)) for labels, share in _METRIC.findall(_metrics(host, port, token))]
    of_model = [share for labels, share in found if f'="{model}"'.encode() in labels]
    return max(of_model or [share for _, share in found], default=None)


def _metrics(host: str, port: int, token: str) -> bytes:
    """Whole lines, as far as they come in time."""
    connection, end = HTTPConnection(host, port, timeout=_PATIENCE_SECONDS), time.monotonic() + _PATIENCE_SECONDS
    text = b""
    try:
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        while answer.status == 200 and len(text) < _MOST_BYTES and time.monotonic() < end:
            if not (part := answer.read1(_READ_BYTES)):
                break
            text += part
    finally:
        connection.close()
    return text[: text.rfind(b"\n") + 1]


class Watch:
    """Asks twice a second in a thread of its own, from the beginning of a `with` block to its end."""

    def __init__(self, held: Held | None) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(held,), daemon=True) if held else None
        self._seen: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join(3 * _PATIENCE_SECONDS)

    def since(self, began: float) -> list[tuple[float, float]]:
        """Seconds after that time of the monotonic clock, and the share that was held."""
        return [(at - began, share) for at, share in self._seen]

    def _look(self, held: Held) -> None:
        while not self._over.is_set():
            try:
                share = held()
            except (MoesaicError, HTTPException, OSError, ValueError):  # what it does not tell is no result
                share = None
            if share is not None:
                self._seen.append((time.monotonic(), share))
            elif not self._seen:
                return
            self._over.wait(_EVERY_SECONDS)

"""How much of a server's room for keys and values requests hold, asked for in the course of a level.

A server of moesaic tells it with its model; others in /metrics, under a name that vLLM gave it. One that tells nothing
is asked once.
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
_METRIC = re.compile(rb"^[a-z_:]*kv_cache_usage_(?:perc|ratio)(?:\{[^}\n]*\})? ([0-9.eE+-]+)\s*$", re.MULTILINE)


def held_of_model(client: Client, model: str) -> float | None:
    """Of a server of moesaic."""
    load = client.model(model, timeout=_PATIENCE_SECONDS).load
    return (load.num_blocks - load.free_blocks) / load.num_blocks if load and load.num_blocks else None


def held_in_metrics(host: str, port: int, token: str) -> float | None:
    """Of the model that holds most."""
    connection = HTTPConnection(host, port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        text = answer.read(_MOST_BYTES) if answer.status == 200 else b""
    finally:
        connection.close()
    return max((float(share) for share in _METRIC.findall(text)), default=None)


class Watch:
    """Asks twice a second in a thread of its own, from the beginning of a `with` block to its end."""

    def __init__(self, held: Held | None) -> None:
        self._held, self._over = held, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._seen: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        if self._held is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._held is not None:
            self._thread.join(2 * _PATIENCE_SECONDS)

    def since(self, began: float) -> list[tuple[float, float]]:
        """Seconds after that time of the monotonic clock, and the share that was held."""
        return [(at - began, share) for at, share in self._seen]

    def _look(self) -> None:
        while self._held is not None and not self._over.is_set():
            try:
                share = self._held()
            except (MoesaicError, HTTPException, OSError, ValueError):  # what it does not tell is no result
                return
            if share is None:
                return
            self._seen.append((time.monotonic(), share))
            self._over.wait(_EVERY_SECONDS)

"""The same answers over gRPC: each source is a call of its own, streamed by a server in another process."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple, Self

from ...models.checkpoint import open_checkpoint
from ...models.locate import locate
from ...models.version import VERSION
from ...server.client import Client
from ..local_server import local_server
from .peer import Prompts
from .whole import Made, Whole


class _Served(NamedTuple):
    client: Client
    callers: ThreadPoolExecutor


class OurServed(Whole):
    """`moesaic serve` with as many threads as are asked, beside those of its network. Ends its servers when closed."""

    def __init__(self, path: str, kind: str, rows: int, context: int) -> None:
        super().__init__()
        self._path, self._rows, self._ending = path, rows, ExitStack()
        self.version, self.token_bytes = VERSION, open_checkpoint(path).weight_bytes
        self.build = "over gRPC, a stream a text"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def opened(self, threads: int) -> _Served:
        options = ("--threads", str(threads), "--slots", str(self._rows))
        address = self._ending.enter_context(local_server({"model": locate(self._path)}, *options))
        callers = self._ending.enter_context(ThreadPoolExecutor(self._rows))
        return _Served(self._ending.enter_context(Client(address, retries=0)), callers)

    def called(self, opened: _Served, prompts: Prompts, num_new: int) -> Made:
        def answer(ids: Sequence[int]) -> list[int]:
            chunks = opened.client.stream(ids, temperature=0, max_new_tokens=num_new, ignore_eos=True)
            return [token for chunk in chunks for token in chunk.token_ids]

        found = list(opened.callers.map(answer, prompts))
        if short := [tokens for tokens in found if len(tokens) != num_new]:
            raise RuntimeError(f"{len(short)} of {len(prompts)} texts were not answered in full")
        return Made(found[0], [])

"""What a peer is: a model that reads prompts and decodes greedily, and how long it takes for that."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Prompts = Sequence[Sequence[int]]


class Peer(Protocol):
    """A model over a number of rows, each a sequence of its own.

    build: what it was compiled for, or how it runs. token_bytes: of weights that a token alone reads.
    """

    version: str
    build: str
    token_bytes: int

    def begin(self, threads: int) -> None:
        """Forgets all sequences; what follows runs on so many threads."""
        ...

    def prefill(self, row: int, token_ids: Sequence[int]) -> int:
        """Reads the prompt of a row; gives the likeliest next token."""
        ...

    def decode(self, token_ids: Sequence[int], position: int) -> list[int]:
        """Reads a token of each of the first rows, all at this position; gives the likeliest next ones."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """seconds: that were measured. tokens: of the first row, in the order in which they came."""

    seconds: float
    tokens: list[int]


def decoded(peer: Peer, prompts: Prompts, num_new: int, threads: int) -> Answer:
    """Times num_new steps after prompts of equal length; the prompts and the first tokens are not timed."""
    peer.begin(threads)
    last = [peer.prefill(row, ids) for row, ids in enumerate(prompts)]
    tokens, start = [last[0]], len(prompts[0])
    began = time.perf_counter()
    for step in range(num_new):
        last = peer.decode(last, start + step)
        tokens.append(last[0])
    return Answer(time.perf_counter() - began, tokens)


def first_token(peer: Peer, prompt: Sequence[int], threads: int) -> Answer:
    """Times a prompt and the choice of its first token."""
    peer.begin(threads)
    began = time.perf_counter()
    token = peer.prefill(0, prompt)
    return Answer(time.perf_counter() - began, [token])

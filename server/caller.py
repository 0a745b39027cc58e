"""Who makes a call."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import grpc

from .budget import Budget


@dataclass(frozen=True, slots=True)
class Caller:
    """name: that of its token; empty where nobody is asked for one. tokens: what it may still read and write.

    requests: how often it may still ask.
    """

    name: str = ""
    tokens: Budget | None = None
    requests: Budget | None = None

    def spend(self, num_tokens: int) -> None:
        """Counts tokens of a prompt or an answer."""
        if self.tokens is not None:
            self.tokens.spend(num_tokens)

    def ask(self, num_requests: int) -> None:
        """Counts requests beyond the one that its call is."""
        if self.requests is not None:
            self.requests.spend(num_requests)

    def salt(self, asked: str) -> str:
        """Under which prefixes are kept: never that of another caller, whatever either asks for."""
        return hashlib.sha256(f"{self.name}\0{asked}".encode()).hexdigest() if self.name else asked


_current: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 - it cannot be changed


@contextmanager
def called_by(caller: Caller) -> Iterator[None]:
    """Meanwhile what is done here is done for this caller."""
    before = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(before)


def this_caller() -> Caller:
    """For whom the code that runs now does what it does."""
    return _current.get()


def caller_of(context: grpc.aio.ServicerContext) -> str:
    """The name by which a caller is counted and has its turn: that of its token, else its connection."""
    return this_caller().name or str(context.peer())

"""What the generator needs of a server, whichever language it speaks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .arrivals import Asked

OK = "ok"
LOST = "connection lost"


@dataclass(frozen=True, slots=True)
class Came:
    """What came of request `key` at a time of the monotonic clock.

    tokens: new ones. end: "" while it goes on, OK, or in a few words why it failed. prompt_tokens: as the server counts
    them, once it says so; it counts `all_tokens` of the answer then. said: its own words on a failure.
    """

    key: int
    at: float
    tokens: int = 0
    end: str = ""
    prompt_tokens: int | None = None
    all_tokens: int | None = None
    said: str = ""


class Door(Protocol):
    """Sends requests and tells what came of them, without ever waiting for one."""

    def send(self, key: int, prompt: str, asked: Asked) -> None:
        """Asks. Raises AddressError where nobody listens."""

    def arrived(self, seconds: float) -> Iterator[Came]:
        """Waits so long for something to come, and tells all that has."""

    def close(self) -> None:
        """Hangs up."""

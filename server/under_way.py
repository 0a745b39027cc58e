"""Requests that are under way, by caller and id, so that whoever runs the server can end one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..models.errors import Aborted, AlreadyExists, MoesaicError

Ending = Callable[[MoesaicError], None]


class UnderWay:
    """One request, from its arrival until its owner lets it go."""

    def __init__(self) -> None:
        self._endings: list[Ending] = []
        self._error: Aborted | None = None

    def abort(self) -> None:
        """Ends what it has in engines, and what it would still hand to one."""
        self._error = Aborted("whoever runs this server has ended the request")
        for end in self._endings:
            end(self._error)

    @contextmanager
    def ended_by(self, end: Ending) -> Iterator[None]:
        """Has an abort call `end` while the block runs. Raises Aborted after one."""
        if self._error is not None:
            raise self._error
        self._endings.append(end)
        try:
            yield
        finally:
            self._endings.remove(end)


class AllUnderWay:
    """All of a server. Ids are a caller's own: those of two callers may be equal."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], UnderWay] = {}

    def __len__(self) -> int:
        return len(self._known)

    @contextmanager
    def one(self, caller: str, request_id: str) -> Iterator[UnderWay]:
        """A request while the block runs. Raises AlreadyExists for the id of another one of the same caller."""
        if (caller, request_id) in self._known:
            raise AlreadyExists(f"a request of id {ascii(request_id[:64])} is still running; give this one another id")
        self._known[caller, request_id] = under_way = UnderWay()
        try:
            yield under_way
        finally:
            del self._known[caller, request_id]

    def abort(self, request_id: str, caller: str = "") -> int:
        """Ends the requests of this id, of one caller where it is named; how many there were."""
        meant = [each for key, each in self._known.items() if key[1] == request_id and caller in ("", key[0])]
        for each in meant:
            each.abort()
        return len(meant)

"""A folder of model directories, where somebody asked for it: what appears there is served, what goes is unloaded."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from ..models.errors import AlreadyExists, MoesaicError, NotFound, Overloaded, Unavailable
from .fleet import Fleet

LOOK_SECONDS = 1.0
_CONFIG = "config.json"
_MOST_CHARACTERS = 500  # of what is told

_log = logging.getLogger(__name__)
State = tuple[tuple[str, int, int, int], ...]  # of each file its path, size, time and number


class Watched:
    """Looks again and again. A directory is loaded when it is the same at two looks, and anew when it is another.

    Whoever writes one slowly writes it beside and renames it, or under a name with a dot in front. One that cannot be
    loaded is said once, and tried again when it changes; one that finds no room, or whose name is taken, again and
    again. on_change: called when the health may be another.
    """

    def __init__(self, folder: Path, fleet: Fleet, on_change: Callable[[], None]) -> None:
        self._folder, self._fleet, self._on_change = folder, fleet, on_change
        self._seen: Mapping[str, State] = {}
        self._served: dict[str, State] = {}  # by us, also where somebody has unloaded them since
        self._refused: dict[str, State] = {}  # what there is no use in trying again
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Goes on until it is cancelled, and with it what it does."""
        try:
            while True:
                found = await asyncio.to_thread(directories, self._folder)
                if found is not None:
                    self.look(found)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._under_way.values():
                task.cancel()

    def look(self, found: Mapping[str, State]) -> None:
        """Begins what is to be done where these are the directories now."""
        seen, self._seen = self._seen, found
        for name in {*found, *self._served, *self._fleet.catalog.problems} - self._under_way.keys():
            if name not in found:
                self._do(name, self._gone(name))
            elif (
                found[name]
                and found[name] == seen.get(name)
                and found[name] not in (self._served.get(name), self._refused.get(name))
            ):
                self._do(name, self._came(name, found[name]))

    def _do(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._under_way[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._under_way.pop(name))

    async def _gone(self, name: str) -> None:
        self._refused.pop(name, None)
        self._say(name, "")
        if self._served.pop(name, None) is not None:
            await self._unload(name)

    async def _came(self, name: str, state: State) -> None:
        if self._served.pop(name, None) is not None:
            await self._unload(name)
        try:
            await self._fleet.load(name, str(self._folder / name))
        except Unavailable:  # the server ends
            return
        except MoesaicError as error:
            if not isinstance(error, Overloaded | AlreadyExists):
                self._refused[name] = state
            self._say(name, str(error).replace(str(self._folder / name), name)[:_MOST_CHARACTERS])
            return
        self._served[name] = state
        self._say(name, "")
        _log.warning("model %s: loaded, since it appeared in %s", name, self._folder)

    async def _unload(self, name: str) -> None:
        try:
            await self._fleet.unload(name)
            _log.warning("model %s: unloaded, since it is gone from %s or is another there", name, self._folder)
        except (NotFound, Unavailable):  # somebody was faster
            pass

    def _say(self, name: str, problem: str) -> None:
        """To the log, and to whoever asks for models and their health; the same thing once."""
        problems = self._fleet.catalog.problems
        if problem == problems.get(name, ""):
            return
        if problem:
            problems[name] = problem
            _log.error("model %s is not served: %s", name, problem)
        else:
            del problems[name]
        self._on_change()


def directories(folder: Path) -> dict[str, State] | None:
    """The model directories of a folder by their names, as they are now. None where it cannot be read, as when its disk
    is away: nothing is known then, and nothing is unloaded for it.
    """
    try:
        return {
            each.name: _state(each) for each in folder.iterdir() if each.name[0] != "." and (each / _CONFIG).is_file()
        }
    except OSError:
        return None


def _state(folder: Path) -> State:
    """What differs once a file of it does; nothing where one goes away just now."""
    try:
        found = [(file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    except OSError:
        return ()
    return tuple((str(file.relative_to(folder)), at.st_size, at.st_mtime_ns, at.st_ino) for file, at in found)

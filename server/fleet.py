"""Models that come and go while a server runs, within a budget of memory."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..engine.options import EngineOptions
from ..models.errors import AlreadyExists, InvalidRequest, Overloaded, SetupError, Unavailable, Unsupported, Violation
from ..models.locate import locate
from .catalog import Catalog, ServedModel, draining
from .memory import expected_bytes

MAX_NAME_CHARACTERS = 64
_NAME = re.compile(rf"[!-<>-~]{{1,{MAX_NAME_CHARACTERS}}}")  # without "=", which a command line has behind a name


class Fleet:
    """Loads models into a catalog and takes them out of it.

    budget: bytes for all models. make: a served model of a name and a path, whose engine is not started yet.
    on_change: called when the health may be another. drain_seconds: for the requests of one that goes, where nothing
    else is said.
    """

    def __init__(
        self, catalog: Catalog, make: Callable[[str, str], ServedModel], engine: EngineOptions, budget: int,
        on_change: Callable[[], None], drain_seconds: float,
    ) -> None:  # fmt: skip
        self.catalog, self.budget, self._drain_seconds = catalog, budget, drain_seconds
        self._make, self._engine, self._on_change = make, engine, on_change
        self._coming: dict[str, int] = {}  # expected bytes of models that are being read
        self._going: dict[str, asyncio.Task[int]] = {}
        self.gone: dict[str, str] = {}  # paths of models that were unloaded

    async def load(self, name: str, path: str) -> ServedModel:
        """Returns when the model serves; it is as if it had never been where that fails or is cancelled.

        Raises InvalidRequest for a name or path that is none, AlreadyExists, Overloaded where there is no room for it,
        Unsupported where its engine cannot be started.
        """
        self._check_name(name)
        try:
            folder = await asyncio.to_thread(locate, path)
            needed = await asyncio.to_thread(expected_bytes, folder, self._engine)
        except SetupError as error:
            raise InvalidRequest([Violation("path", f"is no model that can be loaded: {error}")]) from None
        self._check_name(name)  # nobody may have been faster
        self._check_room(name, needed)
        self._coming[name] = needed
        try:
            return await self._started(name, folder)
        except SetupError as error:
            raise Unsupported(f"model {name} cannot be loaded: {error}") from None
        finally:
            del self._coming[name]

    async def unload(self, name: str, seconds: float | None = None) -> int:
        """Lets a model's requests run on for a while, then takes it away; how many had to be ended.

        Goes on when this is cancelled. Raises NotFound, Unavailable for a model that is on its way in or out.
        """
        if not name:
            raise InvalidRequest([Violation("name", "is empty; name the model that is to be unloaded")])
        model = self.catalog.find(name, "name")
        if name in self._coming or model.leaving:
            raise Unavailable(f"model {name} is being {'un' if model.leaving else ''}loaded", "MODEL_BUSY", 1.0)
        model.leaving, model.counts = True, False
        self._on_change()
        going = asyncio.create_task(self._take_away(model, self._drain_seconds if seconds is None else seconds))
        self._going[name] = going
        return await asyncio.shield(going)

    async def end(self) -> None:
        """Waits for no request any more."""
        going = [*self._going.values()]
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def memory_of(self, model: ServedModel) -> int:
        """Bytes of its weights, and of its keys and values; as expected while it has not said so itself."""
        about = model.engine.description
        return about.weight_bytes + about.kv_bytes if about is not None else self._coming.get(model.name, 0)

    async def _started(self, name: str, folder: Path) -> ServedModel:
        model = await asyncio.to_thread(self._make, name, str(folder))
        model.counts = False
        self.catalog.models[name] = model
        self._on_change()
        try:
            await model.engine.start()
        except BaseException:
            del self.catalog.models[name]
            await model.stop()
            raise
        finally:
            self._on_change()
        model.counts = True
        self.gone.pop(name, None)
        return model

    async def _take_away(self, model: ServedModel, seconds: float) -> int:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await model.unused.wait()
        finally:
            ended = model.num_users
            model.engine.refuse(model.unloaded())
            await model.stop()
            del self.catalog.models[model.name], self._going[model.name]
            self.gone[model.name] = model.path
            self._on_change()
        return ended

    def _check_name(self, name: str) -> None:
        if self.catalog.draining:
            raise draining()
        if not _NAME.fullmatch(name):
            rule = f"it must be 1 to {MAX_NAME_CHARACTERS} printable ASCII characters without spaces and '='"
            raise InvalidRequest([Violation("name", f"has {len(name)} characters; {rule}")])
        if name in self.catalog.models or name in self._coming:
            raise AlreadyExists(f"a model of the name {name} is served here, or on its way", "MODEL_EXISTS")

    def _check_room(self, name: str, needed: int) -> None:
        others = (self.memory_of(model) for key, model in self.catalog.models.items() if key not in self._coming)
        free = self.budget - sum(others) - sum(self._coming.values())
        if needed > free:
            text = (
                f"model {name} needs {needed:,} bytes, and of the memory budget of {self.budget:,} bytes "
                f"{max(free, 0):,} are free; unload another model, or start the server with a larger --memory-budget"
            )
            raise Overloaded(text, "MEMORY_BUDGET", 60.0)

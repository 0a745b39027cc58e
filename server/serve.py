"""The life of a server: bind, load, serve, drain, end."""

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from ..models.errors import SetupError
from ..models.host_memory import keep_little_memory
from .admin import Life
from .announced import announce_serving, announce_start
from .catalog import Catalog, draining
from .config import Configuration
from .engine_process import WORKER
from .health import HealthReporter
from .logs import logs
from .loop import ServingLoop, set_aside_what_is_there
from .options import ServeOptions, check
from .parts import open_parts
from .reloaded import look_after

LAST_WORDS_SECONDS = 0.5  # for statuses on their way out


def _complain(sentence: str) -> None:
    sys.stderr.write(f"moesaic: error: {sentence}\n")


def serve(
    options: ServeOptions,
    worker: Sequence[str] = WORKER,
    complain: Callable[[str], None] = _complain,
    origins: Mapping[str, str] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code.

    0 after a drain; 2 when the server cannot start, with one sentence for `complain`. `worker` is the command of an
    engine process. origins: of settings that are no defaults, where each comes from.
    """
    keep_little_memory()
    try:
        check(options)
        with logs():
            with asyncio.Runner(loop_factory=ServingLoop) as runner:
                runner.run(_serve(Configuration(options, origins or {}), worker))
        return 0
    except SetupError as error:
        complain(str(error))
        return 2


async def _serve(configuration: Configuration, worker: Sequence[str]) -> None:
    life = _life(configuration.options)
    parts = open_parts(configuration, life, worker)
    await parts.start()
    announce_start(configuration, parts)
    beside = [asyncio.create_task(parts.health.run())]
    end_looking = look_after(parts.security.reloaded)
    try:
        if not await _load(parts.catalog, life.stop):
            return
        set_aside_what_is_there()
        parts.health.report()
        announce_serving(parts.catalog, parts.ports)
        if parts.watched is not None:
            beside.append(asyncio.create_task(parts.watched.run()))
        await _first(*beside, life.stop.wait())
        for task in beside:
            if task.done():
                task.result()
        await _drain(parts.catalog, parts.health, life)
    finally:
        life.over.set()
        for task in beside:
            task.cancel()
        end_looking()
        await parts.end(LAST_WORDS_SECONDS)


def _life(options: ServeOptions) -> Life:
    """One that a signal ends, and a second one at once."""
    life = Life(options.drain_seconds)

    def asked() -> None:
        (life.now if life.stop.is_set() else life.stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    return life


async def _load(catalog: Catalog, stop: asyncio.Event) -> bool:
    """Starts every engine; False when the server was asked to end first. Raises SetupError."""
    loading = asyncio.gather(*(model.engine.start() for model in catalog.models.values()))
    await _first(loading, stop.wait())
    if loading.done():
        loading.result()
        return not stop.is_set()
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    return False


async def _drain(catalog: Catalog, health: HealthReporter, life: Life) -> None:
    """Refuses what is new, lets what runs go on for a while, then ends it with a status that says why."""
    catalog.draining = True
    health.report()
    await _first(catalog.idle.wait(), life.now.wait(), asyncio.sleep(life.drain_seconds))
    life.num_left = len(catalog.requests)
    life.over.set()
    for model in catalog.models.values():
        model.engine.refuse(draining())


async def _first(*awaitables: object) -> None:
    """Returns when one of them is done; coroutines that are not are cancelled."""
    own = [asyncio.ensure_future(item) for item in awaitables if asyncio.iscoroutine(item)]
    given = [item for item in awaitables if isinstance(item, asyncio.Future)]
    try:
        await asyncio.wait((*own, *given), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in own:
            task.cancel()

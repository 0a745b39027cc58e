"""Fewer threads while other programs want the processors, all of them again when they are quiet.

The threads of a step wait for each other many times a layer, so one that is put off its processor holds up all the
others: on a machine with as many busy programs as processors, two threads can be ten times slower than one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CROWDED, _CALM = 0.12, 0.05  # parts of a step that its thread was kept off its processor
_WATCHED_SECONDS = 0.03  # of steps, before they are judged
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 16.0
_LOAD_FILE, _OWN_THREADS = Path("/proc/loadavg"), Path("/proc/self/task")


class ThreadGovernor:
    """Sets the number of threads from how long the calling thread is kept off its processor during steps.

    The number is halved when that is more than an eighth of the time. It is doubled again, up to `most`, after a
    pause of calm, unless the machine is `crowded`; a try that fails makes the next pause twice as long. `wall` and
    `own` are clocks in seconds: of the day, and of the processor time that the calling thread has had.
    """

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], None],
        crowded: Callable[[int], bool],
        wall: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] = time.thread_time,
    ) -> None:
        self._most, self._set_threads, self._crowded = most, set_threads, crowded
        self._wall, self._own = wall, own
        self._watched = self._away = 0.0  # seconds of steps since the last judgement, and those without a processor
        self._pause, self._raise_at = _FIRST_PAUSE_SECONDS, 0.0
        self.count = 1 if crowded(most) else most
        set_threads(self.count)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watches one step, which must not wait for anything but its own threads."""
        wall, own = self._wall(), self._own()
        yield
        took = self._wall() - wall
        self._watched += took
        self._away += max(0.0, took - (self._own() - own))
        if self._watched >= _WATCHED_SECONDS:
            self._judge(self._away / self._watched, self._wall())
            self._watched = self._away = 0.0

    def _judge(self, away: float, now: float) -> None:
        if away > _CROWDED and self.count > 1:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            self._become(self.count // 2, now)
        elif away > _CALM:
            self._raise_at = now + self._pause
        elif now >= self._raise_at and self.count < self._most:
            more = min(2 * self.count, self._most)
            self._become(self.count if self._crowded(more) else more, now)
        elif now >= self._raise_at + _LONGEST_PAUSE_SECONDS:
            self._pause = _FIRST_PAUSE_SECONDS

    def _become(self, count: int, now: float) -> None:
        self.count, self._raise_at = count, now + self._pause
        self._set_threads(count)


def is_crowded(threads: int, processors: int, load_file: Path = _LOAD_FILE, own: Path = _OWN_THREADS) -> bool:
    """Whether so many threads beside what others run now are more than there are processors.

    False where the system does not say how many run.
    """
    try:
        running = int(load_file.read_text().split()[3].partition("/")[0])
        ours = sum(_runs(file) for file in own.glob("*/stat"))
    except (OSError, IndexError, ValueError):
        return False
    return running - ours + threads > processors


def _runs(file: Path) -> bool:
    """Whether this thread runs, by its line in /proc: its state stands behind the name in brackets."""
    try:
        return file.read_text().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):  # it has ended meanwhile
        return False

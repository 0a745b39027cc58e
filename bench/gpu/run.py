"""The driver of bench/gpu.sh: each section a process of its own, with a limit of its own, and what it left in a file.

    python -m moesaic.bench.gpu.run OUT [--dry] [--seconds N]

A section that fails, crashes or overruns loses no row that it had and stops no other. OUT holds at the end a JSON file
a section, log.txt and summary.txt: no more than 8 files, whatever happens.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...models.errors import SetupError
from ...models.files import write_whole
from .rows import figures, read_rows
from .summary import summary

SECONDS = 540.0  # of all sections together
MAX_FILES, MAX_LOG_BYTES = 8, 2 << 20  # of a section, in the common log
TAIL = 4000  # characters of a log that go into the JSON of a section that failed
HOME = "moesaic.bench.gpu"
_DRY = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # a second thread waits for the contestant that begins next


@dataclass(frozen=True)
class Section:
    """command: given `--rows FILE --seconds N`, and `--dry`; it leaves its rows in FILE, a line each."""

    name: str
    seconds: float
    command: tuple[str, ...]


def _module(name: str, seconds: float) -> Section:
    return Section(name, seconds, (sys.executable, "-m", f"{HOME}.{name}"))


SECTIONS = (
    _module("device", 40),
    _module("constants", 45),
    _module("checks", 130),
    _module("kernels", 220),
    _module("end_to_end", 65),
    _module("streams", 35),
)  # in the order of worth; together no more than SECONDS


def run_sections(sections: Sequence[Section], out: Path, seconds: float, dry: bool) -> bool:
    """Runs all of them in order, each as long as it may and as is left. True if all ended well and left a figure."""
    if len(sections) + 2 > MAX_FILES:
        raise ValueError(f"{len(sections)} sections, a log and a summary are more than {MAX_FILES} files")
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return _run_all(sections, out, seconds, dry)


def _run_all(sections: Sequence[Section], out: Path, seconds: float, dry: bool) -> bool:
    _clear(out)
    deadline, reports = time.monotonic() + seconds, []
    for number, section in enumerate(sections, 1):
        report = _run(number, section, out, min(section.seconds, deadline - time.monotonic()), dry)
        reports.append(report)
        sys.stdout.write(f"{number} {_told(report)}\n")
        sys.stdout.flush()
    shown = summary(reports)
    write_whole(out / "summary.txt", shown.encode())
    sys.stdout.write("\n" + shown)
    return all(report["state"] == "done" for report in reports)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raises SetupError where another run writes there: rows of two would mix. The lock is the folder's own."""
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SetupError(f"another run writes into {out}; wait for it, or name another folder") from None
    finally:
        os.close(folder)


def _clear(out: Path) -> None:
    """Removes what a run before left there, and nothing else."""
    for pattern in ("[1-8]-*.json", "[1-8]-*.jsonl", "log.txt", "summary.txt"):
        for file in out.glob(pattern):
            file.unlink()


def _run(number: int, section: Section, out: Path, seconds: float, dry: bool) -> dict[str, Any]:
    rows, target = out / f"{number}-{section.name}.jsonl", out / f"{number}-{section.name}.json"
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        state, status = "not begun: no time was left", None
        if seconds > 0:
            command = [*section.command, "--rows", str(rows), "--seconds", str(seconds), *(["--dry"] if dry else [])]
            state, status = _ended(command, seconds, log, {**os.environ, **(_DRY if dry else {})})
        text = _tail(log, MAX_LOG_BYTES)
    found = read_rows(rows)
    if state == "done" and not figures(found):
        state = "failed: it left no figure"
    report = {
        "section": section.name, "state": state, "status": status, "seconds": round(time.monotonic() - began, 1),
        "limit_seconds": round(seconds, 1), "dry": dry, "rows": found,
        **({} if state == "done" else {"log_tail": text[-TAIL:]}),
    }  # fmt: skip
    write_whole(target, json.dumps(report, default=str).encode() + b"\n")
    rows.unlink(missing_ok=True)
    with (out / "log.txt").open("a") as whole:
        whole.write(f"==== {section.name}: {state}, {report['seconds']} s\n{text}\n")
    return report


def _ended(
    command: Sequence[str], seconds: float, log: IO[bytes], environment: Mapping[str, str]
) -> tuple[str, int | None]:
    """(how it ended, its status), with every process of its group gone."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
    )
    try:
        status = process.wait(seconds)
        return ("failed" if status else "done"), status
    except subprocess.TimeoutExpired:
        return f"failed: ended by its limit of {seconds:.0f} s", None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _tail(log: IO[bytes], most: int) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - most))
    return log.read().decode(errors="replace")


def _told(report: dict[str, Any]) -> str:
    """A line on standard output."""
    bad = [row for row in report["rows"] if "failed" in row]
    line = f"{report['section']}: {report['state']}, {report['seconds']:.0f} s, {len(figures(report['rows']))} rows"
    if not bad:
        return line
    what = ", ".join(str(value) for key, value in bad[0].items() if key not in ("failed", "traceback"))
    return f"{line}; {len(bad)} failed, first {what}: {str(bad[0]['failed'])[:200]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description="Everything that is measured on a GPU.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true", help="all of it on a CPU, at toy sizes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in all (default: %(default)s)")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _ended_from_outside)
    try:
        return 0 if run_sections(SECTIONS, args.out, args.seconds, args.dry) else 1
    except SetupError as error:
        parser.error(str(error))


def _ended_from_outside(number: int, _: Any) -> None:
    """An exception, so that the section under way, which has a session of its own, ends with us."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

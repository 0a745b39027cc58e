"""Whether a slow-down of a tenth in a kernel is found, and two runs of the same thing are not told apart.

    python -m moesaic.bench.ops.planted planted.json

The C++ is compiled once more with a loop of cpp/linear.cpp that does a tenth of its rows twice: the same results, a
tenth more work. int8_linear is measured three times, as `moesaic bench ops` does it: as it is, again, and as planted.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...evaluate.provenance import command_line, provenance
from ...kernels import native
from ...models.errors import SetupError
from ..planted import compared_with, say, say_of_the_same, status
from ..resumed import write_report
from .run import OpsPlan, run_ops

SOUND, SLOWER = "{ rows(job, begin, end); }", "{ rows(job, begin, end); rows(job, begin, begin + (end - begin) / 10); }"
OPERATION = "int8_linear"
LEAST = 0.03  # as `moesaic bench compare` has it


def plant(folder: Path) -> Path:
    """A copy of the C++ below `folder`, planted. Raises SetupError where the loop is another one by now."""
    planted = Path(shutil.copytree(native.SOURCES, folder / "cpp"))
    source = planted / "linear.cpp"
    text = source.read_text()
    if text.count(SOUND) != 1:
        raise SetupError(f"{source.name} has no loop {SOUND} any more; say in bench/ops/planted.py what it is now")
    source.write_text(text.replace(SOUND, SLOWER))
    return planted


def measured(sittings: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Three runs, and what comparing the first with each other says."""
    reports = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {"first": native.SOURCES, "again": native.SOURCES, "planted": plant(folder)}
        for name, path in sources.items():
            say(name)
            plan = OpsPlan(folder / f"{name}.json", sittings, only=(OPERATION,), options=("--sources", str(path)))
            reports[name] = run_ops(plan, dict, lambda what, done, total: None)
    found = compared_with(reports["first"], reports["again"], reports["planted"], LEAST)
    return found | {"runs": {name: report["ops"] for name, report in reports.items()}}


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 where the slow-down is not found, or two runs are told apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="a JSON file")
    parser.add_argument("--sittings", type=int, default=5, metavar="N")
    args = parser.parse_args(words)
    found = measured(args.sittings, say)
    report = {"command": command_line(args.out), "machine": provenance(), "slower": 0.1, **found}
    if args.out:
        write_report(args.out, report)
    say_of_the_same(report)
    say(f"a tenth more work: {len(report['planted']['worse'])} of {report['planted']['figures']} worse")
    return status(report)


if __name__ == "__main__":
    sys.exit(main())

"""What compression keeps of classification: a classifier learned on a model, beside the same one compressed.

    python -m moesaic.bench.classification minilm reviews.valid.tsv --most 2000 --out bench/results/classification.json

Of each task NAME.valid.tsv, NAME.train.tsv beside it is what the classifier learns from, once, on the model as it is.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..compress.classifier import train_classifier
from ..evaluate.measure import measure
from ..evaluate.plan import MODEL, ORIGINAL, Plan
from ..evaluate.provenance import command_line, provenance
from ..evaluate.results import as_json
from ..models.checkpoint import open_checkpoint
from ..models.errors import MoesaicError, TextError
from ..models.files import check_file, write_whole
from .forms import made_forms

KIND = "classification"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the figures and prints a line for each form of each task."""
    parser = argparse.ArgumentParser("moesaic.bench.classification", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("tasks", nargs="+", type=Path, metavar="NAME.valid.tsv")
    parser.add_argument("--most", type=int, default=2000, help="examples that a classifier learns from")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        check_file(args.out, f"--out {args.out}")
        found = [_task(args.model, valid, args.most, args.threads) for valid in args.tasks]
        values = {"kind": KIND, "command": command_line(args.out), "machine": provenance(), "model": args.model}
        write_whole(args.out, (json.dumps(as_json(values | {"tasks": found}), indent=2) + "\n").encode())
    except MoesaicError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _task(model: str, valid: Path, most: int, threads: int | None) -> dict[str, Any]:
    """One task: the classifier as it was learned, and each form of it."""
    train = valid.with_name(valid.name.replace(".valid.tsv", ".train.tsv"))
    if train == valid:
        raise TextError(f"{valid} is not named NAME.valid.tsv, so that there is no NAME.train.tsv to learn from")
    with tempfile.TemporaryDirectory() as scratch:
        learned = Path(scratch) / "learned"
        made = train_classifier(model, train, learned, most, threads=threads)
        forms = list(_forms(learned, Path(scratch), valid, threads))
    return {"name": valid.name.removesuffix(".valid.tsv"), "learned_from": made.counts, "learned_right": made.right,
            "forms": forms}  # fmt: skip


def _forms(learned: Path, scratch: Path, valid: Path, threads: int | None) -> Iterator[dict[str, Any]]:
    for form in made_forms(learned, scratch):
        if form.not_here:
            sys.stdout.write(f"{valid.name}, {form.name}: not here, {form.not_here}\n")
            yield {"name": form.name, "not_here": form.not_here}
            continue
        [task] = measure(Plan(form.path, learned, tasks=[valid], threads=threads, tier=form.tier)).tasks
        ours, theirs, held = task.scores[MODEL], task.scores[ORIGINAL], task.comparison
        found = {
            "name": form.name, "recipe": form.recipe, "tier": form.tier, "examples": ours.num_items,
            "chance": ours.chance, "original": theirs.score(), "right": ours.score(),
            "same_answers": ours.agreement(theirs), "bytes": open_checkpoint(form.path).weight_bytes,
            "original_bytes": open_checkpoint(learned).weight_bytes,
        }  # fmt: skip
        found |= {"kept": held.ratio, "kept_interval": asdict(held.ratio_interval)} if held else {}
        sys.stdout.write(f"{valid.name}, {form.name}: {found['right']:.2%} of {found['original']:.2%}\n")
        sys.stdout.flush()
        yield found


if __name__ == "__main__":
    sys.exit(main())

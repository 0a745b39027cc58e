"""What compression keeps of the headings that an encoder-decoder gives to paragraphs whose own ones are known.

    python -m moesaic.bench.headings t5 valid.txt --calibration-text train.txt.xz --out t5-headings.json

A pair is a paragraph of at least 50 words and the short line above it. A model answers greedily, and BLEU and chrF are
of that against the line, and against what the model answers as it came; perplexity and accuracy are of the line itself.
Needs sacrebleu (extra `eval`).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..evaluate.pairs import Pair, PairScore, compare_pairs, read_pairs, score_pairs, start_of, with_quality
from ..evaluate.provenance import command_line, provenance
from ..evaluate.quality import BLEU, CHRF, Quality
from ..evaluate.results import as_json, comparison_json
from ..evaluate.texts import read_documents
from ..models.checkpoint import Checkpoint, load_transformer, open_checkpoint
from ..models.errors import MoesaicError, SetupError, TextError
from ..models.extras import NO_BLEU, can_measure_bleu
from ..models.files import check_file, write_whole
from ..models.spec import FULL
from ..models.threads import choose_threads, torch_threads
from ..models.tokenizer import Tokenizer
from .forms import MadeForm, made_forms

KIND = "headings"
LEAST_WORDS = 50  # of a paragraph
MOST_WORDS = 9  # of a heading
_CALIBRATION = {"sequences": 64, "length": 128}
_SHOWN = 8  # answers, in the file


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the figures and prints a line for each form."""
    parser = argparse.ArgumentParser("moesaic.bench.headings", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text", nargs="+", type=Path)
    parser.add_argument("--calibration-text", nargs="+", required=True, help="of the same kind, not the same")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        check_file(args.out, f"--out {args.out}")
        values = _measured(args.model, args.text, args.calibration_text, args.threads)
        values = {
            "kind": KIND,
            "command": command_line(args.out),
            "machine": provenance(),
            "model": args.model,
        } | values
        write_whole(args.out, (json.dumps(as_json(values), indent=2) + "\n").encode())
    except MoesaicError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def headed(document: str) -> Iterator[dict[str, str]]:
    """Each paragraph below a heading, and the heading."""
    lines = [line.strip() for line in document.split("\n") if line.strip()]
    for above, below in pairwise(lines):
        is_heading = 2 <= len(above.split()) <= MOST_WORDS and above[0].isupper() and above[-1].isalnum()
        if is_heading and len(below.split()) >= LEAST_WORDS:
            yield {"source": below, "target": above}


def _measured(model: str, text: Sequence[Path], calibration: Sequence[str], threads: int | None) -> dict[str, Any]:
    """Each form beside the model as it came, on the same pairs."""
    if not can_measure_bleu():
        raise SetupError(NO_BLEU)
    source = open_checkpoint(model)
    if not source.spec.reads_sources:
        raise SetupError(f"{model} answers no sources; name an encoder-decoder, such as t5")
    with tempfile.TemporaryDirectory() as scratch, torch_threads(choose_threads(threads, source.weight_bytes)):
        pairs = _pairs(text, Path(scratch), source)
        original = _scored(source, FULL, pairs)
        _say("as it came", original)
        forms = [
            _form(form, pairs, original)
            for form in made_forms(model, Path(scratch), {**_CALIBRATION, "text": list(calibration)})
        ]
    told = {"text": [file.name for file in text], "pairs": len(pairs), "original": _values(original, source)}
    return {**told, "forms": forms, "counted_by": dict(original.quality.signatures) if original.quality else {}}


def _pairs(text: Sequence[Path], scratch: Path, source: Checkpoint) -> list[Pair]:
    found = [pair for document in read_documents(text) for pair in headed(document)]
    if len(found) < 2:
        raise TextError(f"{', '.join(map(str, text))}: fewer than 2 paragraphs of {LEAST_WORDS} words have a heading")
    file = scratch / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
    most = ((source.spec.encoder or source.spec).max_context, source.spec.max_context)
    return read_pairs([file], Tokenizer.open(source.path), None, most)


def _form(form: MadeForm, pairs: Sequence[Pair], original: PairScore) -> dict[str, Any]:
    if form.not_here:
        sys.stdout.write(f"{form.name}: not here, {form.not_here}\n")
        return {"name": form.name, "not_here": form.not_here}
    made = open_checkpoint(form.path)
    score = _scored(made, form.tier, pairs)
    _say(form.name, score)
    compared = {name: comparison_json(each) for name, each in compare_pairs(score, original).items()}
    same = sum(ours == theirs for ours, theirs in zip(score.answers, original.answers, strict=True)) / len(pairs)
    near = Quality.of(score.answers, original.answers).summary()
    told = {"name": form.name, "recipe": form.recipe, "tier": form.tier, "same_answers": same, "near_original": near}
    return {**told, **_values(score, made), "against_original": compared}


def _scored(checkpoint: Checkpoint, tier: str, pairs: Sequence[Pair]) -> PairScore:
    model = load_transformer(checkpoint, torch.device("cpu"))
    model.operating_point = checkpoint.operating_point(tier)
    found = score_pairs(model, pairs, start_of(checkpoint), _unsaid)
    return with_quality(found, checkpoint, model, pairs, _unsaid)


def _values(score: PairScore, checkpoint: Checkpoint) -> dict[str, Any]:
    return {**score.summary(), "bytes": checkpoint.weight_bytes, "answers": score.answers[:_SHOWN]}


def _say(name: str, score: PairScore) -> None:
    found = score.summary()
    sys.stdout.write(f"{name}: BLEU {found[BLEU]:.2f}, chrF {found[CHRF]:.2f}, perplexity {found['perplexity']:.3f}\n")
    sys.stdout.flush()


def _unsaid(done: int, total: int) -> None:
    """Forms are told one by one, answers are not."""


if __name__ == "__main__":
    sys.exit(main())

"""What a model makes of answers that are there, each to a source that its encoder reads: nats, accuracy, exact matches.

An answer matches exactly where each of its tokens, its end among them, is the likeliest one behind those before it:
where greedy decoding would give it. What it answers itself is set beside the text of the target: `with_quality`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.nn import functional

from ..engine.engine import Engine
from ..engine.own_rules import OwnRules
from ..engine.request import Request, Stopping
from ..engine.runner import ModelRunner
from ..engine.sampling import Sampling
from ..models.checkpoint import Checkpoint
from ..models.errors import TextError
from ..models.progress import Count
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .compare import PERPLEXITY, TOP1
from .quality import Quality, compare_quality
from .statistics import Comparison, compare_means, compare_perplexities
from .texts import JSON_LINES, kind_of, read_text

EXACT = "exact_match"
_ROWS = 8  # answered together


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of a source and of its answer; the end is among them where the answer has one. target: its text."""

    source: tuple[int, ...]
    answer: tuple[int, ...]
    target: str = ""


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """Sums over the tokens of one answer; exact: whether it matches."""

    tokens: int
    nats: float
    correct: int
    exact: bool


@dataclass(frozen=True, slots=True)
class PairScore:
    """What a model makes of each answer. shares: of the bytes that tiers govern and of the FFN's neurons, what a token
    of an answer used; sources are read in full. answers: texts of its own, where it was let answer, and their quality.
    """

    rows: tuple[AnswerScore, ...]
    shares: tuple[float, float] = (1.0, 1.0)
    answers: tuple[str, ...] = ()
    quality: Quality | None = field(default=None, compare=False)

    def summary(self) -> dict[str, float | int]:
        """The figures as they are written to files."""
        tokens, count = sum(self.column("tokens")), len(self.rows)
        nats = sum(self.column("nats")) / tokens
        found: dict[str, float | int] = {
            "documents": count, "tokens": int(tokens), "nats_per_token": nats,
            "perplexity": math.exp(min(nats, 700)), "top1_accuracy": sum(self.column("correct")) / tokens,
            "exact_match": sum(self.column("exact")) / count,
        }  # fmt: skip
        if self.shares != (1.0, 1.0):
            found["bytes_share"], found["neurons_share"] = self.shares
        return found | (self.quality.summary() if self.quality else {})

    def column(self, name: str) -> list[float]:
        """One figure of each answer."""
        return [float(getattr(row, name)) for row in self.rows]


def compare_pairs(ours: PairScore, theirs: PairScore, seed: int = 0) -> dict[str, Comparison]:
    """Paired bootstrap over the answers; nothing for a single one."""
    if len(ours.rows) < 2:
        return {}
    tokens = ours.column("tokens")
    of_texts = compare_quality(ours.quality, theirs.quality, seed) if ours.quality and theirs.quality else {}
    return {
        PERPLEXITY: compare_perplexities(ours.column("nats"), theirs.column("nats"), tokens, seed=seed),
        TOP1: compare_means(ours.column("correct"), theirs.column("correct"), tokens, seed=seed),
        EXACT: compare_means(ours.column("exact"), theirs.column("exact"), seed=seed),
    } | of_texts


def read_pairs(
    files: Sequence[str | Path],
    tokenizer: Tokenizer,
    limit: int | None,
    most: tuple[int, int],
    ended: bool = True,
) -> list[Pair]:
    """The pairs of files with an object a line, {"source": text, "target": text}; at most `limit`. most: tokens of a
    source, and of an answer, behind which they are cut. ended: whether answers have the model's end behind them.

    Raises TextError for a line that is no pair, or where none is.
    """
    texts = [pair for file in files for pair in _pairs(Path(file))][:limit]
    if not texts:
        raise TextError(f"there is no pair in {', '.join(map(str, files))}; give lines with a source and a target")
    end = tokenizer.eos_ids[:1] if ended else ()
    return [
        Pair(
            _cut(tokenizer.encode(source), source, most[0], ()),
            _cut(tokenizer.encode_target(answer), answer, most[1], end),
            answer,
        )
        for source, answer in texts
    ]


def is_pairs(file: Path) -> bool:
    """Whether a file has an object a line whose first has a source."""
    if kind_of(file) not in JSON_LINES or not file.is_file():
        return False
    first = next((line for line in read_text(file).split("\n") if line.strip()), "")
    try:
        return "source" in json.loads(first)
    except (ValueError, TypeError, RecursionError):
        return False


def start_of(checkpoint: Checkpoint) -> int:
    """The token with which answers of a model begin."""
    return OwnRules.read(checkpoint.path, checkpoint.spec.vocab_size, sourced=True).start_id or 0


def answered(
    checkpoint: Checkpoint,
    model: Transformer,
    sources: Sequence[Sequence[int]],
    num_new: int,
    progress: Count = lambda done, of: None,
) -> list[Pair]:
    """Each source with what the model itself answers, greedy, at its operating point, its end among the tokens."""
    own = OwnRules.read(checkpoint.path, checkpoint.spec.vocab_size, sourced=True)
    end_ids = Tokenizer.open(checkpoint.path).eos_ids
    each = ModelRunner.block_tokens
    longest = max(map(len, sources))
    blocks = _ROWS * (-(-longest // each) + -(-(num_new + 1) // each))
    runner = ModelRunner(model, blocks, min(num_new + 1, model.spec.max_context), model.dtype)
    engine, found, ended = Engine(runner, tuple(end_ids), num_slots=_ROWS, own=own), dict[int, list[int]](), 0
    asked, stopping = Sampling(temperature=0), Stopping(num_new)
    for key, source in enumerate(sources):
        engine.add(Request(key, tuple(source), asked, stopping, operating_point=model.operating_point))
    while engine.has_work:
        for row in engine.step():
            end = [] if row.stop_token_id is None else [row.stop_token_id]
            found.setdefault(row.key, []).extend([*row.token_ids, *end])
            ended += row.finish is not None
            progress(ended, len(sources))
    return [Pair(tuple(source), tuple(found[key])) for key, source in enumerate(sources)]


def with_quality(
    score: PairScore, checkpoint: Checkpoint, model: Transformer, pairs: Sequence[Pair], progress: Count
) -> PairScore:
    """The score with what the model itself answers, of at most twice the tokens of the longest target, and the BLEU and
    chrF of it. Needs sacrebleu.
    """
    most = min(2 * max(len(pair.answer) for pair in pairs), checkpoint.spec.max_context - 1)
    found = answered(checkpoint, model, [pair.source for pair in pairs], most, progress)
    tokenizer = Tokenizer.open(checkpoint.path)
    answers = tuple(tokenizer.decode(pair.answer) for pair in found)
    return replace(score, answers=answers, quality=Quality.of(answers, [pair.target for pair in pairs]))


@torch.inference_mode()
def score_pairs(model: Transformer, pairs: Sequence[Pair], start_id: int, progress: Count) -> PairScore:
    """What the model makes of the answers at its operating point, each by itself."""
    rows, spent = list[AnswerScore](), [0.0, 0.0]
    for i, pair in enumerate(pairs):
        source = model.read(torch.tensor([pair.source], device=model.device))
        ids = torch.tensor([[start_id, *pair.answer[:-1]]], device=model.device)
        compute = model.compute_of([model.operating_point])
        logits = model(ids, context=model.context_of(ids, source=source), compute=compute)[0].float()
        targets = torch.tensor(pair.answer, device=model.device)
        right = int((logits.argmax(-1) == targets).sum())
        nats = float(functional.cross_entropy(logits, targets, reduction="none").double().sum())
        rows.append(AnswerScore(len(targets), nats, right, right == len(targets)))
        ((read, neurons),) = compute.spent.shares(len(targets))
        spent = [spent[0] + read * len(targets), spent[1] + neurons * len(targets)]
        progress(i + 1, len(pairs))
    tokens = sum(row.tokens for row in rows)
    return PairScore(tuple(rows), (spent[0] / tokens, spent[1] / tokens) if model.operating_point else (1.0, 1.0))


def _pairs(file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            source, target = value["source"], value["target"]
            if not isinstance(source, str) or not isinstance(target, str):
                raise TypeError("source and target must be texts")
        except (ValueError, KeyError, TypeError, RecursionError):
            message = f'{file}, line {number} is no pair; it must be an object {{"source": text, "target": text}}'
            raise TextError(message) from None
        yield source, target


def _cut(ids: list[int], text: str, most: int, end: Sequence[int]) -> tuple[int, ...]:
    """The ids of a text with what the tokenizer adds, and the end where that does not add it."""
    whole = [*ids, *(end if ids[-1:] != list(end) else ())]
    if not whole:
        raise TextError(f"{text[:40]!r} has no token; give a longer text")
    return tuple(whole[:most])

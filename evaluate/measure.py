"""Everything `moesaic eval` measures, in one go: texts, tasks, the original beside it, intervals, and what it costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..engine.scoring import Reader
from ..models.checkpoint import dense_dtype
from ..models.progress import Count, Progress
from ..models.threads import torch_threads
from ..models.transformer import Transformer
from .compare import compare_scores
from .corpus import Corpus
from .footprint import Footprint, footprint
from .overlap import measure_overlap
from .plan import MODEL, ORIGINAL, Opened, Plan
from .results import Evaluation, TaskResult, TextResult
from .score import Score, reader_of, score_together
from .statistics import Comparison, compare_means
from .tasks.answer import answer, encode_questions
from .tasks.classify import EncoderReader, HeadRecipe, TextReader, score_head, score_own, train_head
from .tasks.files import read_task
from .tasks.items import Task, TaskScore
from .texts import check_ids, embedded_text, read_documents


def measure(plan: Plan, progress: Progress | None = None) -> Evaluation:
    """Runs a plan. Raises SetupError (TextError, CheckpointError) or Unsupported before any model is loaded."""
    plan.check()
    say = progress or (lambda what, done, total: None)
    opened = Opened(plan)
    corpora = [opened.corpus(Path(file)) for file in _text_files(plan)]
    tasks = [read_task(name, plan.tasks_dir, plan.limit, opened.labels is not None) for name in plan.tasks]
    opened.check_tasks(tasks)
    training = read_documents(plan.training_text) if plan.training_text else []
    with torch_threads(opened.threads):
        models = opened.load()
        texts = [_score_text(corpus, models, opened, say, training) for corpus in corpora]
        results = [_score_task(task, models, opened, say) for task in tasks]
    return Evaluation(plan, tuple(texts), tuple(results), _footprints(opened, texts))


def score_as_one(plan: Plan, progress: Count | None = None) -> Score:
    """The score of the plan's model on all its files as one text. Raises as `measure` does."""
    plan.check()
    opened = Opened(plan)
    corpus = opened.corpus(*map(Path, _text_files(plan)))
    with torch_threads(opened.threads):
        return score_corpus(corpus, opened.load(), opened, progress)[MODEL]


def _text_files(plan: Plan) -> Sequence[str | Path]:
    return plan.text or ([] if plan.tasks else [embedded_text()])


def score_corpus(
    corpus: Corpus,
    models: Mapping[str, Transformer],
    opened: Opened,
    progress: Count | None = None,
) -> dict[str, Score]:
    """The score of each model, each compared with ORIGINAL where it is among them."""
    names = list(models)
    original = names.index(ORIGINAL) if ORIGINAL in models else None
    scores = score_together(list(models.values()), corpus.ids, original, progress, opened.window, opened.plan.stride)
    return {name: corpus.with_sizes(score) for name, score in zip(names, scores, strict=True)}


def _score_text(
    corpus: Corpus, models: Mapping[str, Transformer], opened: Opened, say: Progress, training: Sequence[str]
) -> TextResult:
    scores = score_corpus(corpus, models, opened, lambda n, of: say(f"documents of {corpus.name}", n, of))
    overlap = None
    if training:
        overlap = measure_overlap([opened.tokenizer.decode(ids) for ids in corpus.ids], training)
    over, comparisons = (
        compare_scores(scores[MODEL], scores[ORIGINAL], opened.plan.seed) if ORIGINAL in scores else ("", {})
    )
    return TextResult(corpus.name, scores, over, comparisons, overlap)


def _score_task(task: Task, models: Mapping[str, Transformer], opened: Opened, say: Progress) -> TaskResult:
    scores = score_task(task, models, opened, say)
    held = compare_answers(scores[MODEL], scores[ORIGINAL], opened.plan.seed) if ORIGINAL in scores else None
    return TaskResult(task.name, scores, held)


def score_task(task: Task, models: Mapping[str, Transformer], opened: Opened, say: Progress) -> dict[str, TaskScore]:
    """The score of each model; what needs a head has that of ORIGINAL, where it is among them."""
    return (_classified if task.examples else _answered)(task, models, opened, say)


def compare_answers(ours: TaskScore, theirs: TaskScore, seed: int = 0) -> Comparison | None:
    """Paired bootstrap of the shares of right answers over items; None for a single one."""
    mine, other = (score.correct[score.rule] for score in (ours, theirs))
    return compare_means(mine, other, seed=seed) if len(mine) > 1 else None


def _answered(task: Task, models: Mapping[str, Transformer], opened: Opened, say: Progress) -> dict[str, TaskScore]:
    encoded = encode_questions(task.questions, opened.tokenizer)
    every = [passage.ids for passages in encoded for passage in passages]
    check_ids(every, opened.checkpoint.spec.vocab_size)
    longest = max(map(len, every))
    return {
        name: answer(task, encoded, _reader(model, opened, longest, every[0]), _counter(say, task, name))
        for name, model in models.items()
    }


def _classified(task: Task, models: Mapping[str, Transformer], opened: Opened, say: Progress) -> dict[str, TaskScore]:
    """By the models' own classifiers; else by one head for all, trained on the original where there is one: what it
    still gets right was kept.
    """
    if labels := opened.labels:
        return {
            name: score_own(model, labels.names, opened.text_window, opened.tokenizer, task, _counter(say, task, name))
            for name, model in models.items()
        }
    first = opened.tokenizer.encode(task.examples[0].text)
    readers = {name: _text_reader(model, opened, first) for name, model in models.items()}
    owner = ORIGINAL if ORIGINAL in readers else MODEL
    head = train_head(readers[owner], opened.tokenizer, task, progress=_counter(say, task, f"head on the {owner}"))
    return {
        name: score_head(head, reader, opened.tokenizer, task, progress=_counter(say, task, name))
        for name, reader in readers.items()
    }


def _text_reader(model: Transformer, opened: Opened, ids: Sequence[int]) -> TextReader:
    if not model.spec.continues_text:
        return EncoderReader(model, opened.text_window)
    return _reader(model, opened, HeadRecipe().max_tokens, ids)


def _reader(model: Transformer, opened: Opened, longest: int, ids: Sequence[int]) -> Reader:
    return reader_of(model, min(opened.window, longest), ids)


def _counter(say: Progress, task: Task, name: str) -> Count:
    return lambda done, total: say(f"items of {task.name}, {name}", done, total)


def _footprints(opened: Opened, texts: Sequence[TextResult]) -> dict[str, Footprint]:
    found = {}
    for name, checkpoint in ((MODEL, opened.checkpoint), (ORIGINAL, opened.original)):
        if checkpoint:
            scores = [text.scores[name] for text in texts]
            tokens, seconds = sum(each.total.num_tokens for each in scores), sum(each.seconds for each in scores)
            element = dense_dtype(checkpoint, opened.device, opened.plan.dtype).itemsize
            shares = scores[0].shares if scores else (1.0, 1.0)
            found[name] = footprint(checkpoint.spec, checkpoint.weight_bytes, element, tokens, seconds, shares)
    return found

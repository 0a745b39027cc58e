"""Questions put to a model by the likelihood of their answers."""

from collections.abc import Iterator, Sequence

from ...engine.scoring import Reader
from ...models.progress import Count
from ...models.tokenizer import Tokenizer
from ..likelihood import Passage, PassageScore, encode_pair, grouped, score_passages
from .items import Question, Task, TaskScore

RULES = ("raw", "per_token", "per_byte")


def encode_questions(questions: Sequence[Question], tokenizer: Tokenizer) -> list[list[Passage]]:
    """The passages of each question, one a pair."""
    return [[encode_pair(tokenizer, *pair) for pair in question.pairs] for question in questions]


def answer(
    task: Task, encoded: Sequence[Sequence[Passage]], reader: Reader, progress: Count | None = None
) -> TaskScore:
    """Scores of a task's questions, as `judged` judges them."""
    scored = []
    for row in _scored(encoded, reader):
        scored.append(row)
        if progress:
            progress(len(scored), len(encoded))
    return judged(task, scored)


def judged(task: Task, scored: Sequence[Sequence[PassageScore]]) -> TaskScore:
    """What came of a task whose questions' passages were scored, a row a question, whoever scored them.

    With one pair a question, right is a continuation that is greedy to its end. With more, the likeliest is the answer:
    raw ln p, or divided by its tokens or by its bytes (as acc and acc_norm of lm_eval). Chance is 0 for the one, the
    mean of 1 / pairs for the other.
    """
    choices = any(len(question.pairs) > 1 for question in task.questions)
    nats = tuple(row[question.gold].nats for question, row in zip(task.questions, scored, strict=True))
    if not choices:
        right = tuple(row[0].is_greedy for row in scored)
        return TaskScore(task.name, "greedy", 0.0, {"greedy": tuple(map(int, right))}, {"greedy": right}, nats)
    answers = {
        rule: tuple(_likeliest(question, row, rule) for question, row in zip(task.questions, scored, strict=True))
        for rule in RULES
    }
    gold = [question.gold for question in task.questions]
    correct = {
        rule: tuple(mine == right for mine, right in zip(picked, gold, strict=True)) for rule, picked in answers.items()
    }
    chance = sum(1 / len(question.pairs) for question in task.questions) / len(gold)
    return TaskScore(task.name, "raw", chance, answers, correct, nats)


def _scored(encoded: Sequence[Sequence[Passage]], reader: Reader) -> Iterator[list[PassageScore]]:
    """The scores of each question's passages: choices share a pass, and so do short questions of one passage."""
    if all(len(passages) == 1 for passages in encoded):
        for group in grouped([passages[0] for passages in encoded]):
            yield from ([score] for score in score_passages(reader, group))
    else:
        yield from (score_passages(reader, passages) for passages in encoded)


def _likeliest(question: Question, row: Sequence[PassageScore], rule: str) -> int:
    """The index of the likeliest pair; the first of equals."""
    lengths = {
        "raw": [1] * len(row),
        "per_token": [score.num_tokens for score in row],
        "per_byte": [len(after.strip().encode()) or 1 for _, after in question.pairs],
    }[rule]
    nats = [score.nats / length for score, length in zip(row, lengths, strict=True)]
    return nats.index(min(nats))

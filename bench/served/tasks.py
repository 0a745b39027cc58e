"""Tasks as served: questions put to a server by the likelihood of their answers, judged as `moesaic eval` does."""

from collections.abc import Callable, Sequence
from itertools import groupby

from ...evaluate.likelihood import Passage, PassageScore
from ...evaluate.tasks.answer import encode_questions, judged
from ...evaluate.tasks.files import read_task
from ...evaluate.tasks.items import Task, TaskScore
from ...models.errors import TextError
from ...models.tokenizer import Tokenizer
from ...server.client import Client
from ...server.scoring import MOST_CONTINUATIONS


def questions_of(name: str, folder: str | None, limit: int | None) -> Task:
    """A task of questions. Raises TextError, for a task that needs a head of its own as well."""
    task = read_task(name, folder, limit)
    if not task.questions:
        raise TextError(f"{task.name} needs a head that no server has; score it with `moesaic eval`")
    return task


def score_task(
    client: Client, tier: str, task: Task, tokenizer: Tokenizer, progress: Callable[[int, int], None]
) -> TaskScore:
    """All questions, their contexts read at the full tier and the answers at this one. Raises what the client does."""
    most, rows = client.model().max_context - 1, []
    for done, passages in enumerate(encode_questions(task.questions, tokenizer), 1):
        rows.append(_scored(client, tier, [passage.within(most) for passage in passages]))
        progress(done, len(task.questions))
    return judged(task, rows)


def _scored(client: Client, tier: str, passages: Sequence[Passage]) -> list[PassageScore]:
    """Those behind one context by one call."""
    found: list[PassageScore] = []
    for context, group in groupby(passages, key=lambda each: each.ids[: each.begin]):
        ends = [list(each.ids[each.begin :]) for each in group]
        for begin in range(0, len(ends), MOST_CONTINUATIONS):
            asked = ends[begin : begin + MOST_CONTINUATIONS]
            told = client.score(list(context), asked, tier=tier, full_context=True)
            found += [PassageScore(-each.logprob, each.num_tokens, each.is_greedy) for each in told]
    return found

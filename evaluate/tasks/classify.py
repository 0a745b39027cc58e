"""Classification: a small head on a model's states, by a fixed recipe.

A head that was trained on an original can be put on its compressed form: what it still gets right is what was kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...engine.embedding import to_read
from ...engine.encoder import EncoderEngine, EncoderRunner, states_of
from ...engine.request import Request, Row
from ...models.errors import CheckpointError, TextError
from ...models.progress import Count
from ...models.sentences import CLS, LAST, Pooling
from ...models.spec import ClassifierSpec
from ...models.tokenizer import Tokenizer
from ...models.transformer import Transformer
from ..likelihood import Passage, grouped
from ..texts import check_ids
from .items import Example, Task, TaskScore


class TextReader(Protocol):
    """What reads whole texts: `Reader`, or `EncoderReader` where the model is an encoder."""

    @property
    def max_context(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    def branches(self, branches: Sequence[Sequence[int]], start: int) -> Tensor: ...


class EncoderReader:
    """Texts of at most `max_context` tokens by an encoder, or by a model that reads as one."""

    def __init__(self, model: Transformer, max_context: int) -> None:
        self._model, self.max_context, self.vocab_size = model, max_context, model.spec.vocab_size

    def branches(self, branches: Sequence[Sequence[int]], start: int) -> Tensor:
        """States [all tokens, hidden] of texts, one after the other. start: 0, since nothing stands before a text."""
        states = states_of(self._model, [Request(i, tuple(ids)) for i, ids in enumerate(branches)])
        return torch.cat(states)


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """How a head is trained: the first so many examples, cut at so many tokens; softmax regression with an L2 term."""

    train_examples: int = 2000
    max_tokens: int = 256
    l2: float = 1e-3
    iterations: int = 200


@dataclass(frozen=True, slots=True)
class Head:
    """logits = ((x - mean) / deviation) W^T + b of a text's mean state x [hidden]; weight: [labels, hidden]."""

    labels: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[texts, hidden] -> [texts, labels]"""
        return functional.linear((features - self.mean) / self.deviation, self.weight, self.bias)


def train_head(
    reader: TextReader,
    tokenizer: Tokenizer,
    task: Task,
    recipe: HeadRecipe = HeadRecipe(),  # noqa: B008 (frozen)
    progress: Count | None = None,
) -> Head:
    """The head of a task on the states of a model, which itself stays as it is. The same on every run."""
    train = task.train[: recipe.train_examples]
    features = text_features(reader, tokenizer, [example.text for example in train], recipe.max_tokens, progress)
    labels = _label_names(task)
    targets = _targets(train, labels).to(features.device)
    deviation, mean = torch.std_mean(features, dim=0)
    deviation = deviation.clamp(min=1e-6)
    weight, bias = softmax_regression((features - mean) / deviation, targets, len(labels), recipe)
    return Head(labels, mean, deviation, weight, bias)


def score_head(
    head: Head,
    reader: TextReader,
    tokenizer: Tokenizer,
    task: Task,
    recipe: HeadRecipe = HeadRecipe(),  # noqa: B008 (frozen)
    progress: Count | None = None,
) -> TaskScore:
    """The task's examples by a head on the states of a model. Chance is the share of the commonest label."""
    texts = [example.text for example in task.examples]
    logits = head(text_features(reader, tokenizer, texts, recipe.max_tokens, progress))
    return score_logits(task, head.labels, logits)


def score_logits(task: Task, labels: Sequence[str], logits: Tensor) -> TaskScore:
    """The task's examples by logits [examples, labels]. Chance is the share of the commonest label."""
    gold = _targets(task.examples, labels).to(logits.device)
    picked = logits.argmax(-1)
    nats = functional.cross_entropy(logits, gold, reduction="none").tolist()
    chance = int(gold.bincount().max()) / len(gold)
    correct = {"head": tuple((picked == gold).tolist())}
    return TaskScore(task.name, "head", chance, {"head": tuple(picked.tolist())}, correct, tuple(nats))


@torch.inference_mode()
def text_features(
    reader: TextReader,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_tokens: int,
    progress: Count | None = None,
) -> Tensor:
    """The mean over each text's tokens of the states before the model's own head: fp32 [texts, hidden]."""
    limit = min(max_tokens, reader.max_context)
    rows: list[Tensor] = []
    passages = [Passage(tuple(tokenizer.encode(text)[:limit]), 0) for text in texts]
    check_ids([passage.ids for passage in passages], reader.vocab_size)
    for group in grouped(passages):
        states = reader.branches([passage.ids for passage in group], 0)
        rows += [part.float().mean(0) for part in torch.split(states, [len(passage.ids) for passage in group])]
        if progress:
            progress(len(rows), len(texts))
    return torch.stack(rows)


def states_read(
    model: Transformer, spec: ClassifierSpec, texts: Sequence[str], tokenizer: Tokenizer, window: int, progress: Count
) -> Tensor:
    """The states [texts, hidden] that a classifier of this spec would read, fp32, of texts cut at the window."""
    first, encoded = spec.state == "first", _encoded(texts, tokenizer, window)
    pooling = Pooling(CLS if first else LAST, normalised=False)
    ends = encoded if first else [ids[: spec.place(ids) + 1] for ids in encoded]
    rows = _rows_of(model, [Request(0, ids, pooling=pooling) for ids in ends], progress)
    return torch.tensor([row.embedding for row in rows])


def score_own(
    model: Transformer, labels: Sequence[str], window: int, tokenizer: Tokenizer, task: Task, progress: Count
) -> TaskScore:
    """The task's examples by the model's own classifier, texts cut at the window."""
    if unknown := {example.label for example in task.examples} - set(labels):
        raise TextError(
            f"{task.name} has the label {min(unknown)!r}, which the classifier has not: it has "
            f"{', '.join(labels)[:200]}"
        )
    encoded = _encoded([example.text for example in task.examples], tokenizer, window)
    rows = _rows_of(model, [Request(0, ids, classify=True) for ids in encoded], progress)
    return score_logits(task, labels, torch.tensor([row.logits for row in rows]))


def _encoded(texts: Sequence[str], tokenizer: Tokenizer, window: int) -> list[tuple[int, ...]]:
    """The ids of texts cut at the window. Raises TextError for one that makes none."""
    found = [to_read(tokenizer.encode(text), tokenizer, window) for text in texts]
    if () in found:
        number = found.index(())
        raise TextError(f"the text of example {number + 1} makes no token of its own: {texts[number][:40]!r}")
    return found


def _rows_of(model: Transformer, requests: Sequence[Request], progress: Count) -> list[Row]:
    """What an engine of encoders makes of requests, in their order. Raises CheckpointError where the model cannot be
    computed on a text.
    """
    engine, found = EncoderEngine(EncoderRunner(model)), dict[int, Row]()
    for key, request in sorted(enumerate(requests), key=lambda pair: len(pair[1].prompt_ids)):
        engine.add(replace(request, key=key))
    while engine.has_work:
        for row in engine.step():
            if row.error:
                raise CheckpointError(
                    f"the model cannot be computed on text {row.key + 1} of {len(requests)}: {row.error}"
                )
            found[row.key] = row
        progress(len(found), len(requests))
    return [found[key] for key in range(len(requests))]


def _label_names(task: Task) -> tuple[str, ...]:
    return tuple(sorted({example.label for example in task.train}))


def _targets(examples: Sequence[Example], labels: Sequence[str]) -> Tensor:
    return torch.tensor([labels.index(example.label) for example in examples])


def softmax_regression(
    x: Tensor, targets: Tensor, num_labels: int, recipe: HeadRecipe, biased: bool = True
) -> tuple[Tensor, Tensor]:
    """Weight [labels, hidden] and bias that minimise cross-entropy + l2 |weight|^2, by L-BFGS from zero; a bias of 0
    where it is not `biased`. x: [texts, hidden].
    """
    weight = torch.zeros(num_labels, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(num_labels, device=x.device, requires_grad=biased)
    learned = [weight, bias] if biased else [weight]
    optimizer = torch.optim.LBFGS(learned, max_iter=recipe.iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(functional.linear(x, weight, bias), targets)
        loss = loss + recipe.l2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()

"""Classification: a small head on a model's states, by a fixed recipe.

A head that was trained on an original can be put on its compressed form: what it still gets right is what was kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...engine.scoring import Reader
from ...models.progress import Count
from ...models.tokenizer import Tokenizer
from ..likelihood import Passage, grouped
from ..texts import check_ids
from .items import Example, Task, TaskScore


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
    reader: Reader,
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
    weight, bias = _regression((features - mean) / deviation, targets, len(labels), recipe)
    return Head(labels, mean, deviation, weight, bias)


def score_head(
    head: Head,
    reader: Reader,
    tokenizer: Tokenizer,
    task: Task,
    recipe: HeadRecipe = HeadRecipe(),  # noqa: B008 (frozen)
    progress: Count | None = None,
) -> TaskScore:
    """The task's examples by a head on the states of a model. Chance is the share of the commonest label."""
    texts = [example.text for example in task.examples]
    logits = head(text_features(reader, tokenizer, texts, recipe.max_tokens, progress))
    gold = _targets(task.examples, head.labels).to(logits.device)
    picked = logits.argmax(-1)
    nats = functional.cross_entropy(logits, gold, reduction="none").tolist()
    chance = int(gold.bincount().max()) / len(gold)
    correct = {"head": tuple((picked == gold).tolist())}
    return TaskScore(task.name, "head", chance, {"head": tuple(picked.tolist())}, correct, tuple(nats))


@torch.inference_mode()
def text_features(
    reader: Reader,
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


def _label_names(task: Task) -> tuple[str, ...]:
    return tuple(sorted({example.label for example in task.train}))


def _targets(examples: Sequence[Example], labels: Sequence[str]) -> Tensor:
    return torch.tensor([labels.index(example.label) for example in examples])


def _regression(x: Tensor, targets: Tensor, num_labels: int, recipe: HeadRecipe) -> tuple[Tensor, Tensor]:
    """Weight [labels, hidden] and bias that minimise cross-entropy + l2 |weight|^2, by L-BFGS from zero."""
    weight = torch.zeros(num_labels, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(num_labels, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=recipe.iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(functional.linear(x, weight, bias), targets)
        loss = loss + recipe.l2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()

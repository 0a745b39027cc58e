"""Classification: a small head on a model's states, by a fixed recipe; and, for small models, the model as well.

A head that was trained on an original can be put on its compressed form: what it still gets right is what was kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...engine.runner import ModelRunner
from ...models.errors import SetupError
from ...models.ffn import FFN
from ...models.linear import Int8Embedding, Int8Linear
from ...models.progress import Count
from ...models.tokenizer import Tokenizer
from ...models.transformer import Attention, Transformer
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
class TuneRecipe:
    """How the whole model is trained with its head: AdamW, batches of a shuffle that the seed fixes."""

    epochs: int = 3
    batch: int = 32
    learning_rate: float = 5e-4
    seed: int = 0


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
    runner: ModelRunner,
    tokenizer: Tokenizer,
    task: Task,
    recipe: HeadRecipe = HeadRecipe(),  # noqa: B008 (frozen)
    progress: Count | None = None,
) -> Head:
    """The head of a task on the states of a model, which itself stays as it is. The same on every run."""
    train = task.train[: recipe.train_examples]
    features = text_features(runner, tokenizer, [example.text for example in train], recipe.max_tokens, progress)
    labels = _label_names(task)
    targets = _targets(train, labels).to(features.device)
    deviation, mean = torch.std_mean(features, dim=0)
    deviation = deviation.clamp(min=1e-6)
    weight, bias = _regression((features - mean) / deviation, targets, len(labels), recipe)
    return Head(labels, mean, deviation, weight, bias)


def score_head(
    head: Head,
    runner: ModelRunner,
    tokenizer: Tokenizer,
    task: Task,
    recipe: HeadRecipe = HeadRecipe(),  # noqa: B008 (frozen)
    progress: Count | None = None,
) -> TaskScore:
    """The task's examples by a head on the states of a model. Chance is the share of the commonest label."""
    texts = [example.text for example in task.examples]
    logits = head(text_features(runner, tokenizer, texts, recipe.max_tokens, progress))
    gold = _targets(task.examples, head.labels).to(logits.device)
    picked = logits.argmax(-1)
    nats = functional.cross_entropy(logits, gold, reduction="none").tolist()
    chance = int(gold.bincount().max()) / len(gold)
    correct = {"head": tuple((picked == gold).tolist())}
    return TaskScore(task.name, "head", chance, {"head": tuple(picked.tolist())}, correct, tuple(nats))


@torch.inference_mode()
def text_features(
    runner: ModelRunner,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_tokens: int,
    progress: Count | None = None,
) -> Tensor:
    """The mean over each text's tokens of the states before the model's own head: fp32 [texts, hidden]."""
    limit = min(max_tokens, runner.max_context)
    rows: list[Tensor] = []
    passages = [Passage(tuple(tokenizer.encode(text)[:limit]), 0) for text in texts]
    check_ids([passage.ids for passage in passages], runner.vocab_size)
    for group in grouped(passages):
        states = runner.branch_states(0, [passage.ids for passage in group], 0)
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


def tune_(
    model: Transformer,
    head: Head,
    tokenizer: Tokenizer,
    task: Task,
    recipe: TuneRecipe = TuneRecipe(),  # noqa: B008 (frozen)
    max_tokens: int = 256,
    progress: Count | None = None,
) -> Head:
    """Trains a dense model in place together with a head for a task, and gives the head that now belongs to it.

    Raises SetupError where a weight is quantized: tune first, then compress.
    """
    if any(isinstance(module, Int8Linear | Int8Embedding) for module in model.modules()):
        raise SetupError("this model has int8 weights, which cannot be trained; tune the dense model, then compress it")
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    trained = Head(head.labels, head.mean, head.deviation, weight, bias)
    limit = min(max_tokens, model.spec.max_context)
    encoded = [tokenizer.encode(example.text)[:limit] for example in task.train]
    targets = _targets(task.train, head.labels)
    with _unpacked(model):
        optimizer = torch.optim.AdamW([*model.parameters(), weight, bias], lr=recipe.learning_rate)
        batches = list(_batches(len(encoded), recipe))
        for done, rows in enumerate(batches, 1):
            features = _batch_features(model, [encoded[i] for i in rows])
            loss = functional.cross_entropy(trained(features), targets[rows].to(features.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress:
                progress(done, len(batches))
    return Head(head.labels, head.mean, head.deviation, weight.detach(), bias.detach())


def _batches(count: int, recipe: TuneRecipe) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        yield from torch.split(torch.randperm(count, generator=generator), recipe.batch)


def _batch_features(model: Transformer, encoded: Sequence[Sequence[int]]) -> Tensor:
    """Mean states [texts, hidden]. Padding stands at the end, where a causal model does not look."""
    device = model.norm.weight.device
    rows = [torch.tensor(list(ids), device=device) for ids in encoded]
    states = model.hidden(nn.utils.rnn.pad_sequence(rows, batch_first=True))
    lengths = torch.tensor([len(row) for row in rows], device=device).unsqueeze(1)
    inside = torch.arange(states.shape[1], device=device) < lengths  # [texts, tokens]
    return (states * inside.unsqueeze(-1)).sum(1).float() / lengths


@contextmanager
def _unpacked(model: Transformer) -> Iterator[None]:
    """The model with its single linears in use, to be trained. They are views of the packed ones, which follow."""
    groups = [module for module in model.modules() if isinstance(module, Attention | FFN)]
    packed = [module.packed for module in groups]
    for module in groups:
        module.packed = None
    model.requires_grad_(True)
    try:
        yield
    finally:
        model.requires_grad_(False)
        for module, whole in zip(groups, packed, strict=True):
            module.packed = whole

"""`moesaic classifier`: a classifier on a model that has none, from labelled examples, by a fixed recipe.

The model stays as it is. Its states are standardised, squashed and told apart by a softmax regression, and all of that
is written as the layers that the family's own ...ForSequenceClassification has.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..evaluate.tasks.classify import HeadRecipe, softmax_regression, states_read
from ..evaluate.tasks.files import read_examples
from ..evaluate.tasks.items import Example
from ..models.checkpoint import Checkpoint, open_checkpoint, read_tensors, sha256_of
from ..models.devices import choose_device, memory_named
from ..models.errors import CheckpointError, TextError
from ..models.families.classification import classifying_config
from ..models.families.config import Config
from ..models.families.registry import family_of
from ..models.files import check_new, new_directory
from ..models.labels import MOST_LABELS
from ..models.layout import Layout
from ..models.progress import Progress
from ..models.record import Record, StageRecord
from ..models.sentences import Sentences
from ..models.spec import ClassifierSpec, TransformerSpec, spec_overrides
from ..models.threads import choose_threads, torch_threads
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from ..models.writer import write_config, write_weights
from .identity import content_sha256
from .material import load_exact
from .output import save_record
from .recipe import DEVICE_WAY_OUT

RECIPE = HeadRecipe(l2=1e-2)
SCALE = 0.3  # deviations of a state become this part of the activation's width: nearly linear, far ones are held
SHIFT = 4.0  # deviations below its mean at which a ReLU begins


@dataclass(frozen=True, slots=True)
class MadeClassifier:
    """counts: of examples, by label. right: the share of these that the classifier gets right."""

    counts: Mapping[str, int]
    right: float


def train_classifier(
    model: str | Path, examples: str | Path, out: str | Path, most: int | None = None,
    progress: Progress | None = None, device: str | None = None, threads: int | None = None,
) -> MadeClassifier:  # fmt: skip
    """Writes `out`: the model with a classifier of the labels in a file of examples, which is the same on every run.

    most: learn from the first so many. Raises SetupError (CheckpointError, TextError) before anything is written.
    """
    target, source = Path(out).expanduser(), open_checkpoint(model)
    check_new(target)
    learned = _learned_from(Path(examples), most)
    counts = dict(sorted(Counter(example.label for example in learned).items()))
    made = _with_classifier(source, tuple(counts))
    say = progress or (lambda what, done, total: None)
    with torch_threads(choose_threads(threads, source.weight_bytes)), memory_named("reading examples", DEVICE_WAY_OUT):
        states = _states(source, made.spec.classifier, learned, choose_device(device), say)
        targets = torch.tensor([list(counts).index(example.label) for example in learned])
        say("learning", 0, 1)
        tensors = fitted(states, targets, made.spec.classifier)
        say("learning", 1, 1)
    right = float((_logits(states, tensors, made.spec.classifier).argmax(-1) == targets).float().mean())
    settings = {"examples": len(learned), "labels": list(counts), "l2": RECIPE.l2, "scale": SCALE}
    notes = {"examples_sha256": sha256_of(Path(examples)), "right": right}
    done = StageRecord("classify", settings, 0, content_sha256(source), {}, notes)
    _write(target, source, made, tensors, done)
    return MadeClassifier(counts, right)


def fitted(states: Tensor, targets: Tensor, spec: ClassifierSpec) -> dict[str, Tensor]:
    """The tensors of a classifier, under our names, for states [texts, hidden] and the numbers of their labels [texts].

    With z = (x - mean) / deviation, dense is diagonal and gives SCALE z under tanh, z + SHIFT under ReLU; output is the
    softmax regression on act(dense(x)). Without dense and bias it is one on x / deviation, as a product with x.
    """
    deviation, mean = torch.std_mean(states, dim=0)
    deviation = deviation.clamp(min=1e-6)
    found: dict[str, Tensor] = {}
    if spec.dense == "none":
        weight, bias = softmax_regression(states / deviation, targets, spec.labels, RECIPE, biased=spec.bias)
        found["classifier.output.weight"] = weight / deviation
    else:
        scale, shift = (SCALE, 0.0) if spec.dense == "tanh" else (1.0, SHIFT)
        found["classifier.dense.weight"] = torch.diag(scale / deviation)
        found["classifier.dense.bias"] = shift - scale * mean / deviation
        weight, bias = softmax_regression(_squashed(states, found, spec), targets, spec.labels, RECIPE)
        found["classifier.output.weight"] = weight
    return found | ({"classifier.output.bias": bias} if spec.bias else {})


def _squashed(states: Tensor, tensors: Mapping[str, Tensor], spec: ClassifierSpec) -> Tensor:
    if spec.dense == "none":
        return states
    x = functional.linear(states, tensors["classifier.dense.weight"], tensors["classifier.dense.bias"])
    return x.tanh() if spec.dense == "tanh" else x.relu()


def _logits(states: Tensor, tensors: Mapping[str, Tensor], spec: ClassifierSpec) -> Tensor:
    squashed = _squashed(states, tensors, spec)
    return functional.linear(squashed, tensors["classifier.output.weight"], tensors.get("classifier.output.bias"))


def _learned_from(file: Path, most: int | None) -> list[Example]:
    """Raises TextError for a file from which nothing can be learned."""
    if most is not None and most < 2:
        raise TextError(f"most is {most}, and two labels need two examples at least; give more, or leave it out")
    found = list(read_examples(file))[:most]
    if not found:
        raise TextError(f"{file} holds no example; each line is a label, a tab and a text")
    labels = {example.label for example in found}
    if len(labels) == 1:
        raise TextError(
            f"all {len(found)} examples of {file} have the label {labels.pop()!r}, and a classifier tells at least two "
            "apart; add examples of others"
        )
    if len(labels) > MOST_LABELS:
        raise TextError(
            f"{file} has {len(labels):,} labels, the most is {MOST_LABELS:,}; is the label the first column?"
        )
    return found


def _with_classifier(source: Checkpoint, names: tuple[str, ...]) -> Checkpoint:
    """The checkpoint as it will be. Raises CheckpointError for a model that can have none, or has one."""
    if source.labels:
        raise CheckpointError(
            f"{source.path.name} has a classifier of {', '.join(source.labels.names)[:200]}; start from the model "
            "without it"
        )
    config = classifying_config(source.config, source.family, names)
    family = family_of(config)
    default = family.spec(Config(config))
    spec = replace(source.spec, classifier=default.classifier, tied_head=True, head_bias=False)
    return replace(source, config=config, family=family, default_spec=default, spec=spec)


def _states(
    source: Checkpoint, spec: ClassifierSpec, examples: Sequence[Example], device: torch.device, say: Progress
) -> Tensor:
    """The states [texts, hidden] that a classifier would read, fp32."""
    tokenizer, window = Tokenizer.open(source.path), Sentences.open(source.path).window_within(source.spec.max_context)
    texts = [example.text for example in examples]
    count = partial(say, "reading examples")
    return states_read(load_exact(source, device), spec, texts, tokenizer, window, count)


def _write(
    target: Path, source: Checkpoint, made: Checkpoint, tensors: Mapping[str, Tensor], done: StageRecord
) -> None:
    """The model's own tensors as they are, but a head over the vocabulary, and the classifier's."""
    kept = _names(made.spec) - tensors.keys()
    size = source.weight_bytes + sum(tensor.nbytes for tensor in tensors.values())

    def all_of_them() -> Iterator[tuple[str, Tensor]]:
        yield from ((name, tensor) for name, tensor in read_tensors(source) if name in kept)
        yield from tensors.items()

    record = Record(
        spec_overrides(made.spec, made.default_spec), (*source.record.stages, done), {}, "", source.record.tiers
    )
    with new_directory(target, size) as folder:
        stored = Layout(made.family, made.spec).stored(all_of_them())
        names = write_weights(folder, stored, made.family.their_name)
        write_config(folder, made, made.spec)
        save_record(record, folder, names)


def _names(spec: TransformerSpec) -> set[str]:
    with torch.device("meta"):
        return set(Transformer(spec).state_dict())

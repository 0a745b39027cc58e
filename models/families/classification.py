"""Checkpoints with a classifier of texts: where each family's files have it, and which token's state it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import CheckpointError
from ..labels import labels_of
from ..spec import ClassifierSpec, TransformerSpec
from .config import Config
from .family import Family

SUFFIX = "ForSequenceClassification"


@dataclass(frozen=True, slots=True)
class Head:
    """A classifier as a family has it. names: our module path -> theirs."""

    spec: ClassifierSpec
    names: Mapping[str, str]


_POOLED = Head(ClassifierSpec(dense="tanh"), {"dense": "bert.pooler.dense", "output": "classifier"})
_DENSE = Head(ClassifierSpec(dense="tanh"), {"dense": "classifier.dense", "output": "classifier.out_proj"})
_RELU = Head(ClassifierSpec(dense="relu"), {"dense": "pre_classifier", "output": "classifier"})
_SCORE = Head(ClassifierSpec(state="last", bias=False), {"output": "score"})
_DECODERS = (
    "llama", "opt", "gpt2", "gpt_neox", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "olmo2",
    "olmo3", "mixtral", "qwen3_moe", "seed_oss", "starcoder2", "smollm3",
)  # fmt: skip
HEADS: Mapping[str, Head] = {  # by model_type
    "bert": _POOLED, "roberta": _DENSE, "xlm-roberta": _DENSE, "mpnet": _DENSE, "distilbert": _RELU,
    **dict.fromkeys(_DECODERS, _SCORE),
}  # fmt: skip
_BASES = ("ForCausalLM", "LMHeadModel", "Model")  # what stands in a family's architecture in place of SUFFIX
_OTHER = {"gemma3_text": f"Gemma3Text{SUFFIX}"}


def architecture_of(model_type: str, family: Family) -> str | None:
    """The architecture of a family's checkpoints with a classifier; None where none is built."""
    if model_type not in HEADS:
        return None
    end = next(each for each in _BASES if family.architecture.endswith(each))
    return _OTHER.get(model_type, family.architecture.removesuffix(end) + SUFFIX)


def classifying(model_type: str, family: Family) -> Family:
    """The family as its checkpoints with a classifier have it: no head over the vocabulary, one of labels instead."""
    head, prefix = HEADS[model_type], f"{family.base}."
    whole = head.spec.state == "last"  # of decoders, whose names are whole; those of encoders are the bare model's
    own = {f"classifier.{ours}": theirs for ours, theirs in head.names.items()}
    names = {ours: theirs if whole else prefix + theirs for ours, theirs in family.names.items()}
    names.pop("untied_head", None)

    def spec(config: Config) -> TransformerSpec:
        labels = len(labels_of(config.values).names)
        padding = _padding(config.values) if whole else -1
        classifier = replace(head.spec, labels=labels, padding=padding)
        return replace(family.spec(config), classifier=classifier, tied_head=True, head_bias=False)

    return replace(family, architecture=str(architecture_of(model_type, family)), names=names | own, spec=spec)


def classifying_config(config: Mapping[str, Any], family: Family, names: tuple[str, ...]) -> dict[str, Any]:
    """The config.json of a model of this family once it has a classifier of these labels. Raises CheckpointError for a
    family whose classifiers are not built.
    """
    architecture = architecture_of(str(config["model_type"]), family)
    if architecture is None:
        raise CheckpointError(
            f"there is no classifier of {config['model_type']}; the families with one are {', '.join(HEADS)}"
        )
    return {
        **{key: each for key, each in config.items() if key != "num_labels"},
        "architectures": [architecture],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def _padding(config: Mapping[str, Any]) -> int:
    """The id that no text ends with; a text of nothing else ends with its first token."""
    found = config.get("pad_token_id")
    return found if type(found) is int and found >= 0 else -1

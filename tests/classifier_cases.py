"""Every family with a classifier in random tiny models, saved as the original implementation saves them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from builders import saved
from family_cases import BASES, Plant, built, without

from moesaic.models.checkpoint import Checkpoint, read_tensors
from moesaic.models.families.classification import HEADS, architecture_of
from moesaic.models.families.registry import FAMILIES
from moesaic.models.transformer import Transformer

ODD = {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 52}
THREE = {"id2label": {0: "bad", 1: "fair", 2: "good"}}
MULTI = {"num_labels": 5, "problem_type": "multi_label_classification"}
NUMBER = {"num_labels": 1, "problem_type": "regression"}


@dataclass(frozen=True)
class ClassifierCase:
    """A family with changes to its base, its classifier among them."""

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.family} {', '.join(self.changes)}"

    def build(self, folder: Path) -> Any:
        """Saves a random model to `folder` and returns the original implementation's."""
        config = transformers.AutoConfig.for_model(self.family, **{**BASES[self.family], **self.changes})
        architecture = architecture_of(self.family, FAMILIES[self.family])
        return saved(getattr(transformers, str(architecture))(config), folder)


_SMALL = {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 52}
ENCODERS = tuple(
    ClassifierCase(family, changes)
    for family in ("bert", "roberta", "xlm-roberta", "mpnet")
    for changes in ({}, THREE | ODD | {"hidden_act": "gelu_new"}, MULTI | {"layer_norm_eps": 1e-2}, NUMBER)
) + (
    ClassifierCase("distilbert"),
    ClassifierCase("distilbert", THREE | {"dim": 36, "n_heads": 3, "hidden_dim": 52, "activation": "relu"}),
    ClassifierCase("distilbert", MULTI | {"n_layers": 1, "seq_classif_dropout": 0.5}),
    ClassifierCase("distilbert", NUMBER),
)
DECODERS = (
    *(ClassifierCase(each, {"num_labels": 3, "pad_token_id": 0}) for each in HEADS if HEADS[each].spec.state == "last"),
    ClassifierCase("llama", THREE | _SMALL | {"pad_token_id": 2, "tie_word_embeddings": False}),
    ClassifierCase("llama", NUMBER),
    ClassifierCase("qwen2", MULTI | _SMALL | {"pad_token_id": 5}),
    ClassifierCase("qwen2", {"rms_norm_eps": 1e-2}),
    ClassifierCase("gpt2", THREE | {"n_head": 3, "n_embd": 36, "n_inner": None, "pad_token_id": 4}),
    ClassifierCase("gpt2", NUMBER),
)  # fmt: skip
CASES = (*ENCODERS, *DECODERS)


def _turned(checkpoint: Checkpoint) -> Transformer:
    """Each label has the next one's row."""
    tensors = dict(read_tensors(checkpoint))
    own = {name: each.roll(1, 0) for name, each in tensors.items() if name.startswith("classifier.output.")}
    model: Transformer = built(checkpoint, {}, tensors | own)
    return model


PLANTS: Mapping[str, Plant] = {  # what a classifier is made of, and a model in which it is wrong
    "first token": without(classifier__state="last"),
    "last token": without(classifier__state="first"),
    "tanh": without(classifier__dense="relu"),
    "relu": without(classifier__dense="tanh"),
    "bias": without(classifier__bias=False),
    "order of labels": _turned,
}


def parts_of(case: ClassifierCase) -> tuple[str, ...]:
    """What a family's classifiers are made of."""
    spec = HEADS[case.family].spec
    named = (f"{spec.state} token", spec.dense, "bias" if spec.bias else "none", "order of labels")
    one = case.changes.get("num_labels") == 1
    return tuple(each for each in named if each != "none" and not (one and each == "order of labels"))

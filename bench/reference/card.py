"""card.json and README.md of a reference model: what it is, what it read, how it was trained."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..published.text import render
from .corpus import Corpus
from .curve import final_loss, schedule_of
from .description import Description
from .model import count_parameters
from .run import RunFacts
from .state import RunState

Card = dict[str, Any]


def model_card(card: Card) -> str:
    """The card in Markdown, made of the content of card.json."""
    return render("card", card=card)


def card_of(
    name: str, facts: RunFacts, progress: RunState, corpus: Corpus, machine: Mapping[str, Any], as_written: float | None
) -> Card:
    """The content of card.json. machine: of `machine_facts`; as_written: the validation loss of the bf16 weights."""
    description = Description.model_validate(facts.description)
    return {
        "name": name,
        "finished": progress.step >= progress.plan.last,
        **_model_part(description),
        **_training_part(description, progress, as_written),
        "dtype": facts.dtype,
        "workers": facts.num_workers,
        "machine": dict(machine),
        "text_tokens": len(corpus.train),
        "texts": [asdict(text) for text in corpus.texts],
        "valid_texts": [asdict(text) for text in corpus.valid_texts],
    }


def _model_part(description: Description) -> Card:
    config = description.config()
    return {
        "architecture": config["architectures"][0],
        "activation": config.get("activation_function") or config["hidden_act"],
        "gated": description.family == "llama",
        "parameters": count_parameters(description),
        **description.model_dump(
            include={"layers", "width", "ffn_width", "heads", "kv_heads", "context", "vocabulary"}
        ),
    }


def _training_part(description: Description, progress: RunState, as_written: float | None) -> Card:
    """The part on training, without a loss where no step was taken or no text is there to validate on."""
    losses = {
        "training_loss": final_loss(progress) if progress.losses else None,
        "validation_loss": progress.valid[-1][1] if progress.valid else None,
        "loss_as_written": as_written,
    }
    return {
        "tokens": progress.step * description.batch * description.context,
        "steps": progress.step,
        "batch": description.batch,
        **{name: loss for name, loss in losses.items() if loss is not None},
        "schedule": schedule_of(description, progress),
        "optimizer": description.model_dump(include={"beta1", "beta2", "weight_decay", "clip"}),
        "seconds": dict(progress.seconds),
        "seed": description.seed,
    }

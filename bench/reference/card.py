"""README.md of a reference model: what it is, what it read, how it was trained. Every figure is the run's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .corpus import Corpus, TextFacts
from .curve import final_loss, schedule_line
from .description import Description
from .state import RunState


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells beside the description. machine: of `machine_facts`; loss_as_written: of the bf16 weights."""

    name: str
    parameters: int
    dtype: str
    num_workers: int
    machine: Mapping[str, Any]
    loss_as_written: float | None


def model_card(description: Description, progress: RunState, corpus: Corpus, facts: CardFacts) -> str:
    """The card, Markdown."""
    tokens = progress.step * description.batch * description.context
    ended = "" if progress.step >= progress.plan.last else " (not finished: the learning rate had not come down)"
    parts = [
        f"# {facts.name}",
        f"A reference model of moesaic, trained from random weights to measure compression on{ended}. "
        "It is small and knows little: use it to compare methods, not for its answers.",
        _table("what", _model_rows(description, facts)),
        _table("training", _training_rows(description, progress, corpus, tokens, facts)),
        _texts("Training text", corpus.texts),
        _texts("Validation text", corpus.valid_texts),
        "![loss curve](curve.png)",
        "The curve as numbers is in `curve.json`. Weights start normal with deviation 1 / sqrt(3 inputs), those that "
        "end in the residual stream further divided by sqrt(2 layers), embeddings with 0.02; biases 0, norms 1.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _model_rows(description: Description, facts: CardFacts) -> dict[str, str]:
    config = description.config()
    activation = config.get("activation_function") or config["hidden_act"]
    gated = ", gated" if description.family == "llama" else ""
    heads = f"{description.heads}" + (f" on {description.kv_heads} KV heads" if description.kv_heads else "")
    return {
        "architecture": f"{config['architectures'][0]}, {activation}{gated}",
        "parameters": f"{facts.parameters:,}",
        "layers, width, FFN, heads": f"{description.layers}, {description.width}, {description.ffn_width}, {heads}",
        "context": f"{description.context} tokens",
        "vocabulary": f"{description.vocabulary:,} entries of byte-level BPE, trained on the training text",
        "weights": "bf16",
    }


def _training_rows(
    description: Description, progress: RunState, corpus: Corpus, tokens: int, facts: CardFacts
) -> dict[str, str]:
    rows = {
        "tokens seen": f"{tokens:,} ({tokens / facts.parameters:.1f} for each parameter, "
        f"{tokens / len(corpus.train):.2f} times the text)",
        "steps": f"{progress.step:,} of {description.batch} windows of {description.context} tokens",
        "final training loss": _loss(final_loss(progress)) if progress.losses else "none",
    }
    if progress.valid:
        rows["final validation loss"] = _loss(progress.valid[-1][1])
    if facts.loss_as_written is not None:
        rows["validation loss of the weights as written"] = _loss(facts.loss_as_written)
    betas = f"betas {description.beta1:g} and {description.beta2:g}"
    versions = ", ".join(f"{name} {version}" for name, version in facts.machine["versions"].items())
    return rows | {
        "learning rate": schedule_line(description, progress),
        "optimizer": f"AdamW, {betas}, decay {description.weight_decay:g} on matrices, "
        f"gradient norm at most {description.clip:g}",
        "precision": f"{facts.dtype} multiplications, float32 weights; {facts.num_workers} workers",
        "time": "; ".join(f"{seconds / 60:.1f} minutes on {device}" for device, seconds in progress.seconds.items()),
        "seed": str(description.seed),
        "versions": f"python {facts.machine['python']}, {versions}; commit {facts.machine['commit']}",
    }


def _loss(nats: float) -> str:
    return f"{nats:.4f} nats per token (perplexity {math.exp(min(nats, 700)):,.2f})"


def _table(title: str, rows: Mapping[str, str]) -> str:
    return "\n".join([f"| {title} | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())])


def _texts(title: str, texts: tuple[TextFacts, ...]) -> str:
    if not texts:
        return ""
    rows = [f"| {text.name} | {text.num_bytes:,} | {text.tokens:,} | {text.licence} |" for text in texts]
    return "\n".join([f"| {title} | bytes on disk | tokens | licence |", "| --- | --- | --- | --- |", *rows])

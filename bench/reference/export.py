"""The last state of a run as a Hugging Face directory: bf16 shards, tokenizer, configs, curve and card."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...models.checkpoint import load
from ...models.errors import SetupError
from ...models.families.registry import family_of
from ...models.files import new_directory
from ...models.writer import write_weights
from ..machine import machine_facts
from .card import card_of, model_card
from .corpus import Corpus, even_windows
from .curve import write_curve
from .description import Description
from .learner import Learner
from .place import Place
from .run import RunFacts, read_facts
from .state import last_state, read_progress
from .vocabulary import END_ID

MODEL_NAME = "model"
MAX_SHARD_BYTES = 15 << 20
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def export(out: Path, name: str | None = None) -> Path:
    """Writes OUT/model from the last saved state, in place of an older one; returns its path.

    Both moesaic and transformers load it. Raises SetupError where OUT has nothing saved.
    """
    facts, state = read_facts(out), last_state(out)
    if facts is None or state is None:
        raise SetupError(f"{out} has no saved state yet; train there first")
    description = Description.model_validate(facts.description)
    target = out / MODEL_NAME
    shutil.rmtree(target, ignore_errors=True)  # the state stays, so it can be made again
    with new_directory(target, (state / "weights.safetensors").stat().st_size // 2) as folder:
        _write_model(folder, state, description)
        for file in _TOKENIZER_FILES:
            shutil.copyfile(out / "corpus" / file, folder / file)
        _write_story(folder, out, state, facts, name or out.resolve().name)
    return target


def _write_model(folder: Path, state: Path, description: Description) -> None:
    config = description.config()
    family = family_of(config)
    write_weights(folder, _narrow(state), family.their_name, MAX_SHARD_BYTES)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": END_ID, "eos_token_id": END_ID}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def _narrow(state: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in load_file(state / "weights.safetensors").items():
        yield name, tensor.to(torch.bfloat16)


def _write_story(folder: Path, out: Path, state: Path, facts: RunFacts, name: str) -> None:
    description = Description.model_validate(facts.description)
    progress, corpus = read_progress(state), Corpus(out / "corpus")
    write_curve(folder, progress, description, name)
    card = card_of(name, facts, progress, corpus, machine_facts(), _loss_as_written(folder, description, corpus))
    made = {"command": f"moesaic reference train {name} OUT --text TEXTS", **card}
    (folder / "card.json").write_text(json.dumps(made, indent=2) + "\n")
    (folder / "README.md").write_text(model_card(card))


def _loss_as_written(folder: Path, description: Description, corpus: Corpus) -> float | None:
    """The validation loss of what was written, read back from the files and computed in fp32."""
    windows = torch.from_numpy(even_windows(corpus.valid, description.context, description.valid_windows))
    if not len(windows):
        return None
    learner = Learner(load(folder, dtype="float32"), description, Place(torch.device("cpu"), torch.float32, 1))
    try:
        return learner.mean_loss(windows)
    finally:
        learner.close()

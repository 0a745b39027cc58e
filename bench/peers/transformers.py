"""transformers, on the dense directory itself: a batch of prompts of equal length, with the cache that it brings."""

import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...models.extras import is_missing
from ...models.locate import locate
from .peer import Answer, Prompts

KINDS = ("bfloat16",)


def why_absent() -> str:
    """Why it cannot be measured here; nothing where it can."""
    return "" if find_spec("transformers") else is_missing("transformers", "peers", "transformers")


class Transformers:
    """A dense model directory, its weights in a dtype of torch."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        library = import_module("transformers")
        library.utils.logging.disable_progress_bar()
        self._model: Any = library.AutoModelForCausalLM.from_pretrained(str(locate(source)), dtype=getattr(torch, kind))
        self._model.requires_grad_(False).eval()
        self.version, self.build, self.token_bytes = str(library.__version__), f"eager, {kind}", _bytes(self._model)

    @torch.inference_mode()
    def decoded(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        torch.set_num_threads(threads)
        last, kept = self._step(torch.tensor([*prompts]), None)
        tokens = [int(last[0])]
        began = time.perf_counter()
        for _ in range(num_new):
            last, kept = self._step(last.unsqueeze(1), kept)
            tokens.append(int(last[0]))
        return Answer(time.perf_counter() - began, tokens)

    @torch.inference_mode()
    def first_token(self, prompt: Sequence[int], threads: int) -> Answer:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        token = int(self._step(torch.tensor([[*prompt]]), None)[0])
        return Answer(time.perf_counter() - began, [token])

    def _step(self, ids: Tensor, kept: Any) -> tuple[Tensor, Any]:
        """The likeliest next token of each row, and what is kept of all before it."""
        found = self._model(ids, past_key_values=kept, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1].argmax(-1), found.past_key_values


def _bytes(model: Any) -> int:
    """Of weights that a token reads: all, but for an embedding that is not the head as well."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    whole = sum(each.nbytes for each in model.parameters())
    return int(whole if embedding is head else whole - embedding.nbytes)

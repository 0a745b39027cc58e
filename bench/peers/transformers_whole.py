"""transformers on the dense directory itself, in fp32: answers to sources, and vectors of texts, padded as it pads."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ...models.locate import locate
from .peer import Prompts
from .whole import Made, Whole

KINDS = ("fp32",)


class _Model(Whole):
    loader = ""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        super().__init__()
        library = import_module("transformers")
        library.utils.logging.disable_progress_bar()
        self._model: Any = getattr(library, self.loader).from_pretrained(str(locate(source)), dtype=torch.float32)
        self._model.requires_grad_(False).eval()
        self.version, self.build = str(library.__version__), "eager, fp32"
        self.token_bytes = sum(each.nbytes for each in self._model.parameters())

    def opened(self, threads: int) -> int:
        return threads


class TransformersAnswers(_Model):
    """An encoder-decoder, by `generate`."""

    loader = "AutoModelForSeq2SeqLM"

    @torch.inference_mode()
    def called(self, opened: int, prompts: Prompts, num_new: int) -> Made:
        torch.set_num_threads(opened)
        ids, mask = padded(prompts)
        lengths = {"min_new_tokens": num_new, "max_new_tokens": num_new}
        found = self._model.generate(ids, attention_mask=mask, do_sample=False, num_beams=1, **lengths)
        return Made(found[0, 1:].tolist(), [])


class TransformersVectors(_Model):
    """An encoder, with the mean of its states."""

    loader = "AutoModel"

    @torch.inference_mode()
    def called(self, opened: int, prompts: Prompts, num_new: int) -> Made:
        torch.set_num_threads(opened)
        ids, mask = padded(prompts)
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return Made([], mean_of(states, mask).tolist())


def padded(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Ids and what of them is no padding, int64 [texts, tokens of the longest]."""
    most = max(map(len, prompts))
    rows = [[*ids, *[0] * (most - len(ids))] for ids in prompts]
    mask = [[1] * len(ids) + [0] * (most - len(ids)) for ids in prompts]
    return torch.tensor(rows), torch.tensor(mask)


def mean_of(states: Tensor, mask: Tensor) -> Tensor:
    """Vectors [texts, hidden], normalised."""
    some = mask.unsqueeze(-1).to(states.dtype)
    return torch.nn.functional.normalize((states * some).sum(1) / some.sum(1), dim=1)

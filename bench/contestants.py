"""Who is timed: our engine on a model directory, and transformers on the same one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..engine.build import build_engine
from ..engine.options import EngineOptions
from ..engine.request import Request, Stopping
from ..engine.sampling import Sampling
from ..models.checkpoint import DTYPES
from ..models.threads import torch_threads

Prompts = Sequence[Sequence[int]]


class Contestant(Protocol):
    """One way to run a model."""

    name: str

    def generate(self, prompts: Prompts, num_new: int) -> float:
        """Makes exactly num_new tokens for each prompt, greedily, in one batch; returns the seconds it took."""
        ...


@dataclass(slots=True)
class MoesaicContestant:
    """The engine that serves, without the network."""

    name: str
    path: Path
    options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        self._built = build_engine(str(self.path), self.options)

    _built: Any = None

    def generate(self, prompts: Prompts, num_new: int) -> float:
        engine, stopping = self._built.engine, Stopping(num_new, ignore_eos=True)
        with torch_threads(self._built.description.torch_threads):
            begin = time.perf_counter()
            for key, prompt in enumerate(prompts):
                engine.add(Request(key, tuple(prompt), Sampling(temperature=0.0), stopping))
            while engine.has_work:
                engine.step()
            return time.perf_counter() - begin


@dataclass(slots=True)
class TransformersContestant:
    """`generate` of transformers, what a user would write today."""

    name: str
    path: Path
    dtype: str
    threads: int
    _model: Any = None

    def __post_init__(self) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = transformers.AutoModelForCausalLM.from_pretrained(self.path, dtype=DTYPES[self.dtype])
        self._model = model.to(device).eval()

    def generate(self, prompts: Prompts, num_new: int) -> float:
        ids = torch.tensor([list(prompt) for prompt in prompts], device=self._model.device)
        with torch_threads(self.threads), torch.inference_mode():
            begin = time.perf_counter()
            made = self._model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, min_new_tokens=num_new,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
        if made.shape[1] != ids.shape[1] + num_new:
            raise RuntimeError(f"transformers made {made.shape[1] - ids.shape[1]} tokens, {num_new} were asked for")
        return seconds

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """[tokens, vocab] of one text, for checking that both sides run the same model."""
        with torch.inference_mode():
            logits: torch.Tensor = self._model(torch.tensor([list(ids)], device=self._model.device)).logits[0]
        return logits

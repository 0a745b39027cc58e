"""CTranslate2, which converts the dense directory itself and answers for whole batches."""

import hashlib
import json
import time
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...kernels.cache import cache_folder
from ...models.extras import is_missing
from ...models.files import new_directory
from ...models.locate import locate
from .peer import Answer, Prompts

KINDS = ("int8",)
_NEEDED, _INNER = ("ctranslate2", "transformers"), "model"


def why_absent() -> str:
    """Why it cannot be measured here; nothing where it can."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    return is_missing("CTranslate2", "peers", *missing) if missing else ""


class CTranslate2:
    """A dense model directory in a quantization of CTranslate2, with an object for each number of threads."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        self._library, self._folder = import_module("ctranslate2"), converted(locate(source), kind)
        self._library.set_log_level(40)  # errors
        self.version, self.token_bytes = str(self._library.__version__), _size(self._folder)
        self._by_threads = dict[int, Any]()
        self.build = f"computes in {self._generator(1).compute_type}"

    def decoded(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        """Its calls hold prompt and steps: steps are what a call for all tokens takes beyond one for the first."""
        _, before = self._timed(prompts, 1, threads)
        tokens, seconds = self._timed(prompts, num_new + 1, threads)
        return Answer(seconds - before, tokens)

    def first_token(self, prompt: Sequence[int], threads: int) -> Answer:
        tokens, seconds = self._timed([prompt], 1, threads)
        return Answer(seconds, tokens)

    def _timed(self, prompts: Prompts, num_new: int, threads: int) -> tuple[list[int], float]:
        generator, words = self._generator(threads), [[self._words[token] for token in ids] for ids in prompts]
        began = time.perf_counter()
        found = generator.generate_batch(
            words, min_length=num_new, max_length=num_new, sampling_topk=1, include_prompt_in_result=False
        )
        seconds = time.perf_counter() - began
        return [int(token) for token in found[0].sequences_ids[0]], seconds

    def _generator(self, threads: int) -> Any:
        if threads not in self._by_threads:
            self._by_threads[threads] = self._library.Generator(
                str(self._folder), device="cpu", compute_type="int8", intra_threads=threads, inter_threads=1
            )
        return self._by_threads[threads]

    @cached_property
    def _words(self) -> list[str]:
        words: list[str] = json.loads((self._folder / "vocabulary.json").read_text())
        return words


def converted(source: Path, kind: str) -> Path:
    """The directory in CTranslate2's format, made once and kept in the cache folder; nothing is downloaded."""
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()[:16]
    folder = cache_folder() / "peers" / f"{digest}-ctranslate2-{kind}"
    if not folder.is_dir():
        with new_directory(folder) as made:
            import_module("transformers").utils.logging.disable_progress_bar()
            converter = import_module("ctranslate2.converters").TransformersConverter(str(source))
            converter.convert(str(made / _INNER), quantization=kind)
    return folder / _INNER


def _size(folder: Path) -> int:
    """Bytes of all weights; a head that is the embedding too is kept once."""
    return (folder / "model.bin").stat().st_size

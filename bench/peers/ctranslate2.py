"""CTranslate2, which converts the dense directory itself and answers for whole batches."""

import json
import time
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...models.errors import SetupError
from ...models.extras import is_missing
from ...models.locate import locate
from .kept import made_once
from .peer import Calling, Prompts

KINDS = ("int8",)
_NEEDED, _INNER = ("ctranslate2", "transformers"), "model"


def why_absent() -> str:
    """Why it cannot be measured here; nothing where it can."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    return is_missing("CTranslate2", "peers", *missing) if missing else ""


class CTranslate2(Calling):
    """A dense model directory in a quantization of CTranslate2, with an object for each number of threads."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        self._library, self._folder = import_module("ctranslate2"), converted(locate(source), kind)
        self._kind = kind
        self._library.set_log_level(40)  # errors
        self.version, self.token_bytes = str(self._library.__version__), _size(self._folder)
        self._by_threads = dict[int, Any]()
        self.build = f"computes in {self._generator(1).compute_type}"

    def timed(self, prompts: Prompts, num_new: int, threads: int) -> tuple[list[int], float]:
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
                str(self._folder), device="cpu", compute_type=self._kind, intra_threads=threads, inter_threads=1
            )
        return self._by_threads[threads]

    @cached_property
    def _words(self) -> list[str]:
        words: list[str] = json.loads((self._folder / "vocabulary.json").read_text())
        return words


def converted(source: Path, kind: str) -> Path:
    """The directory in CTranslate2's format. Raises SetupError where its weights are not in one file."""
    weights = source / "model.safetensors"
    if not weights.is_file():
        raise SetupError(f"--dense: {source.name} has no {weights.name}; give a model whose weights are in one file")
    return made_once(weights, f"ctranslate2-{kind}", partial(_convert, source, kind)) / _INNER


def _convert(source: Path, kind: str, made: Path) -> None:
    import_module("transformers").utils.logging.disable_progress_bar()
    converter = import_module("ctranslate2.converters").TransformersConverter(str(source))
    converter.convert(str(made / _INNER), quantization=kind)


def _size(folder: Path) -> int:
    """Bytes of all weights; a head that is the embedding too is kept once."""
    return (folder / "model.bin").stat().st_size

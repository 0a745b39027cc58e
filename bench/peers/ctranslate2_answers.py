"""CTranslate2 on an encoder-decoder, which it converts itself: a batch of sources in one call."""

import json
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ...models.locate import locate
from .ctranslate2 import KINDS as KINDS
from .ctranslate2 import converted
from .ctranslate2 import why_absent as why_absent
from .peer import Prompts
from .whole import Made, Whole


class CTranslate2Answers(Whole):
    """A dense encoder-decoder directory in a quantization of CTranslate2."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        super().__init__()
        self._library, self._folder = import_module("ctranslate2"), converted(locate(source), kind)
        self._library.set_log_level(40)  # errors
        self._kind, self.version = kind, str(self._library.__version__)
        self.token_bytes = (self._folder / "model.bin").stat().st_size
        self.build = f"computes in {self.opened(1).compute_type}"
        self._words: list[str] = json.loads(_vocabulary(self._folder).read_text())
        self._ids = {word: token for token, word in enumerate(self._words)}

    def opened(self, threads: int) -> Any:
        settings = {"device": "cpu", "compute_type": self._kind, "intra_threads": threads, "inter_threads": 1}
        return self._library.Translator(str(self._folder), **settings)

    def called(self, opened: Any, prompts: Prompts, num_new: int) -> Made:
        words = [[self._words[token] for token in ids] for ids in prompts]
        lengths = {"min_decoding_length": num_new, "max_decoding_length": num_new}
        found = partial(opened.translate_batch, beam_size=1, max_batch_size=len(words), **lengths)(words)
        return Made([self._ids[word] for word in found[0].hypotheses[0]], [])


def _vocabulary(folder: Path) -> Path:
    shared = folder / "shared_vocabulary.json"
    return shared if shared.is_file() else folder / "source_vocabulary.json"

"""OpenVINO GenAI, which reads the GGUF file of a plain Llama itself and answers for whole batches."""

import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...models.extras import is_missing
from ...models.gguf.header import read_gguf_header
from .llama_cpp import quantized, token_bytes
from .peer import Calling, Prompts

KINDS = ("Q8_0", "Q4_0")
_NEEDED = ("openvino_genai", "llama_cpp")  # the second quantizes
_WORDS = "tokenizer.ggml.tokens"


def why_absent(gguf: str) -> str:
    """Why it cannot be measured on this file; nothing where it can."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return is_missing("OpenVINO GenAI", "peers", *missing)
    file = Path(gguf)
    with file.open("rb") as stream:
        has_words = _WORDS in read_gguf_header(stream, file.stat().st_size, gguf).values
    return "" if has_words else "OpenVINO GenAI reads no GGUF file without a vocabulary; give another --gguf"


class OpenVino(Calling):
    """One quantization of a GGUF file, with a pipeline for each number of threads."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        self._library, self._tensors = import_module("openvino_genai"), import_module("openvino")
        self._file = quantized(Path(source), kind)
        self.version, self.token_bytes = str(self._library.__version__), token_bytes(self._file)
        self.build, self._by_threads = "of the wheel", dict[int, Any]()

    def timed(self, prompts: Prompts, num_new: int, threads: int) -> tuple[list[int], float]:
        pipeline, ids = self._pipeline(threads), np.array(prompts, dtype=np.int64)
        asked = self._library.GenerationConfig()
        asked.max_new_tokens = asked.min_new_tokens = num_new
        asked.ignore_eos, asked.do_sample, asked.apply_chat_template = True, False, False
        inputs = self._library.TokenizedInputs(*map(self._tensors.Tensor, (ids, np.ones_like(ids))))
        began = time.perf_counter()
        found = pipeline.generate(inputs, asked)
        seconds = time.perf_counter() - began
        return [int(token) for token in found.tokens[0]], seconds

    def _pipeline(self, threads: int) -> Any:
        if threads not in self._by_threads:
            self._by_threads[threads] = self._library.LLMPipeline(str(self._file), "CPU", INFERENCE_NUM_THREADS=threads)
        return self._by_threads[threads]

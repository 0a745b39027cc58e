"""llama.cpp, through the C functions that llama-cpp-python exposes: a GGUF file, several sequences in one batch."""

import ctypes
from collections.abc import Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...models.errors import SetupError
from ...models.extras import is_missing
from ...models.gguf.header import read_gguf_header
from .kept import made_once
from .peer import Stepping

KINDS = ("Q8_0", "Q4_0")
_FILE = "model.gguf"
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


def why_absent() -> str:
    """Why it cannot be measured here; nothing where it can."""
    return "" if find_spec("llama_cpp") else is_missing("llama.cpp", "peers", "llama-cpp-python")


class LlamaCpp(Stepping):
    """One quantization of a GGUF file. Keys and values are kept as llama.cpp does by itself."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        self._c = library()
        file = quantized(Path(source), kind)
        self.version, self.token_bytes = str(self._c.__version__), token_bytes(file)
        self.build = " ".join(self._c.llama_print_system_info().decode().split())
        self._model = self._c.llama_model_load_from_file(str(file).encode(), self._c.llama_model_default_params())
        if not self._model:
            raise SetupError(f"llama.cpp does not load {file}; give another --gguf")
        self._context = self._c.llama_init_from_model(self._model, self._settings(rows, context))
        self._vocab = self._c.llama_vocab_n_tokens(self._c.llama_model_get_vocab(self._model))
        self._batch = self._c.llama_batch_init(max(rows, context), 0, 1)

    def begin(self, threads: int) -> None:
        self._c.llama_set_n_threads(self._context, threads, threads)
        self._c.llama_memory_clear(self._c.llama_get_memory(self._context), False)

    def prefill(self, row: int, token_ids: Sequence[int]) -> int:
        last = len(token_ids) - 1
        self._run([(token, at, row, at == last) for at, token in enumerate(token_ids)])
        return self._likeliest(last)

    def decode(self, token_ids: Sequence[int], position: int) -> list[int]:
        self._run([(token, position, row, True) for row, token in enumerate(token_ids)])
        return [self._likeliest(row) for row in range(len(token_ids))]

    def _settings(self, rows: int, context: int) -> Any:
        """What is set of a context; n_ctx is shared out among the sequences."""
        found = self._c.llama_context_default_params()
        found.n_ctx, found.n_seq_max = rows * context, rows
        found.n_batch = found.n_ubatch = max(rows, context)
        return found

    def _run(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        """One call of llama_decode for (token, position, sequence, whether logits are wanted) of each."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if failed := self._c.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {failed} for {len(tokens)} tokens")

    def _likeliest(self, place: int) -> int:
        logits = self._c.llama_get_logits_ith(self._context, place)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())


def quantized(source: Path, kind: str) -> Path:
    """The same weights in another quantization. Raises SetupError where llama.cpp makes none of them."""
    return made_once(source, kind, partial(_quantize, source, kind)) / _FILE


def _quantize(source: Path, kind: str, made: Path) -> None:
    c = library()
    settings = c.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = getattr(c, f"LLAMA_FTYPE_MOSTLY_{kind}"), True
    if c.llama_model_quantize(str(source).encode(), str(made / _FILE).encode(), ctypes.byref(settings)):
        raise SetupError(f"llama.cpp makes no {kind} of {source}; give another --gguf")


def token_bytes(file: Path) -> int:
    """Bytes of weights that a token reads: every tensor, but for an embedding that is not the head as well."""
    with file.open("rb") as stream:
        tensors = read_gguf_header(stream, file.stat().st_size, str(file)).tensors
    return sum(each.num_bytes for name, each in tensors.items() if name != _EMBEDDING or _HEAD not in tensors)


@cache
def library() -> Any:
    """The module, told to say nothing."""
    found = import_module("llama_cpp")
    found.llama_log_set(_silence(found.llama_log_callback), ctypes.c_void_p(0))
    found.llama_backend_init()
    return found


@cache
def _silence(callback: Any) -> Any:
    """Kept, since C calls it as long as the process lives."""
    return callback(lambda level, text, data: None)

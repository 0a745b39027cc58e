"""llama.cpp itself, beside which GGUF files are held."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesaic.bench.peers.llama_cpp import library

ABSENT = importlib.util.find_spec("llama_cpp") is None  # and all that is asked of it here is left out


def logits_of_llama_cpp(
    file: Path, ids: Sequence[int], causal: bool = True, source: Sequence[int] = ()
) -> npt.NDArray[np.float32]:
    """[tokens, vocabulary] of a file, keys and values in fp32; of an encoder the states, [tokens, hidden].

    source: what an encoder reads first, of whose states the decoder goes on.
    """
    c = library()
    model = c.llama_model_load_from_file(str(file).encode(), c.llama_model_default_params())
    assert model, f"llama.cpp does not open {file}"
    settings = c.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.type_k = settings.type_v = settings.flash_attn_type = 0
    settings.embeddings, settings.pooling_type = not causal, 0 if not causal else settings.pooling_type
    settings.n_threads = settings.n_threads_batch = 1
    context = c.llama_init_from_model(model, settings)
    if source:
        _run(c, c.llama_encode, context, source)
    run, answer = (c.llama_decode, c.llama_get_logits_ith) if causal else (c.llama_encode, c.llama_get_embeddings_ith)
    _run(c, run, context, ids)
    width = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model)) if causal else c.llama_model_n_embd(model)
    rows = [np.ctypeslib.as_array(answer(context, i), (width,)).copy() for i in range(len(ids))]
    c.llama_free(context)
    c.llama_model_free(model)
    return np.stack(rows)


def _run(c: Any, run: Callable[[Any, Any], int], context: Any, ids: Sequence[int]) -> None:
    """One call for all of the tokens, each of whose outputs is kept."""
    batch = c.llama_batch_init(64, 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert run(context, batch) == 0
    c.llama_batch_free(batch)


def start_of_llama_cpp(file: Path) -> int:
    """The token with which llama.cpp begins an answer by this file."""
    c = library()
    model = c.llama_model_load_from_file(str(file).encode(), c.llama_model_default_params())
    assert model, f"llama.cpp does not open {file}"
    start = int(c.llama_model_decoder_start_token(model))
    c.llama_model_free(model)
    return start


def ids_of_llama_cpp(file: Path, text: str) -> list[int]:
    """The ids of a text by a file's tokenizer, special tokens added."""
    c = library()
    settings = c.llama_model_default_params()
    settings.vocab_only = True
    model = c.llama_model_load_from_file(str(file).encode(), settings)
    assert model, f"llama.cpp does not open {file}"
    found, data = (c.llama_token * 4096)(), text.encode()
    count = c.llama_tokenize(c.llama_model_get_vocab(model), data, len(data), found, len(found), True, True)
    c.llama_model_free(model)
    return list(found[:count])

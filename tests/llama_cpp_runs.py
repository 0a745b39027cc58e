"""llama.cpp itself, beside which GGUF files are held."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesaic.bench.peers.llama_cpp import library


def logits_of_llama_cpp(file: Path, ids: Sequence[int], causal: bool = True) -> npt.NDArray[np.float32]:
    """[tokens, vocabulary] of a file, keys and values in fp32; of an encoder the states, [tokens, hidden]."""
    c = library()
    model = c.llama_model_load_from_file(str(file).encode(), c.llama_model_default_params())
    assert model, f"llama.cpp does not open {file}"
    settings = c.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.type_k = settings.type_v = settings.flash_attn_type = 0
    settings.embeddings, settings.pooling_type = not causal, 0 if not causal else settings.pooling_type
    settings.n_threads = settings.n_threads_batch = 1
    context, batch = c.llama_init_from_model(model, settings), c.llama_batch_init(64, 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    run, answer = (c.llama_decode, c.llama_get_logits_ith) if causal else (c.llama_encode, c.llama_get_embeddings_ith)
    assert run(context, batch) == 0
    width = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model)) if causal else c.llama_model_n_embd(model)
    rows = [np.ctypeslib.as_array(answer(context, i), (width,)).copy() for i in range(len(ids))]
    c.llama_batch_free(batch)
    c.llama_free(context)
    c.llama_model_free(model)
    return np.stack(rows)


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

"""What tests of programs share: runners over random models of few values, and one instruction by itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from moesaic.bench.gpu.random_models import SHAPES, random_model
from moesaic.engine.runner import ModelRunner, Span
from moesaic.kernels.native import ISAS, native
from moesaic.kernels.native_program import Asked, Program
from moesaic.kernels.paged_attention import PagedTokens
from moesaic.models.rope import rotation
from moesaic.models.spec import INT8_DYNAMIC

LIBRARY = native()
if LIBRARY is None or ISAS[LIBRARY.isa] == "portable":
    pytest.skip("a program needs the C++ library and vector instructions", allow_module_level=True)

OPT = {
    "model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 64, "activation_function": "relu",
    "do_layer_norm_before": True, "tie_word_embeddings": True,
}  # fmt: skip
SPANS = [(0, [3, 4, 5, 6, 7, 8], range(0, 4)), (0, [9], range(4, 8)), (0, list(range(10, 45)), range(8, 12))]


def runner_of(kind: str, shape: str = "toy", programmed: bool = True, int8_pages: bool = False) -> ModelRunner:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "opt", OPT)
        if kind == INT8_DYNAMIC:
            patch.setattr("moesaic.bench.gpu.random_models.INT8", INT8_DYNAMIC)
        model = random_model(shape, "int8" if kind == INT8_DYNAMIC else kind, "cpu", torch.float32)
    return ModelRunner(model, 16, 64, torch.float32, int8_pages=int8_pages, programmed=programmed)


def spans_at(point: float = 0.0, scored: int = 1) -> list[Span]:
    return [Span(ids, start, table, point, scored) for start, ids, table in SPANS]


def alone(write: Callable[[Program], None], x: Tensor, asked: Asked | None = None) -> Tensor:
    """What one instruction makes of rows, followed by a copy of all of them."""
    assert LIBRARY is not None
    program = Program(LIBRARY, x.shape[1])
    write(program)
    rows, last = len(x), program.output
    program.gather(last, program.place(last.width))
    places = torch.zeros(rows, 1, dtype=torch.int32), torch.arange(rows, dtype=torch.int32) % 1, torch.arange(rows)
    tokens = PagedTokens(places[0][:1], places[1], places[2].int(), [rows], rows)
    turn = turns(rows, x.shape[1])
    return program.run(x.clone(), tokens, turn, asked or Asked(torch.zeros(rows), rows), torch.arange(rows), 2)[0]


def turns(rows: int, size: int) -> tuple[Tensor, Tensor]:
    cosine, sine = rotation(torch.arange(rows).unsqueeze(0), torch.rand(size // 2) + 0.1, torch.float32)
    return cosine[0, 0].contiguous(), sine[0, 0].contiguous()

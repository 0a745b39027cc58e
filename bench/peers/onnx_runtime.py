"""ONNX Runtime on an encoder: exported by torch, its attention, norms and GELU fused by ONNX Runtime's own optimizer,
and rounded to int8 by its dynamic quantization, a scale a channel.
"""

import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...models.checkpoint import open_checkpoint
from ...models.extras import is_missing
from ...models.locate import locate
from .kept import made_once
from .peer import Prompts
from .transformers_whole import mean_of, padded
from .whole import Made, Whole

KINDS = ("int8",)
_NEEDED = ("onnxruntime", "onnx", "transformers")
_DENSE, _FUSED, _INT8 = "dense.onnx", "fused.onnx", "int8.onnx"
_AXES, _FLOAT, _OPSET = {0: "texts", 1: "tokens"}, 1, 17
_INPUTS = ("input_ids", "attention_mask")


def why_absent() -> str:
    """Why it cannot be measured here; nothing where it can."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    return is_missing("ONNX Runtime", "peers", *missing) if missing else ""


class OnnxVectors(Whole):
    """A dense encoder directory in int8, with the mean of its states."""

    def __init__(self, source: str, kind: str, rows: int, context: int) -> None:
        super().__init__()
        self._library, folder = import_module("onnxruntime"), locate(source)
        weights = open_checkpoint(folder).files[0]
        self._file = made_once(weights, f"onnx-{kind}", partial(_export, folder)) / _INT8
        self.version, self.token_bytes = str(self._library.__version__), self._file.stat().st_size
        self.build = "fused, dynamic int8, a scale a channel"

    def opened(self, threads: int) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return self._library.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])

    def called(self, opened: Any, prompts: Prompts, num_new: int) -> Made:
        ids, mask = padded(prompts)
        [states] = opened.run(None, dict(zip(_INPUTS, (ids.numpy(), mask.numpy()), strict=True)))
        return Made([], mean_of(torch.from_numpy(states), mask).tolist())


class _States(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


def _export(source: Path, made: Path) -> None:
    library = import_module("transformers")
    library.utils.logging.disable_progress_bar()
    model = library.AutoModel.from_pretrained(str(source), dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {name: _AXES for name in (*_INPUTS, "states")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what tracing takes for constant
        torch.onnx.export(
            _States(model), (ids, torch.ones_like(ids)), str(made / _DENSE), input_names=[*_INPUTS],
            output_names=["states"], dynamic_axes=axes, dynamo=False, opset_version=_OPSET,
        )  # fmt: skip
    sizes = {"num_heads": model.config.num_attention_heads, "hidden_size": model.config.hidden_size}
    fused = import_module("onnxruntime.transformers.optimizer").optimize_model(
        str(made / _DENSE), model_type="bert", **sizes
    )
    fused.save_model_to_file(str(made / _FUSED))
    quantization = import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(
        made / _FUSED, made / _INT8, weight_type=quantization.QuantType.QInt8, per_channel=True,
        extra_options={"DefaultTensorType": _FLOAT},
    )  # fmt: skip
    for name in (_DENSE, _FUSED):
        (made / name).unlink()

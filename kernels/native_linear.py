"""The call into cpp/linear.cpp, for weights in int8 and in bf16."""

import torch

from .native import ISAS, Native


def linear_native(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None, library: Native
) -> torch.Tensor:
    """y[t, n] = scale[n] * sum_k x[t, k] * weight[n, k] + bias[n], summed in fp32; result in the dtype of x.

    x: [..., inputs] on the CPU; weight: int8 or bf16 [outputs, inputs], contiguous; scale: fp32 [outputs] or None.
    The caller has checked all of it. bf16 x is multiplied as bf16 where the processor can, else as fp32.
    """
    bf16 = x.dtype == torch.bfloat16 and ISAS[library.isa] == "avx512_bf16"
    source = x.contiguous() if bf16 or x.dtype == torch.float32 else x.float().contiguous()
    if bias is not None and bias.dtype != torch.float32:
        bias = bias.float()
    outputs, inputs = weight.shape
    tokens = source.numel() // inputs
    y = source.new_empty(tokens, outputs)
    library.library.moesaic_linear(
        source.data_ptr(),
        weight.data_ptr(),
        None if scale is None else scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        tokens,
        inputs,
        outputs,
        torch.get_num_threads(),
        library.isa,
        bf16,
        weight.dtype == torch.bfloat16,
    )
    y = y if x.dim() == 2 else y.view(*x.shape[:-1], outputs)
    return y if y.dtype == x.dtype else y.to(x.dtype)

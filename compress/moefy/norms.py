"""How much each tile puts out: what a router learns to foresee, and what a perfect one would know."""

import torch
from torch import Tensor
from torch.nn import functional

_ENTRIES = 1 << 22  # values of a chunk of tokens in memory at once: 16 MB


def tile_norms(h: Tensor, down: Tensor, size: int) -> Tensor:
    """norm[t, e] = ||D_e h_te||_2, fp32 [tokens, tiles]. h: [tokens, width], down: [hidden, width], in tile order.

    With D_e = Q_e R_e (Q_e orthonormal), ||D_e h|| = ||R_e h||, where R_e has at most `size` rows: no output of
    [tokens, tiles, hidden] is made, and nothing cancels as it would in sqrt(h' D_e' D_e h).
    The last tile may be short.
    """
    width = down.shape[1]
    if size < 1 or h.shape[1] != width:
        raise ValueError(f"h {list(h.shape)} does not fit down {list(down.shape)} in tiles of {size}")
    if size == 1:
        columns: Tensor = torch.linalg.vector_norm(down.float(), dim=0)
        return h.float().abs() * columns
    count = -(-width // size)
    missing = count * size - width
    blocks = functional.pad(down.float(), (0, missing)).view(-1, count, size)  # [hidden, tiles, size]
    factor = torch.linalg.qr(blocks.transpose(0, 1), mode="r").R  # [tiles, min(hidden, size), size]
    norms = h.new_empty(len(h), count, dtype=torch.float32)
    rows = max(1, _ENTRIES // (count * size))
    for begin in range(0, len(h), rows):
        part = functional.pad(h[begin : begin + rows].float(), (0, missing)).view(-1, count, size)
        turned = torch.bmm(part.transpose(0, 1), factor.mT)  # [tiles, tokens, min(hidden, size)]
        norms[begin : begin + rows] = torch.linalg.vector_norm(turned, dim=2).T
    return norms

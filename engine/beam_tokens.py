"""What each beam of a search offers: its likeliest next tokens, all beams of a step in one go."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .drawing import Drawing
from .sampler import changed_


@torch.inference_mode()
def likeliest(
    logits: Tensor, drawings: Sequence[Drawing], counts: Sequence[int]
) -> list[list[tuple[int, float]] | None]:
    """Of each row as many (id, log probability) as its count, the likeliest first, and none that may not come; None for
    logits that are not finite. logits: [rows, vocab].

    Rules and penalties change log probabilities here, not logits, as `transformers` has it.
    """
    logprobs = torch.log_softmax(logits.float(), -1)
    finite = torch.isfinite(logits.sum(-1)).tolist()
    rows = [row for row, drawing in enumerate(drawings) if drawing.is_changed]
    if rows:
        at = torch.tensor(rows, device=logits.device)
        logprobs[at] = changed_(logprobs[at], [drawings[row] for row in rows])
    found = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    pairs = zip(found.indices.tolist(), found.values.tolist(), counts, finite, strict=True)
    return [_offered(ids, values, count) if is_finite else None for ids, values, count, is_finite in pairs]


def _offered(ids: Sequence[int], values: Sequence[float], count: int) -> list[tuple[int, float]]:
    return [(token, value) for token, value in zip(ids, values, strict=True) if value > -torch.inf][:count]

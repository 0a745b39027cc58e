"""Log probabilities of tokens and of the likeliest beside them, by the model's own distribution."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .cut import largest
from .request import TokenLogprobs


def logprob_columns(logits: Tensor, tokens: Tensor, counts: Sequence[int | None]) -> Tensor:
    """Each row's log probability of its token, then `most` ids and theirs: float64 [rows, 1 + 2 most].

    counts: how many likeliest a row asks for; what it did not ask for is 0. No columns where no row asks.
    """
    asked = [row for row, count in enumerate(counts) if count is not None]
    if not asked:
        return logits.new_empty(len(counts), 0, dtype=torch.float64)
    most = min(max(count for count in counts if count is not None), logits.shape[-1])
    told = logits.new_zeros(len(counts), 1 + 2 * most, dtype=torch.float64)
    at = torch.tensor(asked, device=logits.device)
    told[at] = _columns(logits[at], tokens[at], most)
    return told


def logprobs_of(token: int, columns: Sequence[float], count: int) -> TokenLogprobs:
    """One row of such columns, with as many of the likeliest as it asked for."""
    most = len(columns) // 2
    ids, numbers = columns[1 : 1 + most], columns[1 + most :]
    return TokenLogprobs(token, columns[0], tuple((int(i), x) for i, x in zip(ids, numbers, strict=True))[:count])


def prompt_logprobs(logits: Tensor, ids: Sequence[int], count: int) -> list[TokenLogprobs]:
    """What was told of a prompt's tokens. logits: [tokens, vocab], from before each of `ids`."""
    columns = _columns(logits.float(), torch.tensor(list(ids), device=logits.device), min(count, logits.shape[-1]))
    return [logprobs_of(token, row, count) for token, row in zip(ids, columns.tolist(), strict=True)]


def distributions(logits: Tensor, rows: Sequence[int]) -> list[bytes]:
    """ln p of every entry, of these rows of logits [tokens, vocab]: float32, the least byte first."""
    told = torch.log_softmax(logits[list(rows)].float(), -1).cpu().numpy().astype("<f4")
    return [row.tobytes() for row in told]


def _columns(logits: Tensor, tokens: Tensor, most: int) -> Tensor:
    total = torch.logsumexp(logits, -1, keepdim=True)
    own = logits.gather(1, tokens.clamp(0, logits.shape[-1] - 1).unsqueeze(1))
    values, ids = largest(logits, most)
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return torch.cat([(own - total).double(), ids.gather(1, order).double(), (values - total).double()], 1)

"""From logits to the next tokens, all rows of a step in one go.

Rows are put into groups that go the same way: the likeliest token; one drawn from all; one drawn from those that a cut
leaves. A row pays for the options that it has. Within a way no shape and no number of an operation depends on the data,
and nothing comes back to the host until all is known; only on a CPU the number of a cut's candidates does.

A draw is by inverse transform in the order of ids: the first id whose cumulative probability passes the random number
of the row's position. So the same seed gives the same tokens, whichever way the cut was found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .candidates import cut_candidates
from .cut import BLOCK, Options, blocks, cut, weights
from .drawing import Drawing
from .logprobs import logprob_columns, logprobs_of
from .sampling import SMALLEST_TEMPERATURE, Sampling

_OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
_ALMOST_ONE = 1 - 2.0**-53
NOT_FINITE = "the model's logits are not finite"
NO_TOKEN = "the rules of this request leave no token that may come"


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next token of a row. finite: whether the model's logits are. error: why there is no token, else "", and
    refused: whether the rules of the request are.

    logprob, top: of the token and of the likeliest ones, (id, logprob), by the model's own distribution; where asked.
    """

    token: int
    finite: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""
    refused: bool = False
    beside: tuple[float, ...] = ()


@torch.inference_mode()
def draw(logits: Tensor, drawings: Sequence[Drawing], beside: Tensor | None = None) -> list[Drawn]:
    """The next token of every row. logits: [rows, vocab], on any device; they stay as they are.

    A row with logits that are not finite, or without a token that may come, is an error of that row alone.
    beside: [rows, n] more numbers that come to the host in the same copy.
    """
    if not drawings:
        return []
    logits = logits.float()
    finite = torch.isfinite(logits.sum(-1))  # a NaN or an infinity stays one in a sum
    tokens = logits.new_empty(len(drawings), dtype=torch.long)
    best = logits.new_empty(len(drawings))
    for way, rows in _ways(drawings).items():
        at = torch.tensor(rows, device=logits.device)
        members = [drawings[row] for row in rows]
        ours = logits if len(rows) == len(drawings) and not way.changed else logits[at]
        tokens[at], best[at] = way.next(changed_(ours, members) if way.changed else ours, members)
    told = logprob_columns(logits, tokens, [drawing.request.sampling.logprobs for drawing in drawings])
    columns = torch.stack([tokens.double(), finite.double(), best.double()], 1)
    more = columns[:, :0] if beside is None else beside
    on_host: list[list[float]] = torch.cat([columns, told, more], 1).tolist()
    return [_drawn(row, drawing, more.shape[1]) for row, drawing in zip(on_host, drawings, strict=True)]


def _drawn(row: Sequence[float], drawing: Drawing, num_beside: int) -> Drawn:
    token, finite, best, *told = row[: len(row) - num_beside]
    beside = tuple(row[len(row) - num_beside :])
    if not finite:
        return Drawn(-1, False, error=NOT_FINITE)
    if best == -math.inf:
        return Drawn(-1, True, error=drawing.error or NO_TOKEN, refused=True)
    count = drawing.request.sampling.logprobs
    if count is None:
        return Drawn(int(token), True, beside=beside)
    known = logprobs_of(int(token), told, count)
    return Drawn(int(token), True, known.logprob, known.top, beside=beside)


def plainly_drawn(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """Token and finite flag of every row, fp64 [rows, 2], each greedy or drawn at its temperature alone.

    logits: [rows, vocab]; temperature: fp64 [rows], 0 is greedy; uniform: fp64 [rows]. The same operations whatever the
    numbers are, and nothing comes to the host.
    """
    logits = logits.float()
    likeliest, best = greedy(logits)
    warm = temperature.clamp(min=SMALLEST_TEMPERATURE).float().unsqueeze(1)
    picked = _pick(weights(logits, best.unsqueeze(1), warm), uniform.unsqueeze(1))
    token = torch.where(temperature == 0, likeliest, picked)
    return torch.stack([token.double(), torch.isfinite(logits.sum(-1)).double()], 1)


# --- ways ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    """What rows have in common that go through the same operations."""

    greedy: bool
    cut: bool
    changed: bool

    def next(self, logits: Tensor, drawings: Sequence[Drawing]) -> tuple[Tensor, Tensor]:
        """Tokens and the largest logits, [rows] each."""
        if self.greedy:
            return greedy(logits)
        options, uniform = _options(drawings, logits.device)
        best = logits.amax(-1, keepdim=True)
        choose = drawn_from_cut if self.cut else drawn_from_all
        return choose(logits, best, options, uniform), best.squeeze(-1)


def _ways(drawings: Sequence[Drawing]) -> dict[_Way, list[int]]:
    """The rows of each way."""
    ways: dict[_Way, list[int]] = {}
    for row, drawing in enumerate(drawings):
        sampling = drawing.request.sampling
        is_greedy = sampling.temperature == 0
        is_cut = not is_greedy and bool(_asked(sampling))
        ways.setdefault(_Way(is_greedy, is_cut, drawing.is_changed), []).append(row)
    return ways


def _asked(sampling: Sampling) -> frozenset[str]:
    return frozenset(name for name, off in _OFF.items() if getattr(sampling, name) != off)


def _options(drawings: Sequence[Drawing], device: torch.device) -> tuple[Options, Tensor]:
    """All numbers of the rows and their random ones, in one copy to the device."""
    numbers, asked = [], frozenset[str]()
    for drawing in drawings:
        sampling = drawing.request.sampling
        temperature, top_k = max(sampling.temperature, SMALLEST_TEMPERATURE), sampling.top_k or math.inf
        cuts = top_k, sampling.top_p, sampling.min_p, sampling.typical_p
        numbers.append((temperature, *cuts, drawing.uniform))
        asked |= _asked(sampling)
    table = torch.tensor(numbers, dtype=torch.float64).to(device)
    return Options(table[:, :5], asked), table[:, 5:]


def changed_(logits: Tensor, drawings: Sequence[Drawing]) -> Tensor:
    """Penalties, biases and bans of these rows, and what the rules allow, written into their logits."""
    parts = [drawing.changes.tensors for drawing in drawings]
    rows = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(ids) for ids, _ in parts]))
    flat = (torch.cat([ids for ids, _ in parts]) + rows * logits.shape[-1]).to(logits.device)
    factor, summand = torch.cat([numbers for _, numbers in parts], 1).to(logits.device)
    before = logits.view(-1)[flat]
    largest = torch.finfo(logits.dtype).max  # a penalty may not make an infinity, from which no ban takes anything away
    penalised = torch.where(before > 0, before / factor, before * factor).clamp(-largest, largest)
    logits.view(-1)[flat] = penalised + summand
    for row, drawing in enumerate(drawings):
        allowed = drawing.allowed(logits.shape[-1], logits.device)
        if allowed is not None:
            logits[row].masked_fill_(~allowed, -torch.inf)
        if drawing.forced:
            logits[row].fill_(-torch.inf)
            logits[row, list(drawing.forced)] = 0.0
    return logits


# --- the token of a row --------------------------------------------------------------------------------------------


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the largest logits, and that."""
    parts = blocks(logits, -torch.inf)
    highest = parts.amax(-1)
    best, block = highest.max(-1)
    return block * BLOCK + _block(parts, block).argmax(-1), best


def drawn_from_all(logits: Tensor, best: Tensor, options: Options, uniform: Tensor) -> Tensor:
    """Drawn at a temperature alone."""
    return _pick(weights(logits, best, options.temperature), uniform)


def drawn_from_cut(logits: Tensor, best: Tensor, options: Options, uniform: Tensor) -> Tensor:
    """Drawn from what top_k, top_p, min_p and typical_p leave."""
    if logits.device.type != "cpu":
        return _pick(cut(logits, best, options), uniform)
    return _pick_of(*cut_candidates(logits, best, options), uniform)


def _pick_of(weight: Tensor, ids: Tensor, uniform: Tensor) -> Tensor:
    """[rows] drawn among few, in proportion to their weights."""
    ends = weight.double().cumsum(-1)
    return ids.gather(1, _first_above(ends, uniform * ends[:, -1:])).squeeze(1)


def _pick(weight: Tensor, uniform: Tensor) -> Tensor:
    """[rows] drawn in proportion to weights [rows, vocab]: first a block of them by its sum, then one in it."""
    parts = blocks(weight, 0.0)
    sums = parts.sum(-1).double()
    ends = sums.cumsum(-1)
    target = uniform * ends[:, -1:]
    block = _first_above(ends, target)
    sum_ = sums.gather(1, block)
    share = ((target - (ends.gather(1, block) - sum_)) / sum_).clamp(0, _ALMOST_ONE)
    inner = _block(parts, block.squeeze(1)).double().cumsum(-1)
    return (block * BLOCK + _first_above(inner, share * inner[:, -1:])).squeeze(1)


def _block(parts: Tensor, block: Tensor) -> Tensor:
    """[rows, BLOCK]: of each row the block of this number."""
    return parts.gather(1, block.view(-1, 1, 1).expand(-1, 1, BLOCK)).squeeze(1)


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """The first index whose end is above the target, [rows, 1]. Not found, as where all is NaN, is the last."""
    return (ends <= target).sum(-1, keepdim=True).clamp(max=ends.shape[-1] - 1)

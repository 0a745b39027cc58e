"""A small network that foresees the norm of each expert's output, learned from recorded pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.route import route_scores_torch
from ..schedule import Plan, learning_rate

_LEAST_BATCHES = 8  # of an epoch, so that little text is enough steps too
EpochReport = Callable[[int, int, float, float], None]  # epoch, epochs, training loss, captured mass


@dataclass(frozen=True, slots=True)
class RouterTraining:
    """width: hidden units; None: as many as experts. share: of all (token, expert) pairs, the part by whose mass a
    state of the router is judged.
    """

    width: int | None = None
    epochs: int = 30
    batch: int = 256
    learning_rate: float = 1e-2
    share: float = 0.25
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Router:
    """Foresees norms: kernels/route.py. first: [width, hidden], second: [experts, width], both fp32.

    captured: the part of the held-out norms' sum that lies in the pairs it scores highest; perfect: in the highest.
    """

    first: Tensor
    second: Tensor
    captured: float
    perfect: float
    epoch: int


def captured_mass(scores: Tensor, norms: Tensor, share: float) -> float:
    """The part of all norms [tokens, experts] that lies in the `share` of pairs with the highest scores.

    Over all tokens together, as one threshold a layer selects: a token may use more experts than another.
    """
    count = max(1, round(share * norms.numel()))
    chosen = torch.topk(scores.flatten(), count).indices
    total = float(norms.sum(dtype=torch.float64))
    return float(norms.flatten()[chosen].sum(dtype=torch.float64)) / total if total else 1.0


def centroids(vectors: Tensor, size: int) -> Tensor:
    """The mean of each expert's normalised rows, fp32 [experts, hidden]: where a router may begin.

    vectors: [neurons, hidden] in expert order, the ones that were clustered; the last expert may be short.
    """
    rows = functional.normalize(vectors.float(), dim=1)
    return torch.stack([part.mean(dim=0) for part in torch.split(rows, size)])


def train_router(
    x: Tensor,
    norms: Tensor,
    training: RouterTraining,
    initial: Tensor | None = None,
    progress: EpochReport | None = None,
) -> Router:
    """The regression router of D2DMoE (Szatkowski et al. 2024), but for what kernels/route.py says: mean squared error.

    x: [tokens, hidden], what the FFN saw; norms: [tokens, experts], from norms.tile_norms with every expert on.
    One token in ten is held out, and the epoch, the start among them, that captures most of its mass is returned.
    Both sides are in units of their root mean square; the weights are returned for x as it came, scores stay in units.
    initial: expert centroids [experts, hidden]; row e of the first matrix then begins as expert e's and is passed
    through by the second, as far as the width goes; the rest begins at random. Adam, a cosine after a short warm-up.
    Equal for a seed and a number of threads. Raises ValueError where there are fewer than 2 tokens.
    """
    generator = torch.Generator().manual_seed(training.seed)
    train, held_out = _divide(len(x), generator)
    input_unit, norm_unit = _root_mean_square(x), _root_mean_square(norms)
    weights = _initial(x.shape[1], norms.shape[1], training.width or norms.shape[1], initial, generator)
    weights = [each.to(x.device).requires_grad_() for each in weights]
    seen, true = x[held_out].float() / input_unit, norms[held_out].float()
    best, epoch_of_best, captured = weights, 0, -1.0
    losses = _epochs(x, norms, train, weights, (input_unit, norm_unit), training, generator)
    for epoch in range(training.epochs + 1):
        loss = next(losses) if epoch else float("nan")
        with torch.no_grad():
            mass = captured_mass(route_scores_torch(seen, *weights), true, training.share)
        if mass > captured:
            best, epoch_of_best, captured = [each.detach().clone() for each in weights], epoch, mass
        if progress is not None and epoch:
            progress(epoch, training.epochs, loss, mass)
    perfect = captured_mass(true, true, training.share)
    return Router(best[0] / input_unit, best[1], captured, perfect, epoch_of_best)


def _epochs(
    x: Tensor,
    norms: Tensor,
    train: Tensor,
    weights: list[Tensor],
    units: tuple[float, float],
    training: RouterTraining,
    generator: torch.Generator,
) -> Iterator[float]:
    """The mean loss of each epoch, after it has changed the weights."""
    optimizer = torch.optim.Adam(weights, fused=False, foreach=False)
    batch = max(1, min(training.batch, len(train) // _LEAST_BATCHES))
    batches = -(-len(train) // batch)
    plan = Plan(training.epochs * batches)
    for epoch in range(training.epochs):
        total = 0.0
        shuffled = train[torch.randperm(len(train), generator=generator)]
        for i, rows in enumerate(torch.split(shuffled, batch)):
            rate = learning_rate(plan, epoch * batches + i, training.learning_rate, 0.0, warmup_steps=50)
            total += len(rows) * _step(x[rows].float() / units[0], norms[rows].float() / units[1], optimizer, rate)
        yield total / len(train)


@torch.enable_grad()
def _step(x: Tensor, norms: Tensor, optimizer: torch.optim.Optimizer, rate: float) -> float:
    group = optimizer.param_groups[0]
    group["lr"] = rate
    loss = functional.mse_loss(route_scores_torch(x, *group["params"]), norms)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _divide(tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if tokens < 2:
        raise ValueError(f"a router learns from some tokens and is judged on others; there are {tokens}, not 2 or more")
    order = torch.randperm(tokens, generator=generator)
    held_out = max(1, tokens // 10)
    return order[held_out:], order[:held_out].sort().values


def _root_mean_square(values: Tensor) -> float:
    """1 where all is 0, so that it can divide."""
    total = sum(float(part.float().square().sum(dtype=torch.float64)) for part in torch.split(values, 65536))
    return (total / values.numel()) ** 0.5 or 1.0


def _initial(hidden: int, experts: int, width: int, rows: Tensor | None, generator: torch.Generator) -> list[Tensor]:
    """Chance in the sizes that keep the scale of x through a layer with ReLU; centroids as far as there is room."""
    first = torch.randn(width, hidden, generator=generator) * (2 / hidden) ** 0.5
    second = torch.randn(experts, width, generator=generator) * (1 / width) ** 0.5
    if rows is not None:
        given = min(width, experts)
        first[:given] = functional.normalize(rows[:given].float().cpu(), dim=1) * (2**0.5)
        second[:given, :given] = torch.eye(given)
        second[:given, given:] *= 0.1  # experts beyond the width begin at random: 0 would tell none of them apart
    return [first, second]

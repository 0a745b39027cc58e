"""One step of training: a batch cut into shares, a worker each, gradients added in order, then AdamW."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ...models.context import CausalContext, Context
from ...models.transformer import Transformer
from .description import Description
from .loss import TrainingContext, token_loss
from .place import Place

_ROWS = {"cpu": 256, "cuda": 8192}  # tokens whose logits are in memory at once


class Learner:
    """Trains `model` in place. Equal for equal weights, batches and place.

    Workers see the same weights through replicas that share their memory, and have gradients of their own.
    """

    def __init__(self, model: Transformer, description: Description, place: Place) -> None:
        self.model, self.place, self._description = model, place, description
        self._context: Context = CausalContext() if place.device.type == "cuda" else TrainingContext()
        self._replicas = [model, *(_replica(model) for _ in range(place.num_workers - 1))]
        self._hidden = [_hidden(replica, place.compiled) for replica in self._replicas]
        self._pool = ThreadPoolExecutor(place.num_workers)
        self.optimizer = _adamw(model, description)

    def step(self, rows: Tensor, rate: float) -> float:
        """Learns from windows [batch, context + 1]; the mean loss before it, nats per token."""
        total = rows.shape[0] * (rows.shape[1] - 1)
        shares = torch.tensor_split(rows.to(self.place.device), len(self._replicas))
        jobs = [self._pool.submit(self._backward, i, share, total) for i, share in enumerate(shares)]
        loss = sum(job.result() for job in jobs)
        self._gather_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._description.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def mean_loss(self, rows: Tensor) -> float:
        """The loss on windows [windows, context + 1] with the logits in fp32; learns nothing."""
        parts = torch.split(rows, max(1, 4096 // rows.shape[1]))
        losses = self._pool.map(self._forward, range(len(parts)), parts)
        return sum(losses) / (rows.shape[0] * (rows.shape[1] - 1))

    def _backward(self, worker: int, rows: Tensor, total: int) -> float:
        loss = self._loss(worker, rows, self.place.dtype) / total
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    @torch.no_grad()
    def _forward(self, number: int, rows: Tensor) -> float:
        return self._loss(number % len(self._replicas), rows.to(self.place.device), torch.float32).item()

    def _loss(self, worker: int, rows: Tensor, head_dtype: torch.dtype) -> Tensor:
        """The sum over the rows' targets. Without the cast cache, which threads would share."""
        device = self.place.device.type
        is_low = self.place.dtype != torch.float32
        with torch.autocast(device, self.place.dtype, enabled=is_low, cache_enabled=False):
            states = self._hidden[worker](rows[:, :-1], context=self._context)
        head = self._replicas[worker].embedding.weight
        return token_loss(states.flatten(0, 1), head, rows[:, 1:].flatten(), head_dtype, _ROWS[device])

    def _gather_gradients(self) -> None:
        for replica in self._replicas[1:]:
            for ours, theirs in zip(self.model.parameters(), replica.parameters(), strict=True):
                assert ours.grad is not None and theirs.grad is not None
                ours.grad += theirs.grad
                theirs.grad = None

    def moments(self) -> dict[str, Tensor]:
        """AdamW's running means by `exp_avg.NAME` and `exp_avg_sq.NAME`, fp32."""
        return {
            f"{kind}.{name}": self.optimizer.state[value][kind]
            for name, value in self.model.named_parameters()
            for kind in ("exp_avg", "exp_avg_sq")
        }

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor], step: int) -> None:
        """Puts weights and moments where they were after `step` steps."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(weights[name])
                kinds = {kind: moments[f"{kind}.{name}"].to(value.device) for kind in ("exp_avg", "exp_avg_sq")}
                count = torch.tensor(float(step), device=value.device)
                self.optimizer.state[value] = {"step": count, **kinds}

    def close(self) -> None:
        """Ends the workers."""
        self._pool.shutdown()


def _replica(model: Transformer) -> Transformer:
    with torch.device("meta"):
        replica = Transformer(model.spec)
    replica.load_state_dict({name: value.detach() for name, value in model.state_dict().items()}, assign=True)
    if model.spec.rope:
        replica.frequencies = model.frequencies
    return replica.requires_grad_(True).train()


def _hidden(model: Transformer, compiled: bool) -> Callable[..., Tensor]:
    return torch.compile(model.hidden) if compiled else model.hidden


def _adamw(model: Transformer, description: Description) -> torch.optim.AdamW:
    """Decay pulls matrices only: norms and biases have no scale to be kept small."""
    matrices = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": description.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (description.beta1, description.beta2)
    return torch.optim.AdamW(groups, lr=description.learning_rate, betas=betas, fused=True)

"""What a unit of a neuron's value is worth to the whole model, so that neurons of all layers meet in one ranking."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.context import CausalContext
from ...models.families.registry import is_expert_tensor
from ...models.linear import multiplied_out
from ...models.spec import DENSE, ExpertSpec, LayerSpec, TransformerSpec
from ...models.transformer import Layer, Transformer

TOKENS = 4096  # that gradients are taken at: a backward pass costs as much as two forward ones
_SEQUENCES = 2  # at once: [2 * length, vocabulary] logits are in memory three times
_SHRINKAGE = 0.01
Progress = Callable[[int, int], None]


def neuron_importance(
    checkpoint: Checkpoint, windows: Tensor, seed: int = 0, progress: Progress | None = None
) -> list[Tensor]:
    """importance[n] = sqrt(D_n' F D_n), fp32 [width] for each layer, on at most TOKENS tokens of `windows`.

    F [hidden, hidden] is the mean of g g' over tokens, where g is the gradient of log p(label) by what the FFN gives,
    for labels drawn from the model itself: the Fisher information (Amari 1998; no text decides it). A change d of the
    output costs about d' F d / 2 nats of KL divergence, so that leaving out a neuron of value h costs
    (h importance)^2 / 2. F is shrunk by 1 % towards a multiple of the identity; where it is 0, that is all there is.
    """
    model = _differentiable(checkpoint)
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    chosen = windows[: max(1, TOKENS // windows.shape[1])]
    fisher = _fisher(model, layers, chosen, seed, progress)
    downs = [layer.ffn.down.weight for layer in layers]
    return [_norms(each, down) for each, down in zip(fisher, downs, strict=True) if isinstance(down, Tensor)]


def _norms(fisher: Tensor, down: Tensor) -> Tensor:
    size = len(fisher)
    level = float(fisher.trace()) / size or 1.0
    shrunk = (1 - _SHRINKAGE) * fisher + _SHRINKAGE * level * torch.eye(size)
    return ((shrunk @ down) * down).sum(0).clamp(min=0).sqrt().detach()


@torch.inference_mode(False)
@torch.enable_grad()
def _fisher(
    model: Transformer, layers: list[Layer], windows: Tensor, seed: int, progress: Progress | None
) -> list[Tensor]:
    hidden = model.spec.hidden_size
    sums, done = [torch.zeros(hidden, hidden) for _ in layers], 0
    draw = torch.Generator().manual_seed(seed)
    for part in torch.split(windows.clone(), _SEQUENCES):
        for total, gradient in zip(sums, _gradients(model, layers, part, draw), strict=True):
            total += gradient.T @ gradient
        done += len(part)
        if progress:
            progress(done, len(windows))
    return [each / windows.numel() for each in sums]


def _gradients(model: Transformer, layers: list[Layer], ids: Tensor, draw: torch.Generator) -> list[Tensor]:
    """Of log p(labels) by what each FFN gives, [tokens, hidden] each."""
    x, turn = model.embed(ids)
    x, given = x.detach().requires_grad_(), []
    for layer in layers:
        x = layer.attend(x, turn, CausalContext())
        given.append(layer.ffn(layer.ffn_norm(x)))
        x = x + given[-1]
    logits = model.head(model.norm(x)).flatten(0, 1)
    labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=draw).squeeze(1)
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    return [gradient.flatten(0, 1) for gradient in torch.autograd.grad(loss, given)]


def _differentiable(checkpoint: Checkpoint) -> Transformer:
    """The full tier in fp32, int8 weights multiplied out."""
    with torch.device("meta"):
        model = Transformer(_dense_spec(checkpoint.spec))
    model.load_state_dict(dict(_dense_tensors(checkpoint)), strict=True, assign=True)
    if model.spec.rope:
        model.frequencies = model.frequencies.to("cpu")
    return model.requires_grad_(False)


def _dense_spec(spec: TransformerSpec) -> TransformerSpec:
    layers = (
        LayerSpec(
            replace(layer.attention, query=DENSE, key=DENSE, value=DENSE, output=DENSE),
            replace(layer.ffn, up=DENSE, gate=DENSE, down=DENSE, experts=ExpertSpec()),
        )
        for layer in spec.layers
    )
    return replace(spec, layers=tuple(layers), embedding=DENSE, head=DENSE, num_tiers=1)


def _dense_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    scales = {name: tensor for name, tensor in read_tensors(checkpoint) if name.endswith("_scale")}
    for name, tensor in read_tensors(checkpoint):
        if name not in scales and not is_expert_tensor(name):
            yield name, multiplied_out(name, tensor, scales)

"""What a unit of a neuron's value is worth to the whole model, so that neurons of all layers meet in one ranking."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...models.context import Context
from ...models.finite import NotFinite, check_range, in_range, naming
from ...models.linear import dense_weight, multiplied_out
from ...models.progress import Count
from ...models.spec import DENSE, AttentionSpec, ExpertSpec, TransformerSpec
from ...models.transformer import Layer, Transformer, Turns
from ..stage import Fit
from ..windows import Batch, Windows, batched, first_of, num_tokens

TOKENS = 4096  # that gradients are taken at: a backward pass costs as much as two forward ones
BACKWARD_TOKENS = 1024  # whose states at every layer are in memory
HEAD_TOKENS = 128  # whose logits are
HEAD_ROWS = 8192  # of the vocabulary, multiplied out at once
_SHRINKAGE = 0.01
Watch = Callable[[int, Layer], None]  # of a layer's number and its differentiable twin, before gradients go through it
Look = Callable[[Tensor], None]  # of gradients by logits, [tokens, vocab]


def importance_fit(hidden: int) -> Fit:
    """What `neuron_importance` needs of a model of this hidden size."""
    return Fit("importance of neurons", min(hidden, TOKENS), f"a gradient for each of {hidden:,} directions")


def neuron_importance(
    model: Transformer, windows: Windows, seed: int = 0, progress: Count | None = None
) -> list[Tensor]:
    """importance[n] = sqrt(D_n' F D_n), fp32 [width] for each layer, on at most TOKENS tokens of `windows`.

    F [hidden, hidden] is the mean of g g' over tokens, where g is the gradient of log p(label) by what the FFN gives,
    for labels drawn from the model itself: the Fisher information (Amari 1998; no text decides it). A change d of the
    output costs about d' F d / 2 nats of KL divergence, so that leaving out a neuron of value h costs
    (h importance)^2 / 2. Of an encoder, which foresees no label, log p is that of a normal distribution of variance 1
    about its last states: a change costs half of the squared distance by which it moves them. F is shrunk by 1 %
    towards a multiple of the identity; where it is 0, that is all there is.

    The full tier is looked at: forward as it computes, back in fp32. One layer at a time is multiplied out and gone
    back through; beside the model are held F of every layer, and the states of 1,024 tokens, or of one longer window,
    before every layer. Raises CheckpointError, with layer and tensor, where fp32 does not hold the model's numbers.
    """
    chosen = first_of(windows, TOKENS)
    fisher = _fisher(model, chosen, seed, progress)
    pairs = zip(fisher, _layers(model), strict=True)
    return [_norms(each, dense_weight(layer.ffn.down)) for each, layer in pairs]


def _layers(model: Transformer) -> list[Layer]:
    return [layer for layer in model.layers if isinstance(layer, Layer)]


def _norms(fisher: Tensor, down: Tensor) -> Tensor:
    size = len(fisher)
    level = float(fisher.trace()) / size or 1.0
    shrunk = (1 - _SHRINKAGE) * fisher + _SHRINKAGE * level * torch.eye(size, device=fisher.device)
    return ((shrunk @ down) * down).sum(0).clamp(min=0).sqrt().detach()


@torch.inference_mode(False)
@torch.no_grad()
def _fisher(model: Transformer, windows: Windows, seed: int, progress: Count | None) -> list[Tensor]:
    hidden, device, count = model.spec.hidden_size, model.device, num_tokens(windows)
    sums, done = [torch.zeros(hidden, hidden, device=device) for _ in model.layers], 0
    draw = torch.Generator().manual_seed(seed)
    for part in batched(windows, BACKWARD_TOKENS):
        for total, gradient in zip(reversed(sums), gradients(model, part.to(device), draw), strict=True):
            total += gradient.T @ gradient
        done += part.ids.numel()
        if progress:
            progress(done, count)
    return [each.div_(count) for each in sums]


def gradients(
    model: Transformer, batch: Batch, draw: torch.Generator, watch: Watch | None = None, look: Look | None = None
) -> Iterator[Tensor]:
    """The gradients of log p(labels) by what each FFN gives, [tokens, hidden] each, the last layer first; of an
    encoder, of log p(states) of a normal distribution about them.

    An FFN's output is added to the state, so that it has the gradient of the state after it, back through a norm where
    one stands between them. With a watch, who is shown each layer, gradients go through the first one too; `look` is
    shown those by logits.
    """
    (x, turns), context = model.embed(batch.ids), batch.context(model)
    states = []  # before each layer
    for layer in _layers(model):
        states.append(x)
        x = layer(x, turns, context)
    own, turns = turns, {name: (cosine.float(), sine.float()) for name, (cosine, sine) in turns.items()}
    if not in_range(x):
        check_range(model, batch.ids, batch.sources)
    ends = _through_head if model.spec.causal else _through_states
    gradient = ends(model, x.float(), draw, look)
    spec = _dense_spec(model.spec)
    for i, layer in reversed(list(enumerate(_layers(model)))):
        before = states.pop()
        yield _by_made(layer, before, own, context, gradient).flatten(0, 1)
        x = before.float()
        if i > 0 or watch:
            twin = _differentiable(layer, i, spec)
            if watch:
                watch(i, twin)
            gradient = _through_layer(twin, x, turns, context, gradient)
            _check(model, f"layers.{i}", gradient, "the gradient back through it holds NaN or infinity")


def _check(model: Transformer, part: str, values: Tensor, seen: str) -> None:
    with naming(model, part):
        if not values.isfinite().all():
            raise NotFinite(seen)


@torch.enable_grad()
def _through_layer(layer: Layer, x: Tensor, turns: Turns, context: Context, gradient: Tensor) -> Tensor:
    """The gradient by what a layer is given, from that by what it gives."""
    x.requires_grad_()
    found: Tensor = torch.autograd.grad(layer(x, turns, context), x, gradient)[0]
    return found


def _by_made(layer: Layer, x: Tensor, turns: Turns, context: Context, gradient: Tensor) -> Tensor:
    """The gradient by what a layer's FFN makes, from that by the state after the layer: the same but for a norm."""
    if layer.ffn_post_norm is None:
        return gradient
    given, state = layer.attend(x, turns, context)
    made, state = layer.ffn(given).float(), state.float()
    with torch.enable_grad():
        made.requires_grad_()
        normed = layer.ffn_post_norm(state + made if layer.norms_sums else made)
    found: Tensor = torch.autograd.grad(normed, made, gradient)[0]
    return found


def _through_head(model: Transformer, x: Tensor, draw: torch.Generator, look: Look | None) -> Tensor:
    """The gradient of log p(labels) by the state after the last layer, for labels that the model draws."""
    with torch.enable_grad():
        normed = model.norm(x.requires_grad_())
    parts = torch.split(normed.detach().flatten(0, 1), HEAD_TOKENS)
    by_normed = torch.cat([_by_normed(model, part, draw, look) for part in parts])
    found: Tensor = torch.autograd.grad(normed, x, by_normed.view_as(normed))[0]
    return found


def _through_states(model: Transformer, x: Tensor, draw: torch.Generator, look: Look | None) -> Tensor:
    """The gradient of log p(states) by the state after the last layer, for states that an encoder's own are the mean
    of: of variance 1 about it.
    """
    off = torch.randn(x.shape, generator=draw).to(x.device)  # the same ones on every device
    if not model.spec.last_norm:
        return off
    with torch.enable_grad():
        normed = model.norm(x.requires_grad_())
    found: Tensor = torch.autograd.grad(normed, x, off)[0]
    return found


def _by_normed(model: Transformer, normed: Tensor, draw: torch.Generator, look: Look | None) -> Tensor:
    """(onehot(label) - p) W, [tokens, hidden]"""
    logits = model.head(normed).float()
    off = torch.softmax(logits, -1)
    head = "embedding" if model.untied_head is None else "untied_head"
    _check(model, head, off, "the chances of the next token hold NaN")
    labels = torch.multinomial(off.cpu(), 1, generator=draw).to(off.device)  # the same ones on every device
    off.neg_().scatter_add_(1, labels, torch.ones_like(labels, dtype=off.dtype))
    if cap := model.spec.logit_soft_cap:
        off *= 1 - (logits / cap).square()  # the slope of the cap
    if look:
        look(off)
    table = model.embedding if model.untied_head is None else model.untied_head
    found = torch.zeros_like(normed, dtype=off.dtype)
    for begin in range(0, off.shape[1], HEAD_ROWS):
        rows = slice(begin, begin + HEAD_ROWS)
        found += off[:, rows] @ dense_weight(table, rows)
    return found


def _differentiable(layer: Layer, index: int, spec: TransformerSpec) -> Layer:
    """The dense twin in fp32, int8 weights multiplied out."""
    with torch.device("meta"):
        twin = Layer(index, spec, spec.layers[index])
    stored = layer.state_dict()
    scales = {name: tensor for name, tensor in stored.items() if name.endswith("_scale")}
    weights = {name: multiplied_out(name, stored[name], scales) for name in twin.state_dict()}
    twin.load_state_dict(weights, strict=True, assign=True)
    return twin.requires_grad_(False)


def _dense_spec(spec: TransformerSpec) -> TransformerSpec:
    layers = (
        replace(
            layer,
            attention=_dense_attention(layer.attention),
            cross=layer.cross and _dense_attention(layer.cross),
            ffn=replace(layer.ffn, up=DENSE, gate=DENSE, down=DENSE, experts=ExpertSpec()),
        )
        for layer in spec.layers
    )
    return replace(spec, layers=tuple(layers), embedding=DENSE, head=DENSE, num_tiers=1)


def _dense_attention(spec: AttentionSpec) -> AttentionSpec:
    return replace(spec, query=DENSE, key=DENSE, value=DENSE, output=DENSE)

"""How much the whole model's answer feels a unit of error in what each linear gives."""

from functools import partial

import torch
from torch import Tensor, nn

from ...models.host_memory import give_back_freed_memory
from ...models.progress import Count
from ...models.transformer import Layer, Transformer
from ..windows import Windows, batched, first_of, num_tokens
from .importance import TOKENS, gradients

LINEARS = ("attention.query", "attention.key", "attention.value", "attention.output", "ffn.gate", "ffn.up", "ffn.down")
PASS_TOKENS = 256  # whose states and gradients are in memory
HEADS = ("embedding", "untied_head")  # of a model whose head is tied, and of others
GROUPS = {  # of linears that read the same input
    "attention.input": LINEARS[:3],
    "attention.output": LINEARS[3:4],
    "ffn.input": LINEARS[4:6],
    "ffn.down": LINEARS[6:],
}


@torch.inference_mode(False)
@torch.no_grad()
def sensitivities(
    model: Transformer, windows: Windows, seed: int = 0, progress: Count | None = None
) -> dict[str, Tensor]:
    """By path of a linear, the head too where there is one, the mean over tokens of g^2, fp32 [outputs], on at most
    TOKENS tokens.

    g is the gradient of log p(label) by what the linear gives, for labels drawn from the model itself: the diagonal of
    the Fisher information (Amari 1998), so that errors e of the outputs cost about sum_n g_n^2 e_n^2 / 2 nats of KL
    divergence a token; of an encoder, as `neuron_importance` has it. Raises what that raises.
    """
    chosen = first_of(windows, TOKENS)
    seen = _Squares(HEADS[model.untied_head is not None])
    draw = torch.Generator().manual_seed(seed)
    done, count = 0, num_tokens(chosen)
    for part in batched(chosen, PASS_TOKENS):
        for _ in gradients(model, part.to(model.device), draw, seen.watch, seen.look):
            pass
        give_back_freed_memory()
        done += part.ids.numel()
        if progress:
            progress(done, count)
    return {path: total / count for path, total in seen.sums.items()}


class _Squares:
    """Sums of squares of what comes back to each linear of a twin, and to the head."""

    def __init__(self, head: str) -> None:
        self.sums: dict[str, Tensor] = {}
        self._head = head

    def look(self, gradient: Tensor) -> None:
        self._add(self._head, gradient)

    def watch(self, index: int, twin: Layer) -> None:
        there = dict(twin.named_modules())
        for name in LINEARS:
            if name in there:
                there[name].register_forward_hook(partial(self._follow, f"layers.{index}.{name}"))

    def _follow(self, path: str, module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        made.register_hook(partial(self._add, path))  # type: ignore[no-untyped-call]

    def _add(self, path: str, gradient: Tensor) -> None:
        squares = gradient.flatten(0, -2).square().sum(0)
        known = self.sums.get(path)
        self.sums[path] = squares if known is None else known + squares

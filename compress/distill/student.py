"""A model that learns from another: its weights in fp32, AdamW, and a state that can be saved and taken up again."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...models.files import new_directory
from ...models.finite import NotFinite
from ...models.spec import TransformerSpec
from ...models.transformer import Transformer
from ..material import Workshop

_MOMENTS = ("exp_avg", "exp_avg_sq")


def trainable(spec: TransformerSpec, tensors: Iterable[tuple[str, Tensor]]) -> Transformer:
    """The model of a spec with these weights as its own, integers as they are and all others in fp32, nothing packed,
    nothing learning yet.
    """
    with torch.device("meta"):
        model = Transformer(spec)
    weights = ((name, each.float() if each.is_floating_point() else each) for name, each in tensors)
    model.load_state_dict(dict(weights), strict=True, assign=True)
    return model.requires_grad_(False).train()


class Student:
    """The parameters of a model that learn, by name, and their optimizer."""

    def __init__(self, model: Transformer, names: Sequence[str], weight_decay: float) -> None:
        self.model = model
        self.parameters = dict(_named(model, names))
        for value in self.parameters.values():
            value.requires_grad_(True)
        decayed = [value for value in self.parameters.values() if value.ndim > 1]
        plain = [value for value in self.parameters.values() if value.ndim == 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)

    def step(self, rate: float, clip: float) -> None:
        """One step along the gradients, which are cleared. Raises NotFinite where they are no numbers."""
        if not nn.utils.clip_grad_norm_(list(self.parameters.values()), clip).isfinite():
            raise NotFinite("the gradient of what is learned is not finite")
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Weights that learn and their moments, whole or not at all."""
        state = {f"weight.{name}": value.detach() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            state |= {f"{kind}.{name}": self._optimizer.state[value][kind] for kind in _MOMENTS}
        with new_directory(folder, sum(value.nbytes for value in state.values())) as partial:
            save_file(state, partial / "state.safetensors")

    def load(self, folder: Path, step: int) -> None:
        """Goes back to what `save` wrote after so many steps."""
        state = load_file(folder / "state.safetensors")
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[f"weight.{name}"])
                moments = {kind: state[f"{kind}.{name}"].to(value.device) for kind in _MOMENTS}
                count = torch.tensor(float(step), device=value.device)
                self._optimizer.state[value] = {"step": count, **moments}


def _named(model: Transformer, names: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    wanted = set(names)
    for name, value in model.named_parameters():
        if name in wanted:
            yield name, value


def last_state(scratch: Path) -> tuple[int, Path] | None:
    """The newest state of a folder and the step it was saved after."""
    found = [(int(folder.name.removeprefix("step-")), folder) for folder in scratch.glob("step-*")]
    return max(found, default=None)


def learned_tensors(model: Transformer, workshop: Workshop) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors for the stages to come: in fp32 where one will round them, else as the original has them.

    A step of training is often smaller than half a step between bf16 numbers: rounded in between, it would be lost.
    """
    for name, value in model.state_dict().items():
        dtype = None if workshop.wide else workshop.original.stored_dtype(name)
        yield name, value.detach().to("cpu", dtype or value.dtype)

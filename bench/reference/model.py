"""The model that is trained: the one Transformer, with random weights.

Weights are normal with mean 0. A linear has the deviation 1 / sqrt(3 inputs), which keeps a normalised input's
size within a factor; the two that end in the residual stream (attention.output, ffn.down) are further divided by
sqrt(2 layers), so that the stream's size does not grow with depth (GPT-2). Embedding and positions have 0.02, so
the tied head's first logits are near zero and the first loss is near ln(vocabulary). Biases are 0, norms 1.
"""

import math

import torch
from torch import Tensor

from ...models.errors import SetupError
from ...models.families.config import Config
from ...models.families.registry import family_of
from ...models.spec import TransformerSpec
from ...models.transformer import Transformer
from .description import Description

_RESIDUAL = ("attention.output.weight", "ffn.down.weight")


def spec_of(description: Description) -> TransformerSpec:
    """The spec that the family makes of the description's config.json."""
    config = description.config()
    return family_of(config).spec(Config(config))


def empty_model(description: Description) -> Transformer:
    """The model without weights, on the meta device."""
    with torch.device("meta"):
        return Transformer(spec_of(description))


def count_parameters(description: Description) -> int:
    """Weights of the model; the head shares the embedding's."""
    return sum(value.numel() for value in empty_model(description).parameters())


def build_model(description: Description, device: torch.device) -> Transformer:
    """The model with its first weights, equal for equal seeds on every device."""
    model = empty_model(description)
    generator = torch.Generator().manual_seed(description.seed)
    weights = {
        name: _first_value(name, value.shape, description.layers, generator).to(device)
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights, strict=True, assign=True)
    if model.spec.rope:
        model.frequencies = model.frequencies.to(device)
    return model.requires_grad_(True).train()


def _first_value(name: str, shape: torch.Size, layers: int, generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
    deviation = 0.02 if name.startswith(("embedding", "positions")) else (3 * shape[1]) ** -0.5
    if name.endswith(_RESIDUAL):
        deviation /= math.sqrt(2 * layers)
    return torch.randn(shape, generator=generator) * deviation


def check_memory(description: Description, num_workers: int, available: int) -> None:
    """Raises SetupError where weights, gradients and moments, and a layer's activations, cannot fit `available`."""
    weights = 4 * count_parameters(description) * (4 + num_workers)
    tokens = description.batch * description.context
    # bf16 activations that backward needs: residual, norms, heads, the FFN twice, attention shares
    row = 16 * description.width + 4 * description.ffn_width + 2 * description.heads * description.context
    needed = weights + tokens * (row * description.layers + 8 * description.width)
    if needed > available:
        raise SetupError(
            f"training this description needs about {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free; "
            "make the model, the batch or the context smaller"
        )

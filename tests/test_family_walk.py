"""Layer by layer, forward and back, a model of any family is given what it is given as a whole."""

from pathlib import Path

import pytest
import torch
from family_cases import Case
from torch import Tensor

from moesaic.compress.diagnose.knowledge import token_scores
from moesaic.compress.moefy.importance import gradients
from moesaic.compress.walk import walk
from moesaic.compress.windows import Batch
from moesaic.models.checkpoint import load
from moesaic.models.transformer import Layer, Transformer

FAMILIES = ["llama", "gpt_neox", "gemma2", "gemma3_text", "olmo2", "smollm3"]
IDS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(3))


def of_made(model: Transformer, labels: Tensor) -> list[Tensor]:
    """The gradients of log p(labels) by what each FFN makes, by autograd through the whole model."""
    made = list[Tensor]()
    for layer in model.layers:
        assert isinstance(layer, Layer)
        layer.ffn.register_forward_hook(lambda module, given, found: made.append(found.requires_grad_()))
    chances = torch.log_softmax(model(IDS).flatten(0, 1), -1)
    return list(torch.autograd.grad(chances.gather(1, labels).sum(), made))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_walk_gives_each_layer_what_the_model_gives_it(family: str, tmp_path: Path) -> None:
    Case(family).build(tmp_path)
    model, seen, expected = load(tmp_path), list[Tensor](), list[Tensor]()
    walk(model, IDS, lambda index, ffn, given: seen.extend(given))
    for layer in model.layers:
        assert isinstance(layer, Layer)
        layer.ffn.register_forward_hook(lambda module, given, found: expected.append(given[0]))
    model(IDS)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(seen, expected, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_by_layers_are_those_of_autograd(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Case(family).build(tmp_path)
    labels = torch.arange(IDS.numel()).unsqueeze(1) * 3 % 256
    monkeypatch.setattr(torch, "multinomial", lambda chances, count, generator: labels)
    with torch.no_grad():
        found = list(gradients(load(tmp_path), Batch(IDS), torch.Generator()))
    for ours, exact in zip(reversed(found), of_made(load(tmp_path), labels), strict=True):
        assert (ours - exact.flatten(0, 1)).norm() <= 1e-4 * exact.norm()


def test_a_direction_speaks_through_the_gain_of_the_last_norm(tmp_path: Path) -> None:
    Case("gemma").build(tmp_path)
    model = load(tmp_path)
    value = torch.randn(48)
    expected = model.head((value * (1 + model.norm.weight)).unsqueeze(0))[0]
    assert torch.allclose(token_scores(model, value), expected)

"""Graded inputs of FFNs as the curves draw them: the kernels' function, within the bytes that were asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import llama, opt

from moesaic.bench.retention.by_gptq import ByGPTQ
from moesaic.bench.retention.encoders.page import in_short
from moesaic.bench.retention.graded_ffn import GradedInputs
from moesaic.bench.retention.layer import LabLayer
from moesaic.bench.retention.method import CalibrationData, NotHere
from moesaic.bench.retention.static import FewerBits
from moesaic.models.checkpoint import load
from moesaic.models.transformer import Layer

KINDS = pytest.mark.parametrize("kind", ["gelu", "relu", "gated"])


def learned(folder: Path, kind: str) -> tuple[GradedInputs, CalibrationData]:
    llama(folder) if kind == "gated" else opt(folder, activation_function=kind)
    torch.manual_seed(0)
    layers = [LabLayer.of(layer.ffn) for layer in load(folder).layers if isinstance(layer, Layer)]
    given = [torch.randn(200, layer.weights.up.shape[1]) * torch.rand(200, 1) for layer in layers]
    material = CalibrationData(layers, given, [0.1 + torch.rand(layer.width) for layer in layers], [], 0)
    method = GradedInputs(centred=kind == "gelu")
    method.learn(material, lambda *_: None)
    return method, material


@KINDS
def test_what_reads_all_of_it_gives_what_the_int8_ffn_gives(kind: str, tmp_path: Path) -> None:
    method, material = learned(tmp_path, kind)
    for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
        used = method.form(i, x, 1.5)(x)
        assert torch.allclose(used.y, layer.dense(x), atol=1e-4 * float(layer.dense(x).abs().max()))


@KINDS
def test_a_share_is_what_the_layers_read_in_the_mean(kind: str, tmp_path: Path) -> None:
    method, material = learned(tmp_path, kind)
    read = [float(method.form(i, x, 0.7)(x).bytes.mean()) for i, x in enumerate(material.given)]
    sizes = [layer.whole_bytes for layer in material.layers]
    mean = sum(share * size for share, size in zip(read, sizes, strict=True)) / sum(sizes)
    assert mean == pytest.approx(0.7, abs=0.03)


def test_less_than_scales_and_biases_is_told(tmp_path: Path) -> None:
    method, material = learned(tmp_path, "gelu")
    with pytest.raises(NotHere, match=r"what every token reads of graded inputs is more than 0\.02"):
        method.form(0, material.given[0], 0.02)


def test_in_short_the_best_of_each_kind_stands_at_its_bytes() -> None:
    points = [
        {"method": method, "share": 0.5, "bytes_share": 0.49, "columns": {"cosine": [cosine]}, "against_dense": {},
         "reason": reason}
        for method, cosine, reason in (
            ("high 2 bits, then 5", 0.8, ""), ("high 1 bit, then 4", 0.9, ""), ("FLAP pruning", 0.5, ""),
            ("int4 to nearest, groups of 32", 0.0, "these weights are 0.56 of the bytes"),
        )
    ]  # fmt: skip
    head, rows = in_short({"model": "minilm", "dense": {"columns": {"cosine": [1.0]}}, "points": points})
    assert head == ["minilm", "mean cosine, at 0.50 of the FFNs"]
    assert rows == [
        ["bit planes", "0.9000, reads 0.490"],
        ["pruning", "0.5000, reads 0.490"],
        ["int4 to nearest", "reads more"],
    ]


@KINDS
def test_gptq_errs_less_than_rounding_to_nearest_in_as_many_bytes(kind: str, tmp_path: Path) -> None:
    _, material = learned(tmp_path, kind)
    mixed = torch.randn(material.given[0].shape[1], material.given[0].shape[1])
    given = [x @ mixed for x in material.given]  # inputs that go together, of which GPTQ makes use
    errors = []
    for method in (FewerBits(4, 32), ByGPTQ(4, 32)):
        method.learn(replace(material, given=given), lambda *_: None)
        used = [method.form(i, x, 0.56)(x) for i, x in enumerate(given)]
        off = [
            float((each.y - layer.dense(x)).norm()) for each, layer, x in zip(used, material.layers, given, strict=True)
        ]
        errors.append((sum(off), float(used[0].bytes[0])))
    assert errors[1][0] < errors[0][0] and errors[0][1] == errors[1][1]

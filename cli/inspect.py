"""`moesaic inspect PATH`: what a model directory holds, from its headers alone; what it does, from a run over text."""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .inspect_record import print_record
from .terminal import ProgressLine, print_table

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..models.spec import FFNSpec, TransformerSpec


_PLACES = {"after": "after", "both": "before and after", "of sums": "of the sum behind"}
EXAMPLES = """examples:
  moesaic inspect stories260k
  moesaic inspect out/all-four --experts
  moesaic inspect out/all-four --experts --text                        # runs the model over the text that ships
  moesaic inspect out/all-four --experts --text a.txt b.txt --picture experts.png
  moesaic inspect smollm2 --memory 3:17 12:880 --text a.txt --top 10   # neurons 17 of layer 3 and 880 of layer 12
  moesaic inspect out/moe --memory 3:e12                               # expert 12 of layer 3"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", help="show what a model directory holds and, over text, what its neurons and experts do",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="model directory or short name")
    parser.add_argument("--experts", action="store_true", help="experts and what each tier computes, layer by layer")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON: spec, record, what text showed")
    group = parser.add_argument_group("running the model over text (the above reads no weights)")
    group.add_argument(
        "--text", nargs="*", metavar="FILE", help="with --experts or --memory; no FILE: the calibration text that ships"
    )
    group.add_argument(
        "--memory", nargs="+", default=[], metavar="LAYER:NEURON",
        help="what fires a neuron, and which tokens it speaks for; LAYER:eN for expert N",
    )  # fmt: skip
    group.add_argument("--tokens", type=int, default=8192, metavar="N", help="of the text, at most (default: 8192)")
    group.add_argument("--top", type=int, default=5, metavar="N", help="contexts and tokens that --memory shows")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU, if there is one)")
    group.add_argument("--picture", metavar="FILE", help="with --experts --text: draw the figures as a PNG")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints what the directory holds and, where text was asked for, what it showed."""
    from ..models.checkpoint import open_checkpoint
    from .inspect_text import look, print_findings

    checkpoint = open_checkpoint(args.path)
    with ProgressLine() as progress:
        found = look(checkpoint, args, progress)
    if args.json:
        print(json.dumps(_as_json(checkpoint) | found.to_json(), indent=2))
        return 0
    if not args.memory or args.experts:
        _print_holdings(checkpoint, args.experts)
    print_findings(found)
    return 0


def _print_holdings(checkpoint: "Checkpoint", experts: bool) -> None:
    """Sizes, layers of equal shape together, formats, tiers, and the stages that made the model."""
    from ..models.program import gap

    spec = checkpoint.spec
    position, missing = "rotary" if spec.rope else spec.positions, gap(spec)
    head = f"{'tied' if spec.tied_head else 'untied'} head" if spec.continues_text else spec.kind
    print(f"{checkpoint.path}")
    print(
        f"{spec.family}: {len(spec.layers)} layers, hidden {spec.hidden_size}, vocabulary {spec.vocab_size}, "
        f"context {spec.max_context}, {position} positions, {head}"
    )
    dtypes = ", ".join(f"{name} {count:,}" for name, count in _bytes_by_dtype(checkpoint).items())
    print(f"{checkpoint.weight_bytes:,} bytes of weights ({dtypes}); embedding {spec.embedding}")
    if labels := checkpoint.labels:
        print(f"classifies: {len(labels.names)} labels, {', '.join(labels.names)}; {labels.problem}")
    print(f"a step on a CPU: {f'module by module, since {missing}' if missing else 'one call of C++'}")
    if told := _features(spec):
        print(f"beside that: {', '.join(told)}")
    for notice in checkpoint.record.notices:
        print(f"note: {notice}")
    print()
    print_table(*_layer_table(checkpoint))
    if experts:
        print()
        print_table(*_expert_table(checkpoint))
    print_record(checkpoint.record)


def _features(spec: "TransformerSpec") -> list[str]:
    """What these layers have that a plain Llama has not."""
    layers, attention = spec.layers, [layer.attention for layer in spec.layers]
    windows, still = sorted({a.window for a in attention if a.window}), sum(a.rotary == "none" for a in attention)
    return [
        *(f"a window of {w} in {sum(a.window == w for a in attention)} of {len(layers)} layers" for w in windows),
        *(f"scores up to {cap:g}" for cap in sorted({a.soft_cap for a in attention if a.soft_cap})),
        *([f"logits up to {spec.logit_soft_cap:g}"] if spec.logit_soft_cap else []),
        *(["norms of queries and keys"] if any(a.qk_norm != "none" for a in attention) else []),
        *(f"norms {place} each block" for n, place in _PLACES.items() if any(layer.norms == n for layer in layers)),
        *(
            [f"attention to a source that an encoder of {len(spec.encoder.layers)} layers reads"]
            if spec.encoder
            else []
        ),
        *(["attention and FFN in parallel"] if any(layer.parallel for layer in layers) else []),
        *([f"{still} layers without positions"] if still and spec.rope else []),
        *(["positions of their own in local layers"] if spec.local_rope else []),
        *([f"rotation of {spec.rope.rotated} values of a head"] if spec.rope and spec.rope.rotated else []),
        *([f"{spec.rope.scaling} positions"] if spec.rope and spec.rope.scaling != "default" else []),
    ]


def _bytes_by_dtype(checkpoint: "Checkpoint") -> dict[str, int]:
    counts = Counter[str]()
    for entry in checkpoint.entries.values():
        counts[entry.dtype] += entry.num_bytes
    return dict(counts.most_common())


def _layer_table(checkpoint: "Checkpoint") -> tuple[list[str], list[list[str]]]:
    """A row for neighbouring layers of one shape."""
    encoder = checkpoint.spec.encoder
    rows = [*(_layer_rows(encoder, "encoder ") if encoder else ()), *_layer_rows(checkpoint.spec)]
    return ["layers", "heads", "KV heads", "head size", "FFN", "activation", "attention", "FFN format"], rows


def _layer_rows(spec: "TransformerSpec", side: str = "") -> Iterator[list[str]]:
    first = 0
    for layer, group in groupby(spec.layers):
        last = first + len(list(group)) - 1
        a, f = layer.attention, layer.ffn
        formats = ["/".join(sorted(set(names))) for names in ([a.query, a.key, a.value, a.output], [f.up, f.down])]
        where = f"{first}-{last}" if last > first else str(first)
        yield [
            f"{side}{where}", str(a.num_heads), str(a.num_kv_heads), str(a.head_size),
            f"{_of_mixture(f)}{f.width}{' gated' if f.gated else ''}", f.activation, *formats,
        ]  # fmt: skip
        first = last + 1


def _of_mixture(ffn: "FFNSpec") -> str:
    return f"{ffn.mixture.active} of {ffn.mixture.num_experts} x " if ffn.mixture.num_experts else ""


def _expert_table(checkpoint: "Checkpoint") -> tuple[list[str], list[list[str]]]:
    """A row a layer: its experts, and the share of them that is computed at each tier."""
    tiers = checkpoint.record.tiers
    rows = []
    for i, layer in enumerate(checkpoint.spec.layers):
        experts = layer.ffn.experts
        kind = f"{experts.count(layer.ffn.width)} of {experts.size}" if experts.size else "none"
        router = {
            "bit_planes": f"high {experts.router_bits} bits, refined to {experts.refined_bits}",
            "norm_regression": f"{experts.router_width} wide",
        }
        active = [f"{tier.calibrated['active_by_layer'][i]:.3f}" for tier in tiers]
        rows.append([str(i), str(layer.ffn.width), kind, router.get(experts.router, ""), *active])
    return ["layer", "neurons", "experts", "router", *(f"active at {tier.name}" for tier in tiers)], rows


def _as_json(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Every figure that the tables show, and what stands behind them."""
    spec, record = checkpoint.spec, checkpoint.record
    return {
        "path": str(checkpoint.path),
        "weight_bytes": checkpoint.weight_bytes,
        "bytes_by_dtype": _bytes_by_dtype(checkpoint),
        "spec": dataclasses.asdict(spec),
        "labels": checkpoint.labels and dataclasses.asdict(checkpoint.labels),
        "num_experts": [layer.ffn.experts.count(layer.ffn.width) for layer in spec.layers],
        "stages": [dataclasses.asdict(stage) for stage in record.stages],
        "tiers": [dataclasses.asdict(tier) for tier in record.tiers],
    }

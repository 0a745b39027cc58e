"""Every method on a model with an encoder, kept as it is measured, so that a run that ends goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ....compress.answers import ANSWER_TOKENS
from ....compress.calibration import Calibration, CalibrationSettings
from ....compress.moefy.centres import leans
from ....evaluate.embeddings import Retrieval, vectors_of
from ....evaluate.pairs import answered, start_of
from ....evaluate.provenance import provenance
from ....evaluate.texts import encode_documents, read_documents
from ....models.checkpoint import Checkpoint, load_transformer, open_checkpoint
from ....models.errors import RecipeError
from ....models.progress import Progress
from ....models.sentences import Sentences
from ....models.spec import DENSE as FLOATING
from ....models.spec import TransformerSpec
from ....models.threads import choose_threads, torch_threads
from ....models.tokenizer import Tokenizer
from ..by_gptq import ByGPTQ
from ..experts import PERFECT, Experts
from ..graded_ffn import GradedInputs
from ..grid import default_method
from ..inputs import Inputs
from ..method import Method
from ..planes import Planes
from ..run import chosen, key_of
from ..static import FewerBits, Pruned
from ..store import PointStore
from .lab import EncoderLab, EncoderPoint, OfAnswers, OfVectors

DENSE = "dense int8"  # its FFNs
SHARES = (0.55, 0.25)  # of which the second pays for experts of 32 at 20 % and their router
_SIZE = 32


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """text: files that nothing was chosen on, `documents` of each, cut at `length` tokens; calibration_text: others,
    of which methods learn from `calibration` windows of as many tokens; the text that ships where none is named.
    """

    model: str
    out: Path
    text: tuple[str, ...]
    calibration_text: tuple[str, ...] = ()
    documents: int = 100
    length: int = 128
    calibration: int = 64
    seed: int = 0
    shares: tuple[float, ...] = ()
    only: tuple[str, ...] = ()

    def check(self, spec: TransformerSpec) -> None:
        """Raises RecipeError for what makes no sense."""
        for name, least in (("documents", 2), ("length", 8), ("calibration", 1)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, it must be at least {least}")
        most = (spec.encoder or spec).max_context
        if self.length > most:
            raise RecipeError(f"length is {self.length}, this model's encoder reads {most} tokens; lower it")
        for share in self.shares:
            if not 0 < share <= 1:  # a NaN too
                raise RecipeError(f"share is {share}; a share of the FFN's bytes lies above 0 and goes up to 1")
        sides = (*spec.layers, *(spec.encoder.layers if spec.encoder else ()))
        if any(FLOATING != each for layer in sides for each in (layer.ffn.up, layer.ffn.gate, layer.ffn.down)):
            raise RecipeError("this model has int8 weights, the curves start from floating point; name the one before")


@dataclass(frozen=True, slots=True)
class EncoderCurves:
    """What was measured. original: of the model as it came; dense: with its FFNs in int8."""

    plan: EncoderPlan
    original: EncoderPoint
    dense: EncoderPoint
    points: Sequence[EncoderPoint]
    facts: Mapping[str, Any]


def methods_for(spec: TransformerSpec) -> list[Method]:
    """MoEfication as published (Zhang et al. 2022): experts of 32 by weights and by co-activation, an MLP that routes
    to a fixed number of them; beside them a perfect router, bit planes, graded inputs, columns left out, pruning, int4.
    """
    constant = default_method(spec).compensate
    published = [Experts(_SIZE, split, "MLP", "top-k", compensate=False) for split in ("co-activation", "weights")]
    ours = [Experts(_SIZE, "co-activation", router) for router in ("MLP", "norm regression", PERFECT)]
    planes = [Planes(bits, compensate=constant) for bits in (4, 3, 2, 1)]
    graded = [GradedInputs(centred) for centred in (False, True)[: 1 + leans(spec.layers[0].ffn)]]
    inputs = [Inputs(weighted) for weighted in (False, True)]
    fewer = [kind(4, columns) for kind in (FewerBits, ByGPTQ) for columns in (32, 128)]
    return [*published, *ours, *planes, *graded, *inputs, Pruned("FLAP"), Pruned("Fisher"), *fewer]


def draw_encoder_curves(plan: EncoderPlan, progress: Progress) -> EncoderCurves:
    """Measures what is not in `out` yet.

    Raises RecipeError for a plan that makes no sense, TextError for text too short, CheckpointError for the model.
    """
    checkpoint = open_checkpoint(plan.model)
    plan.check(checkpoint.spec)
    methods, shares = chosen(methods_for(checkpoint.spec), plan.only), plan.shares or SHARES
    settings = CalibrationSettings(
        text=list(plan.calibration_text), sequences=plan.calibration, length=plan.length, seed=plan.seed
    )
    calibration, documents = Calibration(settings, checkpoint), _documents(plan, checkpoint)
    with torch_threads(choose_threads(None, checkpoint.weight_bytes)):
        original, scored = _scored(checkpoint, documents, progress)
        read = torch.tensor([token for ids in documents for token in ids])
        store = PointStore(plan.out, key_of(checkpoint, plan.seed, calibration.windows, read), _point)
        wanted = [(method.name, share) for method in methods for share in shares]
        if store.missing([(DENSE, 1.0), *wanted]):
            _measure(EncoderLab(checkpoint, calibration, scored, progress), methods, shares, store)
    facts = {
        "model": Path(plan.model).name, "family": checkpoint.spec.family, "seed": plan.seed,
        "activation": checkpoint.spec.layers[0].ffn.activation, "gated": checkpoint.spec.layers[0].ffn.gated,
        "text": [Path(file).name for file in plan.text], "documents": len(documents), "length": plan.length,
        "calibration_text": calibration.names, "calibration_tokens": calibration.windows.numel(),
        "provenance": provenance(),
    }  # fmt: skip
    return EncoderCurves(plan, original, store.points[DENSE, 1.0], [store.points[each] for each in wanted], facts)


def _measure(
    lab: EncoderLab, methods: Sequence[Method], shares: Sequence[float], store: PointStore[EncoderPoint]
) -> None:
    if (DENSE, 1.0) not in store.points:
        store.add(lab.dense(DENSE))
    for method in methods:
        missing = [share for share in shares if (method.name, share) not in store.points]
        for point in lab.points(method, missing) if missing else ():
            store.add(point)


def _point(**values: Any) -> EncoderPoint:
    return EncoderPoint(**values)


def _documents(plan: EncoderPlan, checkpoint: Checkpoint) -> list[list[int]]:
    """The first documents of each file as token ids, those with a half that says little left out by their length."""
    tokenizer, found = Tokenizer.open(checkpoint.path), list[list[int]]()
    before, behind = tokenizer.around
    for file in plan.text:
        encoded = encode_documents(read_documents([file]), tokenizer, None, checkpoint.spec.vocab_size)
        whole = [ids for ids in encoded if len(ids) >= plan.length][: plan.documents]
        found += [[*ids[: plan.length - len(behind)], *behind] for ids in whole]
    if len(found) < 2:
        raise RecipeError(f"fewer than 2 documents have {plan.length} tokens; lower length or give longer text")
    return found


def _scored(
    checkpoint: Checkpoint, documents: Sequence[Sequence[int]], progress: Progress
) -> tuple[EncoderPoint, OfVectors | OfAnswers]:
    """What is scored, and what the model as it came is worth by it."""
    model = load_transformer(checkpoint, torch.device("cpu"), "float32")
    scored: OfVectors | OfAnswers
    if checkpoint.spec.reads_sources:
        most = min(ANSWER_TOKENS, checkpoint.spec.max_context - 1)
        scored = OfAnswers(answered(checkpoint, model, documents, most), start_of(checkpoint))
    else:
        sentences, tokenizer = Sentences.open(checkpoint.path), Tokenizer.open(checkpoint.path)
        kind, window = sentences.pooling.kind, sentences.window_within(checkpoint.spec.max_context)
        material = Retrieval.of_halves(documents, tokenizer, window)
        original = vectors_of(model, material.texts, kind, partial(progress, "vectors of the original"))
        scored = OfVectors(material, kind, original)
    return EncoderPoint("original", "dense", 1.0, 1.0, 1.0, scored.columns(model, progress)), scored

"""From a model directory to a running engine, with what was left open chosen from the machine."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Protocol

import torch

from ..kernels.paged_attention import BLOCK_TOKENS
from ..models.checkpoint import Checkpoint, compute_dtype, dense_dtype, load_transformer, open_checkpoint
from ..models.cost import governed_bytes, token_cost
from ..models.devices import choose_device, memory_named
from ..models.errors import SetupError
from ..models.host_memory import large_pieces_given_back, memory_bytes
from ..models.packing import pack_digits_
from ..models.sentences import LAST, Pooling, Sentences
from ..models.spec import INT8
from ..models.step_share import StepShare
from ..models.threads import choose_threads
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .encoder import STEP_TEXTS, EncoderEngine, EncoderRunner
from .engine import Engine
from .form import Forms
from .guided import Guides
from .options import EngineOptions, ModelDescription
from .own_rules import OwnRules
from .pages import block_bytes
from .request import Limits, Load, Request, Row
from .runner import ModelRunner
from .threads import ThreadGovernor, is_crowded

_WAY_OUT = "give --device cpu, or lower --kv-memory or --max-context"
FREE_PART = 0.25  # of the free memory: on a CPU what blocks do not use is not taken, on a GPU others may want some


class Steps(Protocol):
    """What whoever has requests needs of an engine."""

    @property
    def has_work(self) -> bool: ...
    @property
    def load(self) -> Load: ...
    def add(self, request: Request) -> None: ...
    def abort(self, key: int, choice: int | None = None) -> None: ...
    def step(self) -> list[Row]: ...


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine with what a front end needs to know of it."""

    engine: Steps
    limits: Limits
    description: ModelDescription
    model: Transformer


def build_engine(path: str, options: EngineOptions) -> BuiltEngine:
    """Loads the model at a path or short name. Raises SetupError with one sentence for what cannot be.

    Sets torch's number of threads, which is the process's: an engine process holds one model. Unless a number was
    asked for, it is changed between steps, by how busy the processors are with other programs.
    """
    with large_pieces_given_back(), memory_named(f"loading {Path(path).name}", _WAY_OUT):
        return _built(path, options)


def _built(path: str, options: EngineOptions) -> BuiltEngine:
    options.check()
    checkpoint = open_checkpoint(path)
    options = replace(options, kv_cache=options.kv_cache or checkpoint.spec.kv_cache)
    if not checkpoint.spec.continues_text:
        return _encoder(checkpoint, options)
    step, sourced = step_of(checkpoint, options.step_share), checkpoint.spec.reads_sources
    own = OwnRules.read(checkpoint.path, checkpoint.spec.vocab_size, sourced)
    device = choose_device(options.device)
    threads = choose_threads(options.threads, checkpoint.weight_bytes)
    torch.set_num_threads(threads)
    dtype = compute_dtype(checkpoint, device, options.dtype)
    max_context = choose_context(checkpoint, options)
    choose_blocks(checkpoint, dtype, options, max_context, free_bytes(device))  # refuses before anything is loaded
    model = load_transformer(checkpoint, device, options.dtype)
    num_blocks = choose_blocks(checkpoint, dtype, options, max_context, free_bytes(device))
    if sourced and device.type == "cpu":
        pack_digits_(model)
    runner = ModelRunner(model, num_blocks, max_context, dtype, step, options.kv_cache == INT8)
    forms = Forms(runner) if device.type == "cuda" and step is None and not sourced else None
    if forms:
        forms.warm(options.num_slots)
    runner.use_threads(threads)
    watched = _govern(threads, runner.use_threads) if options.threads is None and device.type == "cpu" else nullcontext
    eos_ids = Tokenizer.open(checkpoint.path).eos_ids
    engine = Engine(
        runner, eos_ids, options.seed, options.num_slots,
        watched=watched, forms=forms, guides=Guides(checkpoint.path, eos_ids), own=own,
    )  # fmt: skip
    cache_tokens = runner.num_blocks * runner.block_tokens
    limits = Limits(
        checkpoint.spec.vocab_size, max_context, options.num_slots, cache_tokens, runner.block_tokens,
        source_within(checkpoint, max_context),
    )  # fmt: skip
    description = replace(
        _described(checkpoint, device, dtype, threads, options),
        max_context=max_context,
        kv_tokens=cache_tokens,
        kv_bytes=runner.num_blocks * block_bytes(checkpoint.spec, dtype, options.kv_cache == INT8),
        without_program=runner.without_program,
    )
    return BuiltEngine(engine, limits, description, model)


def _encoder(checkpoint: Checkpoint, options: EngineOptions) -> BuiltEngine:
    """The same of an encoder or a classifier, which keep no keys and values. The window is what the directory names
    for texts, unless another is asked for that there are positions for.
    """
    if options.step_share is not None:
        raise SetupError(
            f"step_share is {options.step_share}, and {checkpoint.spec.kind} decodes nothing; leave it out"
        )
    sentences = Sentences.open(checkpoint.path)
    looks_back = checkpoint.spec.causal and not checkpoint.spec.embeds
    pooling = Pooling(LAST) if looks_back else sentences.pooling  # there the last token has seen all
    device = choose_device(options.device)
    threads = choose_threads(options.threads, checkpoint.weight_bytes)
    torch.set_num_threads(threads)
    largest = choose_context(checkpoint, options)
    window = sentences.window_within(largest) if options.max_context is None else largest
    model = load_transformer(checkpoint, device, options.dtype)
    if device.type == "cpu":
        pack_digits_(model)
    reader = EncoderRunner(model)
    reader.use_threads(threads)
    governed = options.threads is None and device.type == "cpu"
    watched = _govern(threads, reader.use_threads) if governed else nullcontext
    options = replace(options, num_slots=max(options.num_slots, STEP_TEXTS))
    limits = Limits(checkpoint.spec.vocab_size, window, options.num_slots)
    description = replace(
        _described(checkpoint, device, compute_dtype(checkpoint, device, options.dtype), threads, options),
        max_context=window,
        without_program=reader.without_program,
        pooling=pooling,
        labels=checkpoint.labels,
        instead=checkpoint.spec.kind,
    )
    return BuiltEngine(EncoderEngine(reader, options.num_slots, watched=watched), limits, description, model)


def _govern(threads: int, set_threads: Callable[[int], None]) -> Callable[[], AbstractContextManager[None]]:
    """What is entered around each step so that the number of threads follows the load; nothing for one thread."""
    if threads == 1:
        return nullcontext
    processors = os.cpu_count() or threads
    return ThreadGovernor(threads, set_threads, lambda count: is_crowded(count, processors)).step


def step_of(checkpoint: Checkpoint, share: float | None) -> StepShare | None:
    """What the rows of a decode step may read together; None where each is alone. Raises SetupError."""
    if share is None:
        return None
    tiers = checkpoint.record.tiers
    least = [points[-1][1] for tier in tiers for points in tier.together.values()]
    if not least:
        raise SetupError(
            f"step_share is {share}, and {checkpoint.path.name} has no tiers of bit planes that were calibrated for "
            "it, on two passages or more; leave step_share out, or compress with `moefy: {router: bit_planes}`"
        )
    if share < max(least):
        raise SetupError(
            f"step_share is {share}, and the steps of this model's tiers read {max(least):.3f} of the FFN's bytes at "
            "least; raise it, or leave it out"
        )
    return StepShare(tiers, share)


def free_bytes(device: torch.device) -> int:
    """What a device has for keys and values: on a GPU what is free now, on a CPU all memory, since blocks take theirs
    when they are used.
    """
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()


def choose_context(checkpoint: Checkpoint, options: EngineOptions) -> int:
    """The longest sequence, by default all that the model holds. Raises SetupError."""
    largest = checkpoint.spec.max_context
    wanted = largest if options.max_context is None else options.max_context
    if not 1 <= wanted <= largest:
        raise SetupError(f"max_context is {wanted}, this model's context is 1 to {largest}")
    return wanted


def source_within(checkpoint: Checkpoint, max_context: int) -> int | None:
    """The longest source that an encoder reads, which is no longer than an answer may be; None where there is none."""
    encoder = checkpoint.spec.encoder
    return None if encoder is None else min(encoder.max_context, max_context)


def choose_blocks(
    checkpoint: Checkpoint, dtype: torch.dtype, options: EngineOptions, max_context: int, free: int
) -> int:
    """Blocks of keys and values: as many as all slots can fill, within kv_memory, by default a part of what is free.

    Raises SetupError where one context does not fit, or where more is asked for than there is.
    """
    each = block_bytes(checkpoint.spec, dtype, options.kv_cache == INT8)
    one = sum(-(-tokens // BLOCK_TOKENS) for tokens in (max_context, source_within(checkpoint, max_context) or 0))
    budget = options.kv_memory or int(free * FREE_PART)
    blocks = min(options.num_slots * one, budget // each)
    if blocks < one:
        raise SetupError(
            f"one context of {max_context} tokens takes {one * each:,} bytes of keys and values, "
            f"kv_memory is {budget:,}; lower max_context or raise kv_memory"
        )
    if blocks * each > free:
        raise SetupError(
            f"{blocks * BLOCK_TOKENS:,} tokens of keys and values take {blocks * each:,} bytes, {free:,} are free; "
            "lower kv_memory, num_slots or max_context"
        )
    return blocks


def _described(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, threads: int, options: EngineOptions
) -> ModelDescription:
    """All but what its engine says of itself."""
    element_bytes = dense_dtype(checkpoint, device, options.dtype).itemsize
    read = token_cost(checkpoint.spec, element_bytes).bytes
    tier_bytes = governed_bytes(checkpoint.spec, element_bytes)
    return ModelDescription(
        family=checkpoint.spec.family,
        num_parameters=sum(prod(entry.shape) for name, entry in checkpoint.entries.items() if "scale" not in name),
        weight_bytes=checkpoint.weight_bytes,
        vocab_size=checkpoint.spec.vocab_size,
        max_context=checkpoint.spec.max_context,
        stages=tuple(stage.name for stage in checkpoint.record.stages),
        dial=checkpoint.dial,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=threads,
        num_slots=options.num_slots,
        kv_cache=options.kv_cache or "model",
        tier_bytes=tier_bytes,
        other_bytes=read - tier_bytes,
    )

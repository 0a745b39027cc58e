"""From a model directory to a running engine, with what was left open chosen from the machine."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ..models.checkpoint import Checkpoint, compute_dtype, load_transformer, open_checkpoint
from ..models.errors import SetupError
from ..models.host_memory import memory_bytes
from ..models.step_share import StepShare
from ..models.threads import choose_threads
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .engine import Engine
from .options import EngineOptions, ModelDescription
from .request import Limits
from .runner import ModelRunner
from .slots import kv_bytes_per_token
from .threads import ThreadGovernor, is_crowded


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine with what a front end needs to know of it."""

    engine: Engine
    limits: Limits
    description: ModelDescription
    model: Transformer


def build_engine(path: str, options: EngineOptions) -> BuiltEngine:
    """Loads the model at a path or short name. Raises SetupError with one sentence for what cannot be.

    Sets torch's number of threads, which is the process's: an engine process holds one model. Unless a number was
    asked for, it is changed between steps, by how busy the processors are with other programs.
    """
    options.check()
    checkpoint = open_checkpoint(path)
    step = step_of(checkpoint, options.step_share)
    device = choose_device(options.device)
    threads = choose_threads(options.threads, checkpoint.weight_bytes)
    torch.set_num_threads(threads)
    dtype = compute_dtype(checkpoint, device, options.dtype)
    max_context, num_slots = choose_kv_size(checkpoint, dtype, options, on_host=device.type == "cpu")
    model = load_transformer(checkpoint, device, options.dtype)
    runner = ModelRunner(model, num_slots, max_context, dtype, step)
    watched = _govern(threads) if options.threads is None and device.type == "cpu" else nullcontext
    engine = Engine(runner, Tokenizer.open(checkpoint.path).eos_ids, options.seed, watched=watched)
    limits = Limits(checkpoint.spec.vocab_size, max_context)
    return BuiltEngine(engine, limits, _described(checkpoint, model, device, dtype, threads, runner), model)


def _govern(threads: int) -> Callable[[], AbstractContextManager[None]]:
    """What is entered around each step so that the number of threads follows the load; nothing for one thread."""
    if threads == 1:
        return nullcontext
    processors = os.cpu_count() or threads
    return ThreadGovernor(threads, torch.set_num_threads, lambda count: is_crowded(count, processors)).step


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


def choose_device(wanted: str | None) -> torch.device:
    """The device asked for, else a GPU where there is one."""
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no data")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(f"device {name!r} cannot be used ({reason}); try --device cpu") from None
    return device


def choose_kv_size(
    checkpoint: Checkpoint, dtype: torch.dtype, options: EngineOptions, on_host: bool = True
) -> tuple[int, int]:
    """(max_context, num_slots) within kv_memory, by default a quarter of the machine's: fewer slots, then refusal."""
    largest = checkpoint.spec.max_context
    max_context = largest if options.max_context is None else options.max_context
    if not 1 <= max_context <= largest:
        raise SetupError(f"max_context is {max_context}, this model's context is 1 to {largest}")
    slot_bytes = kv_bytes_per_token(checkpoint.spec, dtype) * max_context
    memory = memory_bytes()
    budget = options.kv_memory or memory // 4
    num_slots = min(options.num_slots, budget // slot_bytes)
    if num_slots < 1:
        raise SetupError(
            f"one context of {max_context} tokens takes {slot_bytes:,} bytes of keys and values, "
            f"kv_memory is {budget:,}; lower max_context or raise kv_memory"
        )
    if on_host and num_slots * slot_bytes > memory:
        raise SetupError(
            f"{num_slots} contexts of {max_context} tokens take {num_slots * slot_bytes:,} bytes of keys and values, "
            f"there are {memory:,} here; lower kv_memory, num_slots or max_context"
        )
    return max_context, num_slots


def _described(
    checkpoint: Checkpoint,
    model: Transformer,
    device: torch.device,
    dtype: torch.dtype,
    threads: int,
    runner: ModelRunner,
) -> ModelDescription:
    return ModelDescription(
        family=checkpoint.spec.family,
        num_parameters=sum(value.numel() for name, value in model.state_dict().items() if "scale" not in name),
        weight_bytes=checkpoint.weight_bytes,
        vocab_size=checkpoint.spec.vocab_size,
        max_context=runner.max_context,
        stages=tuple(stage.name for stage in checkpoint.record.stages),
        dial=checkpoint.dial,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=threads,
        num_slots=runner.num_slots,
    )

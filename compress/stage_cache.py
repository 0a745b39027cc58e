"""Finished stages, kept by the hash of all that went into them, so that no work is done twice.

A stage's folder appears whole or not at all; beside it lies, while the stage runs, a scratch folder from which a
killed run goes on.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..kernels.cache import cache_folder
from .identity import code_sha256

MAX_BYTES = 16 << 30  # of finished stages; the longest unused go first
_UNUSED_SECONDS = 24 * 3600  # what was used within a day may be what another process works on
DECIDING = (  # the sources that decide a byte of what a stage leaves; a change of any other keeps what is finished
    "compress/answers.py", "compress/calibration.py", "compress/distill", "compress/material.py", "compress/moefy",
    "compress/output.py", "compress/prune", "compress/quantize", "compress/schedule.py", "compress/walk.py",
    "compress/windows.py", "evaluate/texts.py", "kernels", "models/bpe_files.py", "models/charsmap.py",
    "models/checkpoint.py", "models/classifier.py", "models/compute.py", "models/context.py", "models/devices.py",
    "models/families", "models/ffn", "models/foreign_int8.py", "models/labels.py", "models/layout.py",
    "models/linear.py", "models/marian_files.py", "models/packing.py", "models/record.py", "models/relative.py",
    "models/rope.py",
    "models/safetensors_header.py", "models/seeds.py", "models/sentences.py", "models/side.py", "models/sinusoids.py",
    "models/spec.py", "models/spm_files.py", "models/surplus.py", "models/tensor_reader.py", "models/tokenizer.py",
    "models/transformer.py", "models/writer.py",
)  # fmt: skip


def stages_folder() -> Path:
    """Where finished stages lie."""
    return cache_folder() / "stages"


def stage_key(
    before: str, name: str, settings: Mapping[str, Any], seed: int, calibration: str, sources: Sequence[str] = ()
) -> str:
    """The hash of what a stage is given: the model before it, its settings, seed, text, and the code that runs it.

    sources: of that code, what is not among DECIDING.
    """
    code = code_sha256(*DECIDING, *sources)
    parts = [before, name, json.dumps(settings, sort_keys=True), seed, calibration, code]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def on_other(device: torch.device) -> dict[str, str]:
    """What a key has for a device beside the CPU: sums of another order differ in their last bits."""
    return {} if device.type == "cpu" else {"device": device.type}


@contextmanager
def stage_lock(key: str) -> Iterator[None]:
    """One process at a time works on a stage; another waits and then finds it done."""
    stages_folder().mkdir(parents=True, exist_ok=True)
    with (stages_folder() / f"{key}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def scratch_folder(key: str) -> Path:
    """The folder of a stage under way; what a killed run left is in it."""
    folder = stages_folder() / f"{key}.scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def finish(key: str) -> None:
    """Clears what only a running stage needs, and the longest unused stages once all are too many."""
    shutil.rmtree(stages_folder() / f"{key}.scratch", ignore_errors=True)
    kept = [folder for folder in stages_folder().iterdir() if folder.is_dir()]
    total = 0
    for folder in sorted(kept, key=_last_used, reverse=True):
        total += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if total > MAX_BYTES and not folder.name.startswith(key) and time.time() - _last_used(folder) > _UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def touch(folder: Path) -> None:
    """Marks a stage as used now."""
    os.utime(folder)


def _last_used(folder: Path) -> float:
    return folder.stat().st_mtime

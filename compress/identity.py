"""What makes two inputs of a stage the same: hashes of models and of the code that works on them."""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ..models.checkpoint import EXPERTS_NAME, Checkpoint, sha256_of
from ..models.spec import ExpertSpec


def content_sha256(checkpoint: Checkpoint) -> str:
    """One hash of config, spec and weights: the identity of a model as an input."""
    digest = hashlib.sha256((checkpoint.path / "config.json").read_bytes())
    digest.update(repr((checkpoint.spec, checkpoint.tiers)).encode())
    for file in checkpoint.files:
        digest.update(bytes.fromhex(_file_sha256(file, file.stat().st_mtime_ns)))
    return digest.hexdigest()


def dense_sha256(checkpoint: Checkpoint) -> str:
    """The identity of the model at the full tier: experts and tiers change nothing of it."""
    plain = (replace(layer, ffn=replace(layer.ffn, experts=ExpertSpec())) for layer in checkpoint.spec.layers)
    digest = hashlib.sha256((checkpoint.path / "config.json").read_bytes())
    digest.update(repr(replace(checkpoint.spec, layers=tuple(plain), num_tiers=1)).encode())
    for file in checkpoint.files:
        if file != checkpoint.path / EXPERTS_NAME:
            digest.update(bytes.fromhex(_file_sha256(file, file.stat().st_mtime_ns)))
    return digest.hexdigest()


@functools.cache
def code_sha256(*places: str) -> str:
    """The hash of the sources in these folders and files: no result outlives the code that made it."""
    root = Path(str(resources.files("moesaic")))
    digest = hashlib.sha256()
    for file in sorted(file for place in places for file in _sources(root / place)):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(place: Path) -> Iterable[Path]:
    return [place] if place.is_file() else (file for file in place.rglob("*") if file.suffix in _SUFFIXES)


_SUFFIXES = (".py", ".cpp", ".h")


@functools.cache
def _file_sha256(file: Path, changed_ns: int) -> str:
    return sha256_of(file)

"""What a model takes of memory, before it is loaded: its weights as they are on disk, its keys and values in full."""

from collections.abc import Sequence
from pathlib import Path

from ..engine.options import EngineOptions
from ..models.errors import SetupError
from ..models.families.config import Config
from ..models.families.embedding import family_in
from ..models.host_memory import memory_bytes
from ..models.optional_json import read_optional_json
from ..models.spec import INT8, TransformerSpec

LANES = 16  # of what a head's values are stored in multiples
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CACHE_PART = 4  # of the memory one, where nobody says how much keys and values may take


def memory_budget(asked: int | None, folders: Sequence[str], options: EngineOptions) -> int:
    """Bytes for all models: those that were asked for, else the machine's.

    Raises SetupError where these models do not fit what was asked for.
    """
    if asked is None:
        return memory_bytes()
    needed = sum(expected_bytes(Path(folder), options) for folder in folders)
    if needed > asked:
        way_out = "serve fewer models, lower num_slots, max_context or kv_memory, or raise it"
        raise SetupError(f"the models need {needed:,} bytes, memory_budget is {asked:,}; {way_out}")
    return asked


def expected_bytes(folder: Path, options: EngineOptions) -> int:
    """Bytes that an engine of this model will hold. Raises CheckpointError for a directory that holds no such model."""
    config = read_optional_json(folder / "config.json")
    spec = family_in(folder, config).spec(Config(config))
    files = [*folder.glob("*.safetensors"), *folder.glob("moesaic/*.safetensors")]
    return sum(file.stat().st_size for file in files if file.is_file()) + _cache_bytes(spec, options)


def _cache_bytes(spec: TransformerSpec, options: EngineOptions) -> int:
    number = _BYTES.get(options.dtype or "", 4)
    each = 0
    for layer in spec.layers:
        size = -(-layer.attention.head_size // LANES) * LANES
        each += 2 * layer.attention.num_kv_heads * (size + 4 if options.kv_cache == INT8 else size * number)
    longest = options.max_context or spec.max_context
    held = [spec.max_context, *([spec.encoder.max_context] if spec.encoder else [])]  # of an answer, and of its source
    tokens = options.num_slots * sum(min(longest, each) for each in held)
    return min(tokens * each, options.kv_memory or memory_bytes() // _CACHE_PART)

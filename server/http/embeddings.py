"""OpenAI's requests for embeddings, and what is answered: lists of numbers, or base64 of their float32."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models.errors import InvalidRequest, Violation
from ...proto import scoring_pb2
from ..client_texts import embed_request
from .errors import as_sent
from .fields import OURS_OF_EMBEDDINGS, field_violations, known_keys

_FORMATS = ("float", "base64")
NAMES = {"inputs": "input", "prompt": "input", "text": "input", "token_ids": "input", "request_id": "x-request-id",
          **{name: f"moesaic.{name}" for name in OURS_OF_EMBEDDINGS}}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EmbeddingAsking:
    """What a request asks; in_base64: of its answer."""

    message: scoring_pb2.EmbedRequest
    in_base64: bool

    def answer(self, response: scoring_pb2.EmbedResponse) -> dict[str, Any]:
        """OpenAI's object."""
        write = _base64 if self.in_base64 else list
        found = [{"object": "embedding", "index": i, "embedding": write(each.values)}
                 for i, each in enumerate(response.embeddings)]  # fmt: skip
        usage = {"prompt_tokens": response.prompt_tokens, "total_tokens": response.prompt_tokens}
        told = {"pooling": response.pooling, "normalised": response.normalised}
        return {"object": "list", "model": response.model, "data": found, "usage": usage, "moesaic": told}

    def told(self, error: InvalidRequest) -> InvalidRequest:
        """What is wrong, by the caller's names."""
        return as_sent(error, NAMES)


def embedding_asking_of(body: Mapping[str, Any], request_id: str) -> EmbeddingAsking:
    """What a body asks. Raises InvalidRequest with every field that is wrong."""
    ours, unknown = known_keys(body.get("moesaic"), "moesaic", OURS_OF_EMBEDDINGS)
    wrong = [*field_violations(body, "embedding"), *unknown]
    form = body.get("encoding_format") or "float"
    if form not in _FORMATS:
        wrong.append(Violation("encoding_format", f"is {str(form)[:40]!r}, it must be one of {', '.join(_FORMATS)}"))
    model, inputs = model_of(body, wrong), inputs_of(body, wrong)
    if wrong:
        raise InvalidRequest(wrong)
    try:
        message = embed_request(inputs, {"model": model, "request_id": request_id, **ours})
    except InvalidRequest as error:
        raise as_sent(error, NAMES) from None
    return EmbeddingAsking(message, form == "base64")


def model_of(body: Mapping[str, Any], wrong: list[Violation]) -> str:
    """The model that is asked, "" for the only one; what is wrong with it is added."""
    model = body.get("model") or ""
    if isinstance(model, str):
        return model
    wrong.append(Violation("model", f"is of type {type(model).__name__}, it must be the name of a model"))
    return ""


def inputs_of(body: Mapping[str, Any], wrong: list[Violation]) -> list[Any]:
    """The texts or lists of token ids that are asked about; what is wrong with them is added."""
    inputs = _inputs(body.get("input"))
    if inputs is None:
        rule = "it must be a text, a list of texts, a list of token ids, or a list of such lists"
        wrong.append(Violation("input", f"is missing or of another form: {rule}", "EMPTY_PROMPT"))
    return inputs or []


def _inputs(value: object) -> list[Any] | None:
    """The texts or lists of ids, one alone as a list of one; None for what is neither."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(each, str) for each in value) or all(isinstance(each, list) for each in value):
        return value
    return [value] if all(type(each) is int for each in value) else None


def _base64(values: Sequence[float]) -> str:
    """float32, the smallest byte first."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()

"""Requests for labels of texts and what is answered, in the form of vLLM's /classify."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...models.errors import InvalidRequest
from ...proto import scoring_pb2
from ..client_texts import classify_request
from .embeddings import NAMES, inputs_of, model_of
from .errors import as_sent
from .fields import OURS_OF_CLASSIFICATION, field_violations, known_keys


@dataclass(frozen=True, slots=True)
class ClassificationAsking:
    """What a request asks."""

    message: scoring_pb2.ClassifyRequest

    def answer(self, response: scoring_pb2.ClassifyResponse) -> dict[str, Any]:
        """vLLM's object; `probs` are the scores, in the order of `labels`, which it has not."""
        count = len(response.labels)
        found = [{"index": i, "label": each.label, "probs": list(each.scores), "num_classes": count}
                 for i, each in enumerate(response.classifications)]  # fmt: skip
        usage = {
            "prompt_tokens": response.prompt_tokens,
            "completion_tokens": 0,
            "total_tokens": response.prompt_tokens,
        }
        told = {"labels": list(response.labels), "problem_type": response.problem_type}
        return {
            "id": response.request_id, "object": "list", "created": int(time.time()), "model": response.model,
            "data": found, "usage": usage, "moesaic": told,
        }  # fmt: skip

    def told(self, error: InvalidRequest) -> InvalidRequest:
        """What is wrong, by the caller's names."""
        return as_sent(error, NAMES)


def classification_asking_of(body: Mapping[str, Any], request_id: str) -> ClassificationAsking:
    """What a body asks. Raises InvalidRequest with every field that is wrong."""
    ours, unknown = known_keys(body.get("moesaic"), "moesaic", OURS_OF_CLASSIFICATION)
    wrong = [*field_violations(body, "classification"), *unknown]
    model, inputs = model_of(body, wrong), inputs_of(body, wrong)
    if wrong:
        raise InvalidRequest(wrong)
    try:
        message = classify_request(inputs, {"model": model, "request_id": request_id, **ours})
    except InvalidRequest as error:
        raise as_sent(error, NAMES) from None
    return ClassificationAsking(message)

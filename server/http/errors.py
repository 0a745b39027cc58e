"""The exception tree as HTTP responses: OpenAI's JSON, the right code, and when to come back."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
from starlette.responses import JSONResponse

from ...models.errors import InvalidRequest, MoesaicError, Overloaded, Unavailable
from ..status import MAX_VIOLATIONS, refusal

CODES: Mapping[grpc.StatusCode, tuple[int, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
    grpc.StatusCode.FAILED_PRECONDITION: (400, "invalid_request_error"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error"),
    grpc.StatusCode.NOT_FOUND: (404, "invalid_request_error"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "invalid_request_error"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    grpc.StatusCode.CANCELLED: (499, "server_error"),  # by whoever runs the server; clients do not try it again
    grpc.StatusCode.UNIMPLEMENTED: (501, "server_error"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "timeout_error"),
}
_MOST_CHARACTERS = 1000  # of a sentence; a value that it quotes may have a million
_OTHERS = (500, "server_error")
_OF_REASONS = {"REQUEST_TOO_LARGE": 413, "PROMPT_TOO_LARGE": 413, "NOT_RECEIVED": 408}
_OURS = re.compile(r"\b(max|min)_new_tokens\b")  # in sentences
_PARTS = re.compile(r"^(sampling|stopping|token_rules|compute|constraint|prompt)\.(messages\.(?=tools\b))?")


class HttpError(Exception):
    """A refusal that only this door knows: of a path, a method, an origin."""

    def __init__(self, code: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.code, self.reason, self.headers = code, reason, headers or {}
        super().__init__(message)


def response_of(error: MoesaicError | HttpError) -> JSONResponse:
    """The whole response. What is not the caller's mistake must have been made harmless before."""
    if isinstance(error, HttpError):
        body = _body(str(error), "invalid_request_error", None, error.reason)
        return JSONResponse(body, error.code, dict(error.headers))
    told = refusal(error)
    code = _OF_REASONS.get(told.reason) or CODES.get(told.code, _OTHERS)[0]
    return JSONResponse(body_of(error), code, _headers(error, code))


def body_of(error: MoesaicError) -> dict[str, Any]:
    """The JSON of an error, as it also stands in a stream that has begun."""
    told = refusal(error)
    field = error.violations[0].field if isinstance(error, InvalidRequest) and error.violations else None
    body = _body(told.message, CODES.get(told.code, _OTHERS)[1], field, told.reason)
    if isinstance(error, InvalidRequest):
        found = [{"param": each.field, "message": each.message[:200], "code": each.reason.lower()}
                 for each in error.violations[:MAX_VIOLATIONS]]  # fmt: skip
        body["error"]["violations"] = found
    return body


def as_sent(error: InvalidRequest, names: Mapping[str, str]) -> InvalidRequest:
    """The same with fields named as the caller wrote them. names: theirs by ours."""
    return InvalidRequest([
        replace(each, field=_field(each.field, names), message=_sentence(each.message, names))
        for each in error.violations[:MAX_VIOLATIONS]
    ])  # fmt: skip


def _sentence(text: str, names: Mapping[str, str]) -> str:
    return _OURS.sub(lambda found: names[found[0]], text[:_MOST_CHARACTERS])


def _field(field: str, names: Mapping[str, str]) -> str:
    plain = _PARTS.sub("", field)
    name = re.split(r"[.\[]", plain, maxsplit=1)[0]
    return names.get(name, name) + plain[len(name) :]


def _body(message: str, kind: str, field: str | None, reason: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": field, "code": reason.lower()}}


def _headers(error: MoesaicError, code: int) -> dict[str, str]:
    if code == 401:
        return {"www-authenticate": "Bearer"}
    if not isinstance(error, Overloaded | Unavailable) or code == 504:
        return {}
    seconds = error.retry_after_seconds
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, round(seconds * 1000)))}

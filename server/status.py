"""The exception tree as gRPC statuses with google.rpc details, and back again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as rpc
from google.rpc.status_pb2 import Status

from ..models.errors import (
    Aborted,
    AlreadyExists,
    Expired,
    InvalidRequest,
    MoesaicError,
    NotFound,
    Overloaded,
    PermissionDenied,
    RequestFailed,
    Unauthenticated,
    Unavailable,
    Unread,
    Unsupported,
    Violation,
)

DOMAIN = "moesaic"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
MAX_VIOLATIONS = 16
# Metadata above 8 KB may be refused on its way, and the status with it: message and details stay below 6 KB.
_MAX_MESSAGE_CHARACTERS = 1000
_MAX_VIOLATION_CHARACTERS = 200
_MAX_DETAILS_BYTES = 3500
_OF_CALLER = ("TOO_MANY_CALLS", "RATE_LIMITED")  # what is used up is not the model's

_CODES: tuple[tuple[type[MoesaicError], grpc.StatusCode, str], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (NotFound, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_RUNNING"),
    (Unsupported, grpc.StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_BY_MODEL"),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    (Expired, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (Unavailable, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    (Unread, grpc.StatusCode.ABORTED, "SLOW_CONSUMER"),
    (Aborted, grpc.StatusCode.CANCELLED, "ABORTED_BY_OPERATOR"),
    (RequestFailed, grpc.StatusCode.INTERNAL, "ENGINE_STEP_FAILED"),
    (MoesaicError, grpc.StatusCode.INTERNAL, "INTERNAL"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller is told instead of an answer."""

    code: grpc.StatusCode
    reason: str
    message: str
    status: Status
    metadata: tuple[tuple[str, str | bytes], ...]


def refusal(error: MoesaicError) -> Refusal:
    """The status of an exception, its details in the trailing metadata."""
    code, reason = code_of(error)
    message = cut(str(error), _MAX_MESSAGE_CHARACTERS)
    info = rpc.ErrorInfo(reason=reason, domain=DOMAIN, metadata=_info_metadata(error))
    status = Status(code=code.value[0], message=message)
    for detail in (info, *_details(error, message)):
        status.details.add().Pack(detail)
        if status.ByteSize() > _MAX_DETAILS_BYTES:
            del status.details[-1]
    metadata: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if isinstance(error, Overloaded):
        metadata.append((PUSHBACK_KEY, str(round(error.retry_after_seconds * 1000))))
    if isinstance(error, Aborted):
        metadata.append((PUSHBACK_KEY, "-1"))  # gRPC's word for never
    return Refusal(code, reason, message, status, tuple(metadata))


def code_of(error: MoesaicError) -> tuple[grpc.StatusCode, str]:
    """The code and the reason of an exception."""
    code, reason = next((code, reason) for kind, code, reason in _CODES if isinstance(error, kind))
    return code, _own_reason(error) or reason


def _own_reason(error: MoesaicError) -> str:
    """The reason that an exception itself names; of an invalid request, that of its first violation."""
    if isinstance(error, InvalidRequest) and error.violations:
        return error.violations[0].reason
    named = Overloaded | Unavailable | AlreadyExists | Unauthenticated | PermissionDenied
    return error.reason if isinstance(error, named) else ""


def _info_metadata(error: MoesaicError) -> Mapping[str, str]:
    return error.violations[0].metadata if isinstance(error, InvalidRequest) and error.violations else {}


def _details(error: MoesaicError, message: str) -> Iterable[Message]:
    if isinstance(error, InvalidRequest):
        yield _bad_request(error.violations)
    elif isinstance(error, NotFound):
        yield rpc.ResourceInfo(resource_type="model", resource_name=error.name, description=message)
    elif isinstance(error, Unsupported):
        violation = rpc.PreconditionFailure.Violation(type="MODEL", description=message)
        yield rpc.PreconditionFailure(violations=[violation])
    elif isinstance(error, Overloaded | Unavailable) and not isinstance(error, Expired):
        yield rpc.RetryInfo(retry_delay=_duration(error.retry_after_seconds))
        if isinstance(error, Overloaded):
            subject = "caller" if error.reason in _OF_CALLER else "model"
            yield rpc.QuotaFailure(violations=[rpc.QuotaFailure.Violation(subject=subject, description=message)])


def _bad_request(violations: tuple[Violation, ...]) -> rpc.BadRequest:
    """The violations that there is room for, at most sixteen."""
    room = _MAX_DETAILS_BYTES - _MAX_MESSAGE_CHARACTERS - 500
    bad = rpc.BadRequest()
    for violation in violations[:MAX_VIOLATIONS]:
        message = cut(violation.message, _MAX_VIOLATION_CHARACTERS)
        bad.field_violations.add(field=violation.field, description=message, reason=violation.reason)
        if bad.ByteSize() > room:
            del bad.field_violations[-1]
            break
    return bad


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def cut(text: str, limit: int) -> str:
    """Cuts to at most `limit` ASCII characters: others would take up to twelve bytes each on the wire."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def error_of(error: grpc.RpcError) -> MoesaicError | None:
    """The exception that the server raised; None for a status that did not come from this server's code."""
    metadata = {key: value for key, value in error.trailing_metadata() or ()}
    return _known(error.code(), error.details() or "", metadata.get(DETAILS_KEY, b""))


def error_of_item(status: Status) -> MoesaicError:
    """The exception of one item of many."""
    code = next((code for _, code, _ in _CODES if code.value[0] == status.code), grpc.StatusCode.INTERNAL)
    return _known(code, status.message, status.SerializeToString()) or MoesaicError(status.message)


def _known(code: grpc.StatusCode, message: str, data: bytes) -> MoesaicError | None:
    details = _unpacked(data)
    info = details.get(rpc.ErrorInfo)
    if not isinstance(info, rpc.ErrorInfo) or info.domain != DOMAIN:
        return None
    return _exception(code, message, info, details)


def _exception(
    code: grpc.StatusCode, message: str, info: rpc.ErrorInfo, details: Mapping[type[Message], Message]
) -> MoesaicError:
    kind = next((kind for kind, known, _ in _CODES if known is code), MoesaicError)
    if kind is InvalidRequest:
        return InvalidRequest(_violations(details.get(rpc.BadRequest), info))
    if kind is NotFound:
        resource = details.get(rpc.ResourceInfo)
        return NotFound(message, resource.resource_name if isinstance(resource, rpc.ResourceInfo) else "")
    if issubclass(kind, Overloaded | Unavailable):
        retry = details.get(rpc.RetryInfo)
        seconds = retry.retry_delay.ToMilliseconds() / 1000 if isinstance(retry, rpc.RetryInfo) else 0.0
        return kind(message, info.reason, seconds)
    if issubclass(kind, AlreadyExists | Unauthenticated | PermissionDenied):
        return kind(message, info.reason)
    return MoesaicError(message) if info.reason == "INTERNAL" else kind(message)


def _violations(bad: Message | None, info: rpc.ErrorInfo) -> list[Violation]:
    found = bad.field_violations if isinstance(bad, rpc.BadRequest) else ()
    return [
        Violation(v.field, v.description, v.reason, dict(info.metadata) if i == 0 else {}) for i, v in enumerate(found)
    ]


def _unpacked(data: bytes) -> dict[type[Message], Message]:
    kinds = (rpc.ErrorInfo, rpc.BadRequest, rpc.ResourceInfo, rpc.RetryInfo)
    found: dict[type[Message], Message] = {}
    try:
        for packed in Status.FromString(data).details:
            for kind in kinds:
                detail = kind()
                if packed.Unpack(detail):
                    found[kind] = detail
    except DecodeError:
        return {}
    return found

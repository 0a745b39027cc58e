"""The JSON of a request: received within its time, counted before it is parsed."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request

from ...models.errors import Expired, InvalidRequest, Violation
from ..byte_budget import ByteBudget
from ..client_request import MAX_REQUEST_BYTES

MOST_VALUES = 1 << 17  # of a body, with names: a hundredth of a second of the parser
_COUNTED_BYTES = 1 << 16  # are held before the budget is asked
_DRAINED_BYTES = 8 * MAX_REQUEST_BYTES  # are read and dropped of what is too long, so that its sender hears the answer


async def read_json(request: Request, budget: ByteBudget, seconds: float) -> dict[str, Any]:
    """The object that a request holds. Raises InvalidRequest for any other bytes, Expired for those that come slowly,
    ClientDisconnect for those that never come.

    What has arrived counts in the budget until it is parsed.
    """
    with ExitStack() as held:
        try:
            async with asyncio.timeout(seconds):
                data = await _receive(request, budget, held)
        except TimeoutError:
            limit = f"{seconds:g} s (--receive-seconds)"
            raise Expired(f"the body of this request did not arrive within {limit}", "NOT_RECEIVED") from None
        return parsed(data)


def parsed(data: bytes | bytearray) -> dict[str, Any]:
    """The object that bytes say. Raises InvalidRequest for anything else, and for too many values."""
    if num_marks(data) > MOST_VALUES:
        raise _wrong(f"holds more than {MOST_VALUES} values; ask for less at a time", "REQUEST_TOO_LARGE")
    try:
        found = json.loads(data.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _wrong(f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _wrong("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise _wrong(f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits, or none at all
        raise _wrong(f"is no JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise _wrong(f"is JSON of another kind than an object: {type(found).__name__}")
    return found


def num_marks(data: bytes | bytearray) -> int:
    """Commas, colons and opening brackets that are no part of a text; where they are few altogether, all of them."""
    count = _count(data)
    if count <= MOST_VALUES:
        return count
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if unescaped.count(b'"') > MOST_VALUES:
        return unescaped.count(b'"')
    return _count(b"".join(unescaped.split(b'"')[::2]))


def _count(data: bytes | bytearray) -> int:
    return sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))


async def _receive(request: Request, budget: ByteBudget, held: ExitStack) -> bytearray:
    declared = request.headers.get("content-length", "0")
    received = int(declared) if declared.isdecimal() and declared.isascii() else 0
    if received > _DRAINED_BYTES:
        raise _too_long(received)
    data, counted, received = bytearray(), 0, 0
    async for piece in request.stream():
        received += len(piece)
        if received > _DRAINED_BYTES:
            raise _too_long(received)
        if received <= MAX_REQUEST_BYTES:
            data += piece
        if len(data) - counted >= _COUNTED_BYTES:
            held.enter_context(budget.request(len(data) - counted))
            counted = len(data)
    if received > MAX_REQUEST_BYTES:
        raise _too_long(received)
    held.enter_context(budget.request(len(data) - counted))
    return data


def _too_long(size: int) -> InvalidRequest:
    return _wrong(f"has {size} bytes or more, the limit is {MAX_REQUEST_BYTES}; shorten it", "REQUEST_TOO_LARGE")


def _wrong(why: str, reason: str = "MALFORMED_MESSAGE") -> InvalidRequest:
    return InvalidRequest([Violation("body", why, reason)])


def _no_constant(name: str) -> Mapping[str, Any]:
    raise ValueError(f"{name} is no number of JSON")

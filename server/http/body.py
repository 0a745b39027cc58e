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
from ..wire_limits import MOST_FIELDS
from .caller import caller_of

MOST_VALUES = 1 << 17  # of a body: ids of a prompt are the most that there is reason for
MOST_NAMES = MOST_FIELDS  # of a body, objects and lists with them: a hundredth of a second of the parser
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
    if not is_small(data):
        text = f"holds more than {MOST_VALUES} values, or {MOST_NAMES} names, objects and lists; ask for less at a time"
        raise _wrong(text, "REQUEST_TOO_LARGE")
    try:
        found = json.loads(data.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _wrong(f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise nested_too_deep() from None
    except json.JSONDecodeError as error:
        raise _wrong(f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits, or none at all
        raise _wrong(f"is no JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise _wrong(f"is JSON of another kind than an object: {type(found).__name__}")
    return found


def is_small(data: bytes | bytearray) -> bool:
    """Whether it holds few enough values and names; those that texts seem to hold do not count."""
    if _counts_are_small(data):
        return True
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if unescaped.count(b'"') > 2 * MOST_VALUES:
        return False
    return _counts_are_small(b"".join(unescaped.split(b'"')[::2]))


def _counts_are_small(data: bytes | bytearray) -> bool:
    names, lists, objects = (data.count(mark) for mark in (b":", b"[", b"{"))
    return data.count(b",") <= MOST_VALUES and names + lists + objects <= MOST_NAMES


async def _receive(request: Request, budget: ByteBudget, held: ExitStack) -> bytearray:
    declared = request.headers.get("content-length", "0")
    received = int(declared) if declared.isdecimal() and declared.isascii() else 0
    if received > _DRAINED_BYTES:
        raise _too_long(received)
    caller, data, counted, received = caller_of(request), bytearray(), 0, 0
    async for piece in request.stream():
        received += len(piece)
        if received > _DRAINED_BYTES:
            raise _too_long(received)
        if received <= MAX_REQUEST_BYTES:
            data += piece
        if len(data) - counted >= _COUNTED_BYTES:
            held.enter_context(budget.request(caller, len(data) - counted))
            counted = len(data)
    if received > MAX_REQUEST_BYTES:
        raise _too_long(received)
    held.enter_context(budget.request(caller, len(data) - counted))
    return data


def _too_long(size: int) -> InvalidRequest:
    return _wrong(f"has {size} bytes or more, the limit is {MAX_REQUEST_BYTES}; shorten it", "REQUEST_TOO_LARGE")


def nested_too_deep() -> InvalidRequest:
    """What is said of lists in lists and objects in objects without an end."""
    return _wrong("is nested too deep")


def _wrong(why: str, reason: str = "MALFORMED_MESSAGE") -> InvalidRequest:
    return InvalidRequest([Violation("body", why, reason)])


def _no_constant(name: str) -> Mapping[str, Any]:
    raise ValueError(f"{name} is no number of JSON")

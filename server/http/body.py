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
_LONG_BYTES = 1 << 16  # of a body, which are parsed in a thousandth of a second
_LOOKED_BYTES = 1 << 16  # at a time, so that not all of them are counted where the first are too many
_DRAINED_BYTES = 8 * MAX_REQUEST_BYTES  # are read and dropped of what is too long, so that its sender hears the answer


class BodyReader:
    """Makes objects of bodies. seconds: that one has to arrive.

    Of those that are long, one has its turn at a time, and others may do theirs between its steps.
    """

    def __init__(self, budget: ByteBudget, seconds: float) -> None:
        self._budget, self._seconds = budget, seconds
        self._turn = asyncio.Lock()

    async def read(self, request: Request) -> dict[str, Any]:
        """The object that a request holds. Raises InvalidRequest for any other bytes, Expired for those that come
        slowly, ClientDisconnect for those that never come.

        What has arrived counts in the budget until it is parsed.
        """
        with ExitStack() as held:
            try:
                async with asyncio.timeout(self._seconds):
                    data = await _receive(request, self._budget, held)
            except TimeoutError:
                limit = f"{self._seconds:g} s (--receive-seconds)"
                raise Expired(f"the body of this request did not arrive within {limit}", "NOT_RECEIVED") from None
            return parsed(data) if len(data) < _LONG_BYTES else await self._parsed_in_steps(data)

    async def _parsed_in_steps(self, data: bytearray) -> dict[str, Any]:
        async with self._turn:
            await asyncio.sleep(0)
            check_small(data)
            await asyncio.sleep(0)
            found = parsed_of_few(data)
            await asyncio.sleep(0)
            return found


def parsed(data: bytes | bytearray) -> dict[str, Any]:
    """The object that bytes say. Raises InvalidRequest for anything else, and for too many values."""
    check_small(data)
    return parsed_of_few(data)


def check_small(data: bytes | bytearray) -> None:
    """Raises InvalidRequest for too many values."""
    if not is_small(data):
        text = f"holds more than {MOST_VALUES} values, or {MOST_NAMES} names, objects and lists; ask for less at a time"
        raise _wrong(text, "REQUEST_TOO_LARGE")


def parsed_of_few(data: bytes | bytearray) -> dict[str, Any]:
    """The object that bytes of few values say. Raises InvalidRequest for anything else."""
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
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    if _has_more(unescaped, b'"', 2 * MOST_VALUES):
        return False
    return _counts_are_small(b"".join(unescaped.split(b'"')[::2]))


def _counts_are_small(data: bytes | bytearray) -> bool:
    return not _has_more(data, b",", MOST_VALUES) and not _has_more(data, b":[{", MOST_NAMES)


def _has_more(data: bytes | bytearray, marks: bytes, most: int) -> bool:
    """Whether more than so many bytes are among the marks; what follows them is not looked at."""
    left = most
    for begin in range(0, len(data), _LOOKED_BYTES):
        left -= sum(data.count(mark, begin, begin + _LOOKED_BYTES) for mark in marks)
        if left < 0:
            return True
    return False


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

"""What every request passes at this door, and the one place where exceptions become responses."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...models.errors import Expired, MoesaicError
from ..access import Access
from ..caller import called_by
from ..exchange import TimeLimits
from ..incident import let_go, told
from ..scopes import asked_by
from ..tracing import Tracing, continued
from .errors import HttpError, body_of, response_of
from .origin import check_origin
from .stream import event, is_stream

SAFE_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
Responded = Callable[[str, int], None]


class Guard:
    """Lets in who has the right, ends a request with its caller or its time, and answers for what goes wrong inside."""

    def __init__(
        self, app: ASGIApp, limits: TimeLimits, routes: Mapping[Any, str], responded: Responded, access: Access,
        tracing: Tracing | None = None,
    ) -> None:  # fmt: skip
        self._app, self._limits, self._access, self._tracing = app, limits, access, tracing
        self._routes, self._responded = routes, responded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["app"] = self  # for the router to raise what it does not know
        exchange = _Exchange(scope, receive, send, self._count)
        try:
            await exchange.run(self._answer(scope, exchange))
        except ClientDisconnect:
            return
        except Exception as error:
            refusal = _refusal(error, scope)
            let_go(error)
            await exchange.refuse(refusal)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        headers = Headers(scope=scope)
        check_origin(headers, self._access.asks)
        caller = self._access.admit(headers.getlist("authorization"), asked_by(str(scope["path"])))
        try:
            async with asyncio.timeout(self._limits.whole) as limit:
                with called_by(caller), continued(self._tracing, headers.items()):
                    await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"the request took longer than {self._limits.whole:g} s, which is all that one may take here"
            raise Expired(f"{text} (--request-seconds)", "REQUEST_TOO_LONG") from None

    def _count(self, scope: Scope, code: int) -> None:
        self._responded(self._routes.get(scope.get("endpoint"), ""), code)


class _Exchange:
    """One request and its response, whose caller may leave at any time."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, count: Callable[[Scope, int], None]) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._count = count
        self._work: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        headers = Headers(scope=scope)
        self._has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._begun = self._streams = self._gone = False

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work. Raises ClientDisconnect where the caller leaves before it is done."""
        task = self._work = asyncio.create_task(work)
        try:
            await asyncio.wait((task,))
        finally:  # or the server ends
            task.cancel()
            if self._watch is not None:
                self._watch.cancel()
            self._work = self._watch = None
        if self._gone and task.cancelled():
            raise ClientDisconnect
        task.result()

    async def receive(self) -> Message:
        """A part of the request; once it is whole, somebody looks out for its caller."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body") and self._watch is None:
            self._has_body = False
            self._watch = asyncio.create_task(self._look_out())
        return message

    async def send(self, message: Message) -> None:
        """A part of the response. What is left of a request that was not read is not worth keeping a connection."""
        if message["type"] == "http.response.start":
            self._begun, self._streams = True, is_stream(message["headers"])
            self._count(self._scope, message["status"])
            close = [(b"connection", b"close")] if self._has_body else []
            message = {**message, "headers": [*message["headers"], *SAFE_HEADERS, *close]}
        await self._send(message)

    async def refuse(self, error: MoesaicError | HttpError) -> None:
        """The error as the response, or as the end of the stream that has begun; nothing else can follow one."""
        if not self._begun:
            await response_of(error)(self._scope, self._receive, self.send)
        elif self._streams and isinstance(error, MoesaicError):
            await self._send({"type": "http.response.body", "body": event(body_of(error)), "more_body": False})

    async def _look_out(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._work is not None and not self._work.done():
            self._gone = True
            self._work.cancel()


def _refusal(error: Exception, scope: Scope) -> MoesaicError | HttpError:
    if isinstance(error, HttpError):
        return error
    if isinstance(error, HTTPException):  # of the router
        text = f"{scope['method']} is not possible here; {dict(error.headers or {}).get('Allow', 'nothing')} is"
        return HttpError(error.status_code, "METHOD_NOT_ALLOWED", text, error.headers)
    return told(error, str(scope["path"])[:100])

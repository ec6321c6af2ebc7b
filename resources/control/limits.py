"""Bounds of what a client may send: bytes of a body, and how deep its JSON is nested."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resources.control.errors import problem

BODY_BYTES_MAX = 16_384
DEPTH_MAX = 8
_QUOTE, _ESCAPE = 0x22, 0x5C
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")


def too_deep(text: bytes, depth_max: int = DEPTH_MAX) -> bool:
    """Return whether JSON is nested deeper than ``depth_max``; it is looked at before anything parses it."""
    depth, inside, escaped = 0, False, False
    for byte in text:
        if escaped:
            escaped = False
        elif byte == _QUOTE:
            inside = not inside
        elif inside:
            escaped = byte == _ESCAPE
        elif byte in _OPENING:
            depth += 1
            if depth > depth_max:
                return True
        elif byte in _CLOSING:
            depth -= 1
    return False


class BodyLimit:
    """Middleware that reads a request's body up to its bound, and answers itself where it is too large or too deep.

    Args:
        app: what is asked otherwise.
        bytes_max: most bytes of a body.
    """

    def __init__(self, app: ASGIApp, bytes_max: int = BODY_BYTES_MAX) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._body(receive)
        if body is None:
            answer = problem(413, f"a body of more than {self._bytes_max} bytes", "send less", {"Connection": "close"})
            await answer(scope, receive, send)
        elif too_deep(body):
            answer = problem(400, f"JSON nested deeper than {DEPTH_MAX}", "commands are flat: GET /openapi.json")
            await answer(scope, receive, send)
        else:
            await self._app(scope, _Replayed(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b""
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._bytes_max:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


class _Replayed:
    """Hands a body on that was read already."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

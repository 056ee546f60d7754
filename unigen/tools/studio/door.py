"""Lets only this user's own browser in: the page can start programs, and others may share this machine's 127.0.0.1.

The address that the terminal prints holds a key, as Jupyter's does; a cookie remembers it.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable, Callable], Awaitable[None]]

# Nothing is fetched from elsewhere, and no other page may frame this one.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
SAID = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Door:
    """An ASGI application around another. It refuses requests without the key, to other hosts, or of other origins."""

    def __init__(self, app: App, key: str, port: int) -> None:
        self.app, self.key, self.cookie = app, key, f"unigen_studio_{port}"  # cookies do not tell ports apart
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self.refusal(headers):
            await _answer(send, 403, refusal)
        elif scope["path"] == "/" and "key" in (asked := parse_qs(scope["query_string"].decode("latin-1"))):
            await self._greet(send, asked["key"][0])
        elif not self.knows(headers):
            await _answer(
                send, 401, "Open the address that the studio has printed on its terminal; it ends in its key."
            )
        else:
            await self.app(scope, receive, _telling(send))

    def refusal(self, headers: dict[str, str]) -> str | None:
        """Say why a request is refused that another site or a foreign name for this machine has caused; else None."""
        if headers.get("host") not in self.hosts:
            return f"This page is at {' and '.join(sorted(self.hosts))} alone."
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self.hosts:
            return "Another site asked for this."
        return None

    def knows(self, headers: dict[str, str]) -> bool:
        """Return whether the request's cookie holds the key."""
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self.cookie)
        return found is not None and secrets.compare_digest(found.value.encode(), self.key.encode())

    async def _greet(self, send: Callable, key: str) -> None:
        """Exchange the key of the address for a cookie, so that the key does not stay in the address."""
        if not secrets.compare_digest(key.encode(), self.key.encode()):
            await _answer(send, 401, "This is not the key of this studio; its terminal shows it.")
            return
        cookie = f"{self.cookie}={self.key}; Path=/; HttpOnly; SameSite=Strict"
        # The page itself goes on, because after a 303 from elsewhere SameSite=Strict would withhold the cookie.
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/"><p>One moment.'
        await _answer(send, 200, page, [(b"set-cookie", cookie.encode())], b"text/html; charset=utf-8")


def _telling(send: Callable) -> Callable:
    """Return `send` with the headers of `SAID` in every answer."""

    async def told(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            kept = [(name, value) for name, value in event.get("headers", []) if name.lower() not in SAID]
            event = {**event, "headers": [*kept, *SAID.items()]}
        await send(event)

    return told


async def _answer(
    send: Callable,
    status: int,
    text: str,
    more: list[tuple[bytes, bytes]] | None = None,
    kind: bytes = b"text/plain; charset=utf-8",
) -> None:
    headers = [(b"content-type", kind), *SAID.items(), *(more or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})

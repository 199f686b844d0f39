"""Who may ask the server: by host, origin, token and size."""

import hmac
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from isanet_jax.errors import DataError

MOST_BYTES = 2**30  # of a request
COOKIE = "isanet_label"  # keeps the token of a browser


class Guard:
    """Lets in who may, before anything is read.

    Args:
        app: that it stands before.
        hosts, token, origins: see `isanet_jax.annotate.server.Server`.
    """

    def __init__(self, app, *, hosts, token, origins):
        self.app, self.hosts, self.token, self.origins = app, hosts, token, origins

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Request(scope))
        if refusal:
            await PlainTextResponse(f"{refusal[1]}\n", refusal[0])(scope, receive, send)
            return
        taken = 0

        async def bounded():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BYTES:
                raise DataError(f"a request of more than {MOST_BYTES} bytes")
            return message

        await self.app(scope, bounded, send)

    def _refusal(self, request):
        """(status, why) of what is not let in."""
        is_open = request.url.path in ("/auth/", "/auth/token")
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        by_name = self.token is None  # else by who knows the token, whatever it is called
        if by_name and host not in {name.strip("[]") for name in self.hosts}:
            return 421, "this server is not called so"
        origin = request.headers.get("origin")
        is_named = origin in self.origins
        is_own = is_named or (urlsplit(origin or "").hostname or "") in self.hosts
        if by_name and origin and not is_own:
            return 403, "pages of elsewhere may not ask this server"
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return 413, f"a request of more than {MOST_BYTES} bytes"
        if self.token is not None and not is_open:
            given = request.headers.get("authorization", "").partition(" ")[2].strip()
            if not given:  # of the page, which a browser asks for
                given = request.cookies.get(COOKIE, "")
                if request.url.path == "/":
                    given = request.query_params.get("token", given)
                if origin and not is_named and urlsplit(origin).hostname != host:
                    return 403, "pages of elsewhere may not ask this server"
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return 401, "a token is wanted: Authorization: Bearer ..."
        return None

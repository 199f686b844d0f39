"""The node's page, on loopback: what waits, what was done, what failed and why."""

import html
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from isanet_jax.machine import GIB
from isanet_jax.node.queue import Queue

_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;"
    "max-width:60rem;padding:0 1rem}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}"
)
_OWN_NAMES = ("127.0.0.1", "localhost")
_SILENT_S = 10.0  # that a client may take for its request
_COLUMNS = {
    "ready": ("study", "instances", "lesions", "volume_ml"),
    "failed": ("study", "at", "reason"),
    "done": ("study", "at", "instances", "lesions", "volume_ml", "seconds"),
}


def page(state: dict, title: str) -> str:
    """The state of a queue (`Queue.state`) as HTML."""
    counts = ", ".join(f"{count} {name}" for name, count in state["counts"].items())
    room = "" if state["has_room"] else " <b>No room: nothing is taken.</b>"
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{counts}; {state['bytes'] / GIB:.2f} of "
        f"{state['most_bytes'] / GIB:.2f} GiB.{room}</p>"
    ]
    for name, columns in _COLUMNS.items():
        rows = [
            "".join(f"<td>{html.escape(str(one.get(column, '')))}" for column in columns)
            for one in state[name]
        ]
        head = "".join(f"<th>{column.replace('_', ' ')}" for column in columns)
        body = "".join(f"<tr>{row}" for row in rows) or "<tr><td>none"
        parts.append(f"<h2>{name.capitalize()}</h2><table><tr>{head}{body}</table>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" '
        f'content="10"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
        + "".join(parts)
        + "</html>"
    )


def _host(text):
    """A Host header's name, without the port."""
    return text.rpartition(":")[0] or text if text.rpartition(":")[2].isdigit() else text


def serve(queue: Queue, port: int, title: str) -> ThreadingHTTPServer:
    """Serves /status and /status.json to this machine alone; returns the server.

    A page of elsewhere, whose name was made to lead here, is not answered.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _SILENT_S

        def do_GET(self):
            if _host(self.headers.get("Host", "")) not in _OWN_NAMES:
                self._answer(421, "text/plain", "this is the page of 127.0.0.1 alone\n")
            elif self.path == "/status":
                self._answer(200, "text/html", page(queue.state(), title))
            elif self.path == "/status.json":
                self._answer(200, "application/json", json.dumps(queue.state()))
            else:
                self._answer(404, "text/plain", "there are /status and /status.json\n")

        def _answer(self, code, kind, text):
            content = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header(
                "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"
            )
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

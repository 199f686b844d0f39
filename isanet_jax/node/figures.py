"""The node's counts for Prometheus, and whether it is well."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Summary
from prometheus_client import generate_latest as exposition
from prometheus_client.core import GaugeMetricFamily

from isanet_jax.node.queue import Queue

_STUCK_S = 3600.0  # that one study may take
_SILENT_S = 10.0  # that a client may take for its request


class Figures:
    """What the node has done since it began, and what its queue holds.

    Attributes:
        associations: by outcome: accepted, refused.
        instances: by outcome: stored, not_kept (no image), no_room, not_understood.
        studies: by outcome: predicted, failed, sent.
        seconds: of predictions.

    Args:
        queue: of the node.
    """

    def __init__(self, queue: Queue):
        self.queue, self.registry = queue, CollectorRegistry()

        def counter(name, text):
            return Counter(f"isanet_node_{name}", text, ["outcome"], registry=self.registry)

        self.associations = counter("associations", "Associations that were asked for")
        self.instances = counter("instances", "Instances that came by C-STORE")
        self.studies = counter("studies_handled", "Studies that were predicted, sent, or failed")
        self.seconds = Summary(
            "isanet_node_prediction_seconds", "Of each study", registry=self.registry
        )
        self._step = Gauge(
            "isanet_node_last_step_timestamp_seconds", "When the worker last began",
            registry=self.registry,
        )  # fmt: skip
        self.begin_step()
        self.registry.register(self)

    def begin_step(self) -> None:
        """The worker is alive."""
        self._last = time.time()
        self._step.set(self._last)

    def collect(self):
        """What the queue holds, as prometheus_client asks for it."""
        studies = GaugeMetricFamily("isanet_node_studies", "On disk, by state", labels=["state"])
        for state, count in self.queue.counts().items():
            studies.add_metric([state], count)
        yield studies
        yield GaugeMetricFamily(
            "isanet_node_image_bytes", "Of images on disk", value=self.queue.bytes
        )
        yield GaugeMetricFamily(
            "isanet_node_has_room", "1: instances are taken", value=int(self.queue.is_open())
        )

    def complaint(self) -> str | None:
        """Why the node is not well, or None."""
        if not self.queue.is_open():
            return "no room on the disk: nothing is taken"
        if (seconds := time.time() - self._last) > _STUCK_S:
            return f"the worker has not moved for {seconds:.0f} s"
        return None


def serve(figures: Figures, host: str, port: int) -> ThreadingHTTPServer:
    """Serves /healthz and /metrics, which have nothing of a study; returns the server."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _SILENT_S

        def do_GET(self):
            if self.path == "/healthz":
                complaint = figures.complaint()
                self._answer(503 if complaint else 200, "text/plain", f"{complaint or 'ok'}\n")
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, exposition(figures.registry).decode())
            else:
                self._answer(404, "text/plain", "there are /healthz and /metrics\n")

        def _answer(self, code, kind, text):
            content = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

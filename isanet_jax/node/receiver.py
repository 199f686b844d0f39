"""The node's receiver: C-STORE and C-ECHO from the titles that it accepts."""

import ssl
import tempfile
import threading
import time
from pathlib import Path
from socketserver import TCPServer

import pydicom
from pynetdicom import (
    AE,
    ALL_TRANSFER_SYNTAXES,
    AllStoragePresentationContexts,
    _config,
    evt,
)
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from isanet_jax.dicom.series import lenient
from isanet_jax.node.queue import Queue
from isanet_jax.streams import printable

_IMAGES = (CTImageStorage, PositronEmissionTomographyImageStorage, MRImageStorage)
# Images that the node does not read: the sender learns so before it sends them.
_NOT_READ = (
    *(EnhancedCTImageStorage, EnhancedMRImageStorage, EnhancedPETImageStorage),
    *(LegacyConvertedEnhancedCTImageStorage, LegacyConvertedEnhancedMRImageStorage),
    LegacyConvertedEnhancedPETImageStorage,
)
_OUT_OF_RESOURCES, _NOT_UNDERSTOOD, _SUCCESS = 0xA700, 0xC000, 0x0000
_MOST_ASSOCIATIONS, _MOST_CONNECTIONS, _MOST_OF_ONE_ADDRESS = 16, 128, 12
_NOT_KEPT = -1  # taken, for the sender's sake
_OUTCOMES = {
    _SUCCESS: "stored", _NOT_KEPT: "not_kept", _OUT_OF_RESOURCES: "no_room",
    _NOT_UNDERSTOOD: "not_understood",
}  # fmt: skip
_TIMEOUT_S, _HANDSHAKE_S = 60, 10
_SELDOM_S, _MOST_TOLD = 60.0, 1000
_LARGEST_PDU = 2**20  # bytes: of data 16 KiB, as the node asks for; of a request some 100 KiB


class _Server(ThreadedAssociationServer):
    """A server with a thread for each TLS handshake: a slow or silent peer holds up nobody."""

    def verify_request(self, request, client_address):
        """Whether an address may have another connection: one alone keeps nobody out.

        Places are counted by peers whose association was accepted, not by who connects.
        """
        open_ = self.ae.active_associations
        of_address = sum(one.requestor.address == client_address[0] for one in open_)
        accepted = sum(one.is_established for one in open_)
        return accepted < _MOST_ASSOCIATIONS and of_address < _MOST_OF_ONE_ADDRESS

    def get_request(self):
        client, address = self.socket.accept()
        if self.ssl_context:
            client.settimeout(_HANDSHAKE_S)
            client = self.ssl_context.wrap_socket(
                client, server_side=True, do_handshake_on_connect=False
            )
        return client, address

    def finish_request(self, request, client_address):
        if self.ssl_context:
            try:
                request.do_handshake()
            except OSError:  # among them all that TLS refuses
                self.shutdown_request(request)
                return
        # Of a message that has begun, the rest must come: pynetdicom waits for it without end.
        request.settimeout(_HANDSHAKE_S)
        super().finish_request(request, client_address)

    def shutdown(self):
        # pynetdicom's looks for itself among those of AE.start_server, which can start no other.
        TCPServer.shutdown(self)
        self.server_close()


def _bound(connection):
    """Reads no message that is larger than any may be, or that does not come within its time.

    pynetdicom reads as many bytes as a message's head announces, up to 4 GiB, for as long as one
    comes now and then.
    """

    def recv(count):
        if count > _LARGEST_PDU:
            raise OSError(f"a message of {count} bytes")
        data, end = bytearray(), time.monotonic() + _TIMEOUT_S
        while len(data) < count and (part := connection.socket.recv(min(count - len(data), 2**16))):
            data += part
            if time.monotonic() > end:
                raise OSError("a message that does not end")
        return data

    connection.recv = recv


class _Seldom:
    """Says a line once a minute: who asks again and again does not fill the log's disk."""

    def __init__(self, say):
        self._say, self._told = say, {}

    def __call__(self, text):
        now = time.monotonic()
        if now - self._told.get(text, -_SELDOM_S) >= _SELDOM_S:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[text] = now
            self._say(text)


def listen(queue: Queue, address, aet: str, accept, *, tls: ssl.SSLContext | None = None,
           say=None, figures=None):  # fmt: skip
    """Begins to take instances into a queue; returns the server, to be shut down.

    What is larger than memory does not matter: a dataset goes to the disk as it comes. Of a study,
    CT, PET and MR are kept. What else there is of it (structure sets, reports) is taken and not
    kept: senders give up a whole study where something of it is refused.

    Args:
        queue: that gets them.
        address: (host, port).
        aet: the node's title; associations that call another are refused.
        accept: titles of whom it is taken from.
        tls: of the server; None: without.
        say: called with a line for associations that are accepted and refused; None: nothing.
        figures: `isanet_jax.node.figures.Figures` that counts them, and instances; or None.
    """
    say = _Seldom(say or (lambda _: None))

    def count(name, outcome):
        if figures is not None:
            getattr(figures, name).labels(outcome).inc()

    _config.STORE_RECV_CHUNKED_DATASET = True
    tempfile.tempdir = str(queue.temporary)  # of this process: on the queue's disk
    entity = AE(ae_title=aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(accept)
    entity.maximum_associations = _MOST_CONNECTIONS
    entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    entity.acse_timeout = _HANDSHAKE_S  # who connects and says nothing has no place for long
    entity.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        if context.abstract_syntax in _NOT_READ:
            continue
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    keys = {}  # association -> studies of which it has brought something

    def store(event):
        status = take(event)
        count("instances", _OUTCOMES[status])
        return status if status != _NOT_KEPT else _SUCCESS

    def take(event):
        path = Path(event.dataset_path)
        try:
            if event.request.AffectedSOPClassUID not in _IMAGES:
                return _NOT_KEPT
            if not queue.has_room(more=path.stat().st_size):
                return _OUT_OF_RESOURCES
            try:
                with lenient():
                    found = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"])
                study = str(found.StudyInstanceUID)
            except Exception:  # pydicom raises a dozen types on what is damaged
                return _NOT_UNDERSTOOD
            key = queue.add(study, str(event.request.AffectedSOPInstanceUID), path)
            mine = keys.setdefault(event.assoc, set())
            if key not in mine:
                mine.add(key)
                queue.hold(key)
            return _SUCCESS
        except OSError:
            return _OUT_OF_RESOURCES
        finally:
            path.unlink(missing_ok=True)

    def tell(event, outcome):
        other = event.assoc.requestor
        title = printable(str(other.ae_title))
        say(f"association of {title} at {other.address}: {outcome}")
        count("associations", outcome)

    def end(event):
        queue.release(keys.pop(event.assoc, ()))

    handlers = [
        (evt.EVT_CONN_OPEN, lambda event: _bound(event.assoc.dul.socket)),
        (evt.EVT_C_STORE, store),
        (evt.EVT_ACCEPTED, lambda event: tell(event, "accepted")),
        (evt.EVT_REJECTED, lambda event: tell(event, "refused")),
        *((kind, end) for kind in (evt.EVT_RELEASED, evt.EVT_ABORTED, evt.EVT_CONN_CLOSE)),
    ]
    server = entity.make_server(
        address, evt_handlers=handlers, ssl_context=tls, server_class=_Server
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

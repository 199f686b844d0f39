"""The node's mouth: results by C-STORE, or by STOW-RS."""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import NamedTuple

import pydicom
from pynetdicom import AE
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
)

from isanet_jax.errors import ConfigError

_RESULTS = (SegmentationStorage, RTStructureSetStorage, Comprehensive3DSRStorage)
_TIMEOUT_S = 60
_MOST_ANSWER = 2**20  # bytes of an answer that are read
_PENDING = (0xFF00, 0xFF01)
AUTHORIZATION = "ISANET_STOW_AUTHORIZATION"  # a variable: a command line is seen by all
_FAILED, _REASON = "00081198", "00081197"  # Failed SOP Sequence, Failure Reason


class NotSent(Exception):  # noqa: N818 - it is an outcome
    """Why a result was not taken.

    Attributes:
        final: it never will be.
        is_known: the peer has not got it; else it may have.
    """

    def __init__(self, reason: str, *, final=False, is_known=True):
        super().__init__(reason)
        self.final, self.is_known = final, is_known


class Peer(NamedTuple):
    """A DICOM node that results go to.

    Attributes:
        host, port, aet: where it is, and its title.
        own: title that the node calls itself.
        tls: to it; None: without.
    """

    host: str
    port: int
    aet: str
    own: str
    tls: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """By which what was sent to it is noted."""
        return f"{self.host}:{self.port}:{self.aet}"

    def _associate(self, contexts):
        entity = AE(ae_title=self.own)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
        entity.connection_timeout = _TIMEOUT_S
        for uid in contexts:
            entity.add_requested_context(uid)
        tls = (self.tls, self.host) if self.tls else None
        made = entity.associate(self.host, self.port, ae_title=self.aet, tls_args=tls)
        if not made.is_established:
            raise NotSent(f"{self.aet} at {self.host}:{self.port} takes no association")
        return made

    def send(self, path: Path) -> None:
        """Sends an instance. Raises NotSent."""
        made = self._associate(_RESULTS)
        try:
            status = made.send_c_store(str(path))
            code = status.get("Status")
        except (ValueError, RuntimeError) as error:
            raise NotSent(f"{self.aet} does not take {path.name}: {error}", final=True) from error
        finally:
            made.release()
        if code is None:
            raise NotSent(f"{self.aet} ended the association, or did not answer", is_known=False)
        # Success, or one of the warnings with which it is kept.
        if code != 0 and code >> 12 != 0xB:
            raise NotSent(
                f"{self.aet} answers {path.name} with {code:04X}", final=not _is_busy(code)
            )

    def has(self, path: Path) -> bool:
        """Whether it says that it has an instance; False, too, where it does not answer."""
        header = pydicom.dcmread(path, stop_before_pixels=True)
        asked = pydicom.Dataset()
        asked.QueryRetrieveLevel = "IMAGE"
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(asked, name, header.get(name))
        try:
            made = self._associate([StudyRootQueryRetrieveInformationModelFind])
        except NotSent:
            return False
        try:
            model = StudyRootQueryRetrieveInformationModelFind
            found = False
            for status, identifier in made.send_c_find(asked, model):
                if status and status.Status in _PENDING and identifier is not None:
                    found |= identifier.get("SOPInstanceUID") == header.SOPInstanceUID
            return found
        except (ValueError, RuntimeError):
            return False
        finally:
            made.release()


def _is_busy(code):
    """Whether a status says that another time may do: out of resources, a failure of processing,
    or one that is not over.
    """
    return code >> 8 == 0xA7 or code in (0xA900, 0x0110, *_PENDING)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: a POST would become a GET, which succeeds and stores nothing."""

    def redirect_request(self, *_):
        return None


class Web(NamedTuple):
    """A DICOMweb server that results go to: STOW-RS, PS3.18 section 10.5.

    Attributes:
        url: of its studies, as `https://pacs/dicom-web/studies`.
        tls: to it; None: as the system trusts.
    """

    url: str
    tls: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """By which what was sent to it is noted."""
        return self.url

    def check(self) -> None:
        """Raises ConfigError on what is no address of the web, or has a password in it."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"--stow is {self.url!r}; give http:// or https://")
        if "@" in self.url.split("/")[2]:
            raise ConfigError(
                "--stow has a name or password in it, which logs would show; set the environment "
                f'variable {AUTHORIZATION}, as "Basic ..." or "Bearer ..."'
            )

    def _ask(self, url, body=None, **headers):
        """The status and body of the answer. Raises OSError; of what is no HTTP, too."""
        if value := os.environ.get(AUTHORIZATION):
            headers["Authorization"] = value
        headers["Accept"] = "application/dicom+json"
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - see check
        https = urllib.request.HTTPSHandler(context=self.tls)
        opener = urllib.request.build_opener(_Stay, https)
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as answer:
                return answer.status, answer.read(_MOST_ANSWER)
        except http.client.HTTPException as error:  # an answer that is cut short, or none
            raise OSError(f"{type(error).__name__} in its answer") from error

    def send(self, path: Path) -> None:
        """Sends an instance. Raises NotSent."""
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        try:
            status, answer = self._ask(self.url, body, **{"Content-Type": kind})
        except urllib.error.HTTPError as error:
            final = 400 <= error.code < 500 and error.code not in (401, 403, 408, 429)
            reason = f"{self.url} answers {path.name} with {error.code}"
            raise NotSent(reason, final=final) from error
        except OSError as error:
            raise NotSent(f"{self.url} is not reached ({error})", is_known=False) from error
        # An answer of success may name instances that were not stored.
        code = _failure(answer)
        if code is not None:
            raise NotSent(
                f"{self.url} did not store {path.name} ({code:04X})", final=not _is_busy(code)
            )
        if status == 202:  # accepted: with warnings, or not all of it
            raise NotSent(f"{self.url} answers {path.name} with 202", is_known=False)
        # A page to log in at answers with success, too: the instance must be named, or be there.
        uid = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
        if not _names(answer, uid) and not self.has(path):
            raise NotSent(
                f"{self.url} answers {path.name} with {status} and does not say that it is stored",
                is_known=False,
            )

    def has(self, path: Path) -> bool:
        """Whether it says that it has an instance (QIDO-RS)."""
        header = pydicom.dcmread(path, stop_before_pixels=True)
        url = f"{self.url}/{header.StudyInstanceUID}/instances?SOPInstanceUID="
        try:
            _, answer = self._ask(url + header.SOPInstanceUID)
            return _names(answer, header.SOPInstanceUID)
        except OSError:
            return False


def _names(answer, uid):
    """Whether an answer is one of DICOM, as JSON or XML, and has an instance's UID as a value."""

    def values(content):
        if isinstance(content, dict):
            content = list(content.values())
        if isinstance(content, list):
            return any(values(one) for one in content)
        return content == uid

    try:
        return values(json.loads(answer))
    except (ValueError, RecursionError):
        return b"NativeDicomModel" in answer and str(uid).encode() in answer


def _failure(answer):
    """The reason that a STOW-RS answer gives for an instance that was not stored, or None."""
    try:
        content = json.loads(answer)
        content = content[0] if isinstance(content, list) else content
        failed = content.get(_FAILED, {}).get("Value")
        return int(failed[0].get(_REASON, {}).get("Value", [0])[0]) if failed else None
    except (ValueError, AttributeError, LookupError, TypeError):
        return None  # of another kind, or empty: the status counts
